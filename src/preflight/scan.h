/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cgroup.h"
#include "base/number_set.h"
#include "preflight/findings.h"
#include "preflight/outside.h"

/*
 * What the scanners share. Each reads one family of things; those that parse a text are pure, so that tests can hand
 * them what other machines said.
 */
#define NAMESPACES 9 /* in the order of namespace_names */
#define NAMESPACE_IPC 5
extern const char *const namespace_names[NAMESPACES];

struct task {
        pid_t pid;
        char comm[32];
        char state;
        pid_t tracer;
        unsigned seccomp, threads;
        bool kernel;
};

/* What lies where CRIU looks for a watched inode; see watches.c. */
struct hints {
        struct number_set roots, files;
        size_t seen; /* of all roots together */
};

struct scan {
        struct findings findings;
        size_t n_tasks, n_descriptors;
        uint64_t ghost_limit;
        uint64_t init_ns[NAMESPACES]; /* of the tree's root, inode numbers; 0 where the kernel has none */
        struct number_set mounts;     /* ids of all mounts the tree can see */
        struct number_set unread;     /* inodes of netlink sockets with data to read */
        bool inet_kernel;             /* TCP and UDP sockets do not work with this CRIU and this kernel */
        bool host_ipc;                /* the tree's root has this host's IPC namespace */
        enum { COMPAT_UNKNOWN, COMPAT_CARRIED, COMPAT_NOT } compat; /* programs of 32 bits */
        struct shared_ends shared;                                  /* what others may have, too */
        struct number_set masters;                                  /* numbers of pseudo terminals */
        struct hints hints;
        bool again; /* only what is shared counts */
};
void scan_done(struct scan *s);

/* From the text of /proc/PID/status; -EBADMSG. */
int task_parse(const char *status, struct task *ret);
void task_judge(struct scan *s, const struct task *t);

/* -ESRCH when there is none. */
int task_read(pid_t pid, struct task *ret);

/* The tree of a root as it is at this moment; and as a set. 0 or -ENOMEM. */
int tree_add(struct pid_list *tree, pid_t root);
int tree_set(const struct pid_list *tree, struct number_set *set);

/* Namespaces of a task against those of the root; `inode` has NAMESPACES numbers. */
void namespaces_judge(struct scan *s, const struct task *t, const uint64_t *inode);

/* One open descriptor, by what /proc/PID/fd/N points to; true when that settles it. */
bool descriptor_judge_link(struct scan *s, const struct task *t, int fd, const char *link);

/* A socket, by the name of its protocol in the kernel ("TCP", "MPTCPv6", "UNIX", …) and its inode. */
void socket_judge(struct scan *s, const struct task *t, int fd, const char *protocol, uint64_t inode);

/* Inodes with unread data, from the text of /proc/net/netlink. */
int netlink_unread(const char *text, struct number_set *ret);

/* Ids of mounts, from the text of /proc/PID/mountinfo. */
int mounts_add(const char *mountinfo, struct number_set *set);

/* A line of /proc/PID/maps, by its path ("" for none); true when the file has to be looked at. */
bool mapping_judge(struct scan *s, const struct task *t, const char *path);

/* The same line, when it is mapped shared: remember what others may have mapped as well. 0 or -ENOMEM. */
int mapping_share(struct scan *s, const struct task *t, const char *line, const char *path);

/* A program of 32 bits; `exe` is the path of one. */
void program_judge(struct scan *s, const struct task *t);
bool program_is_compat(const char *exe);

/* A descriptor of inotify or fanotify. */
#define WATCH_HANDLE_MAX 128
struct watch {
        uint64_t device, inode;
        bool whole;            /* the whole file system is watched */
        unsigned handle_bytes; /* 0: it has no handle that could be opened */
        int handle_type;
        unsigned char handle[WATCH_HANDLE_MAX];
};
/* From a line of /proc/PID/fdinfo/N; false when it is no watch on a file or a file system. */
bool watch_parse(const char *line, struct watch *ret);
/* 0 or -ENOMEM. */
int watches_judge(struct scan *s, const struct task *t, int fd);

/* A terminal that is open, by its device numbers; judged when all tasks have been looked at. 0 or -ENOMEM. */
int terminal_note(struct scan *s, const struct task *t, int fd, unsigned major, unsigned minor);
bool terminal_master_index(const char *fdinfo, uint64_t *ret);
void terminals_judge(struct scan *s, struct suspicion *suspicion);

/* Everything behind /proc/PID/fd and /proc/PID/maps of one task. Negative errno; a task that is gone has none. */
int descriptors_scan(struct scan *s, const struct task *t);
int mappings_scan(struct scan *s, const struct task *t);

/* What it shares with those who stay: all others of this host are looked at. 0 or -ENOMEM. */
struct preflight_subject;
int border_scan(struct scan *s, const struct preflight_subject *subject, const struct pid_list *tree);

/* The systemd service around a process, from the text of /proc/PID/cgroup; false when it is in none. */
struct unit {
        char name[256], path[4096]; /* its cgroup */
        bool user;                  /* of the manager of user `uid` */
        uid_t uid;
};
bool unit_find(const char *cgroup, struct unit *ret);

/* From the answer of `systemctl show`: 0 when it knows of no main process. */
pid_t unit_main_pid(const char *shown);
/* `stays`: so much of it is outside of the tree that it does not end with it. */
enum problem unit_judge(const char *shown, bool stays);
void unit_scan(struct scan *s, pid_t root, const struct pid_list *tree);
