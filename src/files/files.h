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
 * in (the far end of a stream link): no ssh, no rsync port, no shell. What an inode carries survives: owner, mode,
 * modification time, ACLs, extended attributes (trusted.* of overlay upper directories too), hard links, holes of
 * sparse files, devices, fifos, sockets. Not carried: access, change and birth times, chattr flags, project ids.
 * Limit: paths of 4089 bytes below the tree, by rsync's own.
 *
 * Rounds
 *   FULL     compares size and mtime while the workload runs.
 *   FINAL    runs while it is frozen and transfers exactly what changed since a mark, found by ctime: writers that
 *            restore mtimes or write through mmap are caught; what vanished is deleted.
 *   CHANGED  the same as FINAL while the workload runs: a second round that costs only what changed.
 *
 * Marks: take one before every round, and give each FINAL or CHANGED the one taken before the round that preceded it.
 * If a second FULL is run, FINAL needs the mark taken before the first one: FULL itself overlooks a writer that keeps
 * size and mtime. So FULL, CHANGED, CHANGED, …, FINAL is the sequence that is both exact and cheap.
 *
 * Processes: each job is one group of processes (session leader: phaul-tree) confined to the tree and /usr by a mount
 * namespace of its own, without network; see room.h.
 */
enum files_round { FILES_FULL, FILES_FINAL, FILES_CHANGED };

/*
 * Taken before a round starts: everything that changes later has a younger ctime. files_mark_take() reads the clock and
 * then writes the file system's dirty pages back (that order matters), so that a later store through an old shared
 * mapping faults and gives a new ctime. Blocks for as long as the write-back takes.
 */
struct files_mark {
        struct timespec change;          /* file-system time, CLOCK_REALTIME_COARSE minus a margin; 0: everything is
                                            taken as changed and compared by checksum (network file systems, whose
                                            ctime is another machine's) */
        int64_t wall_minus_monotonic_ns; /* a clock that is stepped back voids the mark */
};
int files_mark_take(const char *path, struct files_mark *ret, struct error *err);

struct files_result {           /* zeroes on the receiver */
        uint64_t files;         /* regular files transferred */
        uint64_t deleted;       /* names removed; with FINAL a directory and all below it count as one */
        uint64_t bytes_sent;    /* on the wire */
        uint64_t bytes_changed; /* literal data of files */
        bool mark_was_void;     /* the clock was stepped back since the mark: every file was compared by checksum */
};

/*
 * `err` is NULL on success. Called once, from the loop; may free the job. code is ENOSPC or EDQUOT when the receiver's
 * disk is full (known on the receiver; the sender may only see the stream end).
 */
struct files_job;
typedef void (*files_done_fn)(struct files_job *job, const struct files_result *result, const struct error *err,
                              void *context);

struct files_send_options {
        const char *path; /* tree to send (its contents; mounts below it are not followed) */
        enum files_round round;
        struct files_mark since;   /* FINAL, CHANGED */
        const char *const *also;   /* FINAL, CHANGED: as of files_send_also(); may be NULL */
        uint64_t bytes_per_second; /* 0: no cap; rounded up to 1024 */
};

/*
 * Sender. `stream_fd` is a stream socket, taken over (also on failure). With FINAL, start it before the freeze:
 * processes and confinement are set up then, and files_send_go() (once, when the tasks are stopped) does the rest. FULL
 * and CHANGED need no go.
 */
int files_send(struct loop *loop, const struct files_send_options *options, int stream_fd, files_done_fn done,
               void *context, struct files_job **ret, struct error *err);
int files_send_go(struct files_job *job);

/*
 * FINAL, before go: relative paths to send whatever their ctime says (see files_mapped_shared(), which is best called
 * when the tasks are stopped). Replaces what was given before. NULL-terminated. At most 1 MiB of names (-E2BIG).
 */
int files_send_also(struct files_job *job, const char *const *also);

/* Bytes this end has put on the wire so far; for the sender (0 on the receiver). May be called from any thread. */
uint64_t files_job_bytes(const struct files_job *job);

/*
 * Receiver: the matching `rsync --server` into `path` (which exists). Its arguments are ours alone; nothing of them
 * comes from the peer. `round` must be the sender's. What it writes is not yet durable: files_sync().
 */
int files_receive(struct loop *loop, const char *path, enum files_round round, int stream_fd, files_done_fn done,
                  void *context, struct files_job **ret, struct error *err);

/* Kills what still runs. */
void files_job_free(struct files_job *job);
DEFINE_CLEANUP(struct files_job, files_job_free)

/* Size of a tree: allocated bytes and inodes (hard links count once), not crossing mounts. */
int files_measure(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err);

/* Free bytes and inodes for root under `path`; UINT64_MAX inodes where the file system makes them as needed. */
int files_room(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err);

/* Make durable what was received (syncfs of the file system that holds `path`). Blocking. */
int files_sync(const char *path, struct error *err);

/*
 * Paths below `root` (as the tasks see their root) that the tasks have mapped shared and writable, on file systems not
 * known to give a new ctime for such stores; for `also`. A task that is gone is skipped. *ret is NULL-terminated, free
 * it with files_paths_free().
 */
int files_mapped_shared(const int *pids, size_t n_pids, const char *root, char ***ret, struct error *err);
void files_paths_free(char **paths);
DEFINE_CLEANUP(char *, files_paths_free)

/*
 * Is a directory of one host the same as one of another? Write a probe into it here; take it there, which proves by a
 * secret that it is that one and removes it; and see here, by files_probe_end() (1: it was still there and is removed
 * now, 0: it is gone), that what is done there is seen here. Names are hexadecimal, and nothing else is opened.
 */
struct files_probe {
        char name[33], secret[33];
};
int files_probe_write(const char *path, struct files_probe *ret, struct error *err);
int files_probe_take(const char *path, const struct files_probe *probe, struct error *err);
int files_probe_end(const char *path, const struct files_probe *probe, struct error *err);
