/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/number_set.h"
#include "preflight/findings.h"

/*
 * What tasks of the workload share with processes that stay: it would end for both, in silence. What the workload has
 * is collected while its tasks are looked at; then every other process of this host is looked at, once, for the same.
 */
enum shared_kind {
        SHARED_PIPE,    /* by inode */
        SHARED_SOCKET,  /* a Unix socket of ours, by inode */
        SHARED_PEER,    /* a Unix socket at the other end of one of ours that is not ours */
        SHARED_FIFO,    /* by device and inode, as what follows */
        SHARED_MEMORY,  /* anonymous, SysV, memfd, or a file in a tmpfs, mapped shared */
        SHARED_WRITTEN, /* a file that is open for writing */
        SHARED_TERMINAL /* the slave of a pseudo terminal, by its number; compared with masters alone */
};

/* One end that a task of ours has. */
struct shared_end {
        enum shared_kind kind;
        uint64_t key;
        pid_t pid;
        int fd; /* -1: mapped */
};

struct shared_ends {
        struct shared_end *ends;
        size_t n, room;
};

/* Device and inode as one number. Of two things one, for all that matters here. */
uint64_t shared_key(uint64_t device, uint64_t inode);

/* Of what a task has mapped; inodes of SysV segments count from 0 in each IPC namespace. */
uint64_t shared_memory_key(pid_t pid, uint64_t device, uint64_t inode, const char *path);

/* 0 or -ENOMEM. */
int shared_add(struct shared_ends *s, enum shared_kind kind, uint64_t key, pid_t pid, int fd);

/*
 * The Unix sockets of the network namespaces of these tasks that are connected to one which is not among the ends:
 * each becomes an end of the kind SHARED_PEER. Visits those namespaces and comes back. 0 or -ENOMEM.
 */
int shared_find_peers(struct shared_ends *s, const pid_t *pids, size_t n);

/*
 * Look at all processes but those of `tree` until `deadline_ms` (clock_ms()), and report what they share. 0 or -ENOMEM.
 */
int shared_scan(struct shared_ends *s, const struct number_set *tree, uint64_t deadline_ms, struct findings *findings);

/*
 * Locks of the tree and of others on the same file, by the text of /proc/locks. `exists` says whether a process that
 * holds one is there: the kernel goes on to name the one that took it.
 */
int locks_judge(const char *text, const struct number_set *tree, bool (*exists)(pid_t pid), struct findings *findings);
