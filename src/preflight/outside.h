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
        SHARED_PIPE,     /* by inode */
        SHARED_SOCKET,   /* a Unix socket of ours, by inode */
        SHARED_PEER,     /* a Unix socket at the other end of one of ours that is not ours */
        SHARED_FIFO,     /* by device and inode, as what follows */
        SHARED_MEMORY,   /* anonymous, SysV, memfd, or a file in a tmpfs, mapped shared */
        SHARED_WRITTEN,  /* a file that is open for writing */
        SHARED_TERMINAL, /* the slave of a pseudo terminal, by its number; compared with masters alone */
        SHARED_LOCK,     /* a file that is locked, by its name in /proc/locks; never an end */
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

/* A tree of tasks as it was listed; who was born since belongs to it, too. */
struct border {
        pid_t root;
        const struct number_set *tree;
};
enum border_side { BORDER_INSIDE, BORDER_OUTSIDE, BORDER_GONE };
typedef enum border_side (*border_where_fn)(const struct border *border, pid_t pid);
enum border_side border_where(const struct border *border, pid_t pid);

/* What one look finds; told is what the look before it has found as well. */
struct suspicion {
        const struct number_set *before; /* NULL: it is the first */
        struct number_set now;           /* of all that it finds */
        struct findings *findings;
        int failure;
};
bool suspicion_holds(struct suspicion *s, enum shared_kind kind, uint64_t key);

/*
 * Look at all processes outside until `deadline_ms` (clock_ms()), and note what they share. 0 or -ENOMEM.
 */
int shared_scan(struct shared_ends *s, const struct border *border, uint64_t deadline_ms, struct suspicion *suspicion);

/*
 * Locks of an open file (flock(2), F_OFD_SETLK) belong to whoever has it open: of the first the kernel names the
 * process that took it, which may have ended since and left it to its children, ours or others; of the second nobody.
 * Who has them is in /proc/PID/fdinfo. Who waits for one of the second kind cannot be found.
 */
#define LOCK_FILE_SIZE 64 /* "00:2d:5678" */
struct lock_holder {
        pid_t pid;
        char file[LOCK_FILE_SIZE];
};
struct lock_holders {
        struct lock_holder *holders;
        size_t n, room;
        size_t unseen; /* processes that there was no time for */
};
void lock_holders_done(struct lock_holders *h);

/* Those of all processes of this host, if the text of /proc/locks has one of which it does not say whose it is. */
int lock_holders_find(struct lock_holders *h, const char *text, uint64_t deadline_ms);
/* By the text of one /proc/PID/fdinfo/N. Both 0 or -ENOMEM. */
int lock_holders_add(struct lock_holders *h, pid_t pid, const char *fdinfo);

/* Locks of the tree and of others on the same file, by the text of /proc/locks and by who was found beside it. */
int locks_judge(const char *text, const struct lock_holders *holders, const struct border *border,
                border_where_fn where, struct suspicion *suspicion);
