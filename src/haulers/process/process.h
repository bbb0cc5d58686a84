/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/name.h"
#include "haulers/hauler.h"
#include "network/flows.h"

/*
 * What the files of this folder share. A process tree is a process and all its descendants, named by the pid of its
 * root ("pid/1234"), which it keeps on the target: pids are part of what is restored.
 *
 * On the source the tree is put into a child cgroup of the one it is in for the time of the dump ("DIR/phaul-PID-
 * STARTED"), because a freezer holds a whole cgroup. It never leaves the one it is in: systemd would see its unit end.
 * The same for its CPU limit, if it is slowed down (cpu.c).
 *
 * On the target it gets a cgroup of its own, "phaul/pid-PID-TOKEN" below the root of the freezer's hierarchy. That is
 * how it is found, watched and, when it did not get through, killed. The token keeps a discard from ever hitting
 * another tree of the same pid.
 *
 * With --new-pid-namespace it gets a pid namespace there, in which all its pids are free, and a mount namespace with a
 * /proc that fits (keeper.c). What is dumped and restored are always the numbers that the tree itself sees: CRIU runs
 * in the namespace, on the target as well as on a source that such a tree has come to. The host has others for it
 * (numbers.c); "the pid" of a workload is the host's.
 */
#define PROCESS_HOME "phaul"
#define PROCESS_TASKS_MAX 65536
#define PROCESS_DESCRIPTION_MAX (90U * 1024) /* of the 96 KiB that the wire allows */

/* A number of processes as a set. `pids` is sorted, each once. */
struct process_set {
        pid_t *pids;
        size_t n;
};

/* See files.h. */
struct process_file;
struct process_files {
        struct process_file *files;
        size_t n, room;
};

struct process_findings {
        hauler_report_fn report;
        void *context;
        unsigned errors;
};

#define PROCESS_COPIES_MAX 100

struct process_private {
        json_t *info;               /* the description, parsed */
        pid_t pid;                  /* of the root as the tree itself sees it, and so in CRIU's images */
        struct process_files files; /* that it uses */
        const struct process_file *copies[PROCESS_COPIES_MAX]; /* those of them that are to be brought */
        size_t n_copies;
        struct network_flow *flows; /* its connections, from when they are locked on */
        size_t n_flows;
        bool expected;             /* this process has locked them, on the target */
        char token[ID_LENGTH + 1]; /* names the tree on the target; made on the source, with the description */
};

/* ----------------------------------------------------------------------------------------------------------- tree.c */

struct process_task {
        pid_t pid, parent, group, session;
        char state;
        bool kernel;      /* a kernel thread */
        bool exiting;     /* its first thread is about to end, or has ended */
        int terminal;     /* device of the controlling terminal, 0 for none */
        uint64_t started; /* ticks since boot; pid and this name a process for good */
};

/* -ESRCH when there is none. */
int process_task_read(pid_t pid, struct process_task *ret);
/* Also one that is gone. Version 1 of the cgroups shows such a task in the root of each hierarchy, wherever it was. */
bool process_task_exits(pid_t pid);

void process_set_done(struct process_set *set);
bool process_set_has(const struct process_set *set, pid_t pid);

/* Root and descendants as they are at this moment; `tids` (may be NULL) gets their threads, leaders included. */
int process_tree(pid_t root, struct process_set *ret, struct process_set *ret_tids, struct error *err);

/* Keeps of `pids` the root and those whose parents lead to it within them; `*n` becomes their number. -ENOMEM. */
int process_keep_descendants(pid_t *pids, size_t *n, pid_t root);

/* "17,20-25": a set as text and back. Caller frees *ret. -EBADMSG for a text that is none, or of too many. */
int process_set_print(const struct process_set *set, char **ret);
int process_set_parse(const char *text, struct process_set *ret);

/* Sorts and removes what is there twice; takes the memory of `pids` over. */
void process_set_make(pid_t *pids, size_t n, struct process_set *ret);

/* Its numbers as the innermost pid namespace it is in has them; `depth` counts the namespaces below ours, 0 for none.
 */
struct process_numbers {
        pid_t pid, group, session;
        unsigned depth;
};
int process_numbers_read(pid_t pid, struct process_numbers *ret);

/* The same set in those numbers. Those that have just ended are left out. */
int process_set_inner(const struct process_set *from, struct process_set *ret);

/* The number in the name of a workload; 0 when it is not one as the kernel writes it. */
pid_t process_id(const char *id);

/* --------------------------------------------------------------------------------------------------------- cgroup.c */

/* The cgroup of a process whose freezer we use, absolute: version 1's where it is mounted, else version 2's. */
int process_cgroup_of(pid_t pid, char **ret, bool *ret_v2, struct error *err);
/* The same of another controller than the freezer. */
int process_cgroup_with(const char *controller, pid_t pid, char **ret, bool *ret_v2, struct error *err);

/*
 * Put root and all its descendants from `from` into `to`, made if need be. What they fork meanwhile is born in the
 * cgroup of its parent, so it goes on until a look at the tree finds nobody left behind.
 */
int process_cgroup_enter(pid_t root, const char *to, struct error *err);

/* All tasks of `from` go to `to`; `from` is removed. Nothing there is success. */
int process_cgroup_leave(const char *from, const char *to, struct error *err);

/* Tasks of `from` that are no longer of the tree of `root` (their parents died meanwhile) go to `to`: `ret`. */
int process_cgroup_evict(pid_t root, const char *from, const char *to, struct process_set *ret, struct error *err);

/* Target: the cgroup of a tree; caller frees. `token` NULL: the directory that holds all of them. */
int process_home(pid_t pid, const char *token, char **ret, bool *ret_v2, struct error *err);

/* Remove those in which no task lives any more; at any time, also when one is about to be entered. */
void process_home_sweep(void);

/* `cgroup`, if it is one of them, has lost its tree; a keeper (keeper.c) is in it for a moment longer. */
void process_home_vacate(const char *cgroup);

/* Kill all that is in a cgroup, frozen or not, and remove it. Nothing there is success. */
int process_cgroup_kill(const char *directory, bool v2, int timeout_ms, struct error *err);

/* Whether tasks of the cgroup stand still by its freezer. */
bool process_cgroup_frozen(const char *directory, bool v2);

/* ------------------------------------------------------------------------------------------------------------ cpu.c */

/* Notes in a description what will be needed to limit its CPU time, and to undo that. 0, or -1 without memory. */
int process_cpu_describe(pid_t pid, const char *cgroup, bool v2, json_t *info);

/* Before the tree enters the cgroup that it is frozen in: version 2's is to have a CPU limit, if that is possible. */
void process_cpu_hand_out(const json_t *info);
/* The opposite, before any of it leaves that cgroup, `freezer`. Repeatable. */
void process_cpu_take_back(const json_t *info, const char *freezer);

/* Version 1: nobody is in a cgroup for its CPU limit any more. Repeatable. */
int process_cpu_leave(const json_t *info, struct error *err);

/* -------------------------------------------------------------------------------------------------------- pidfile.c */

/* Target, --dst-pidfile: may it be there? Finding "pidfile"; "" is none. And written, when the tree runs. */
void process_pidfile_verify(const char *path, struct process_findings *f);
int process_pidfile_check(const char *path, struct error *err);
int process_pidfile_write(const char *path, pid_t pid, struct error *err);

/* ----------------------------------------------------------------------------------------------------------- tool.c */

/* The addresses of a description, separated by spaces; NULL without memory. Caller frees. */
char *process_addresses(const json_t *description);

void process_say(struct process_findings *f, const char *item, enum grade grade, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/* ------------------------------------------------------------------------------------------------------ the hooks */

extern const struct hauler process_hauler;

int process_list(json_t **ret, struct error *err);
int process_examine(const char *id, struct workload *w, hauler_report_fn report, void *context, struct error *err);
int process_gather(struct workload *w, struct error *err);
int process_limit(struct workload *w, struct error *err);
int process_dumped(struct workload *w, pid_t *pids, size_t *n, struct error *err);
int process_dump_options(struct workload *w, struct criu_dump_options *options, struct error *err);
int process_frozen(struct workload *w, int images_fd, hauler_report_fn report, void *context, struct error *err);
int process_disarm(struct workload *w, struct error *err);
int process_rearm(struct workload *w, struct error *err);
int process_release(struct workload *w, const char *released, struct error *err);

int process_verify(const char *id, const char *description, struct workload *w, hauler_report_fn report, void *context,
                   struct error *err);
int process_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err);
int process_restore(struct loop *loop, struct workload *w, const char *images, const char *hold_socket,
                    const char *record, const struct hauler_restore_handlers *handlers, void *context,
                    struct hauler_restore **ret, struct error *err);
int process_publish(struct workload *w, struct error *err);
int process_restore_verdict(struct hauler_restore *r, bool ok);
int process_alive(struct workload *w, struct error *err);
bool process_gone(const struct workload *w);
int process_put_down(struct workload *w, const char *images, struct error *err);
int process_arrived(struct workload *w, struct error *err);
int process_keep(const char *what, const char *name, struct error *err);
int process_discard(const char *what, const char *name, struct error *err);
void process_restore_free(struct hauler_restore *r);
void process_done(struct workload *w);
