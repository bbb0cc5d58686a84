/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

/*
 * Movers of file systems. `tree` copies a directory in rounds with rsync, whose protocol runs over a descriptor we hand
 * in (the far end of a stream link): no ssh, no rsync port, no shell. Everything an inode has survives: owner, mode,
 * times, ACLs, extended attributes (trusted.* of overlay upper directories too), hard links, sparse files, devices.
 *
 * Rounds: FULL compares size and mtime while the workload runs. FINAL runs while it is frozen and transfers exactly
 * what changed since the mark taken before the previous round, found by ctime: writers that restore mtimes or write
 * through mmap are caught; what vanished is deleted.
 */
enum files_round { FILES_FULL, FILES_FINAL };

/*
 * Taken before a round starts: everything that changes later has a younger ctime. files_mark_take() writes the file
 * system's dirty pages back first, so that a later store through an old shared mapping faults and gives a new ctime.
 */
struct files_mark {
        struct timespec change;          /* file-system time, CLOCK_REALTIME_COARSE minus a margin */
        int64_t wall_minus_monotonic_ns; /* a clock that is stepped back voids the mark */
};
int files_mark_take(const char *path, struct files_mark *ret, struct error *err);

struct files_result {
        uint64_t files; /* transferred */
        uint64_t deleted;
        uint64_t bytes_sent;    /* on the wire */
        uint64_t bytes_changed; /* literal data of files */
};

struct files_job;
typedef void (*files_done_fn)(struct files_job *job, const struct files_result *result, const struct error *err,
                              void *context);

struct files_send_options {
        const char *path; /* tree to send (its contents) */
        enum files_round round;
        struct files_mark since;   /* FINAL */
        const char *const *also;   /* FINAL: relative paths to send whatever their ctime says (files mapped shared and
                                      writable on a tmpfs, which never changes ctime); NULL-terminated, may be NULL */
        uint64_t bytes_per_second; /* 0: no cap */
};

/*
 * Sender. `stream_fd` is a stream socket, taken over. With FINAL, start it before the freeze: everything up to the
 * handshake is done then, and files_send_go() (once, when the tasks are stopped) does the rest. FULL needs no go.
 */
int files_send(struct loop *loop, const struct files_send_options *options, int stream_fd, files_done_fn done,
               void *context, struct files_job **ret, struct error *err);
int files_send_go(struct files_job *job);

/*
 * Receiver: the matching `rsync --server` into `path` (which exists). Its arguments are ours alone; nothing of them
 * comes from the peer. Confined with chroot and a mount namespace to `path`.
 */
int files_receive(struct loop *loop, const char *path, enum files_round round, int stream_fd, files_done_fn done,
                  void *context, struct files_job **ret, struct error *err);

/* Kills what still runs. */
void files_job_free(struct files_job *job);
DEFINE_CLEANUP(struct files_job, files_job_free)

/* Size of a tree: allocated bytes and inodes, not crossing file systems. */
int files_measure(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err);

/* Free bytes and inodes for root under `path`. */
int files_room(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err);

/* Make durable what was received (syncfs of the file system that holds `path`). Blocking. */
int files_sync(const char *path, struct error *err);

/* Paths below `root` (as the tasks see their root) that the tasks have mapped shared and writable; for `also`. */
int files_mapped_shared(const int *pids, size_t n_pids, const char *root, char ***ret, struct error *err);
