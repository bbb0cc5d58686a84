/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

/*
 * One `criu swrk` process over its RPC socketpair. One object, one dump; driven by the loop, one thread.
 * Source of the protocol: CRIU's images/rpc.proto; the subset used here is written down in rpc.proto of this folder.
 */
struct criu;

struct criu_cgroup_root {
        const char *controllers; /* "freezer", "cpu,cpuacct", "name=systemd"; NULL for cgroup v2 */
        const char *path;        /* as the tasks' cgroup namespace parent sees it, "/lxc.payload.web" */
};

struct criu_external_mount {
        const char *key, *value;
};

/* Everything borrowed until criu_dump() returns. */
struct criu_dump_options {
        const char *program;    /* NULL: "criu" in SPAWN_PATH */
        pid_t pid;              /* root of the tree, in the pid namespace that criu is in */
        pid_t within;           /* criu enters the pid and the mount namespace of this process, for a tree that has its
                                 * own: dumped from outside it would have to be whole, its process 1 included. images_fd
                                 * and work_fd must be one then, and CRIU 4.0. 0: ours */
        int images_fd, work_fd; /* directories; may be the same */
        const char *log_file;   /* name within work_fd */
        int page_server_fd;     /* connected stream socket the pages go to; -1: page images in images_fd. The caller
                                 * closes its copy after criu_dump(), so that its own end sees criu go */
        int clean_pages_fd;     /* clean_pages_fd(): what may be left out of the dump; -1: nothing */
        int late_pages_fd;      /* the same of what goes to the target after the dump (clean_pages.h); -1: nothing */
        const struct criu_cgroup_root *cgroup_roots;
        size_t n_cgroup_roots;
        const struct criu_external_mount *mounts;
        size_t n_mounts;
        const char *const *external;  /* NULL-terminated, may be NULL */
        const char *const *enable_fs; /* NULL-terminated, may be NULL */
        bool tcp_established, tcp_skip_in_flight, file_locks, link_remap, force_irmap, shell_job;
        bool external_mounts_auto, external_sharing, external_masters, manage_cgroups_full, orphan_pts_master;
        bool ignore_cgroups;    /* nothing about cgroups is dumped: whoever restores places the tasks */
        bool tcp_close;         /* established connections are not kept */
        bool skip_network_lock; /* the caller holds a lock of its own (CRIU 3.19); else CRIU's default */
        bool verbose;           /* debug messages in the log, too */
        uint32_t ghost_limit;   /* bytes; 0: CRIU's default of 1 MiB */
        uint32_t timeout_s;     /* CRIU's own limit for seizing; 0: default */
};

struct criu_handlers {
        /*
         * CRIU waits at `point` ("pre-dump", "network-lock", "query-ext-files", "post-dump", "network-unlock", …) until
         * criu_proceed(). The handler may call it at once or later.
         */
        void (*notify)(struct criu *criu, const char *point, void *context);
        /*
         * The end, also when criu died: err->kind ERROR_NONE on success, else with CRIU's own error lines. Last
         * callback, after the process is gone: CRIU touches no task any more. A failure after a yes at post-dump says
         * nothing about whether the tasks still live; look at them.
         */
        void (*done)(struct criu *criu, const struct error *err, void *context);
};

/* Returns once criu was started and told; the rest is callbacks. CRIU reads no configuration file. */
int criu_dump(struct loop *loop, const struct criu_dump_options *options, const struct criu_handlers *handlers,
              void *context, struct criu **ret, struct error *err);

/*
 * Answer the notification CRIU waits in. ok=false makes the dump fail (at any point: the tasks are let go).
 * -EALREADY when none waits, -ENOTCONN or -EPIPE when criu is gone (done() follows).
 */
int criu_proceed(struct criu *criu, bool ok);

pid_t criu_pid(const struct criu *criu);

/*
 * Make it give up, kindly: CRIU finds at its next notification that nobody listens, cures the tasks and lets them go;
 * done() comes as ever, with ERROR_CANCELLED. To have that soon while memory is being dumped, free the page server too.
 * After a yes at post-dump it does nothing, for the dump is then through.
 *
 * There is no unkind way on purpose: a task whose criu is killed while its code runs in one of the task's threads dies
 * of SIGTRAP (measured with CRIU 4.2: 5 of 72 kills at random times hit a process with threads).
 */
void criu_cancel(struct criu *criu);

/*
 * criu_cancel() when it still runs, then waits for the end, blocking for up to 30 s before it kills. NULL is fine; also
 * from within the callbacks. done() is not called: whoever must know the outcome cancels and waits for it.
 */
void criu_free(struct criu *criu);
DEFINE_CLEANUP(struct criu, criu_free)

/* Where CRIU looks for whoever gives restored tasks their memory later: a listening stream socket in the directory of
 * the images, its working directory. When it is there, memory is restored lazily. */
#define CRIU_LAZY_SOCKET "lazy-pages.socket"

/* To be loaded into CRIU then, where the tasks get a user namespace of their own: in PHAUL_LIBEXECDIR. */
#define CRIU_LAZY_LIBRARY "lazy-within.so"

/*
 * Become `criu restore`: for a small program of its own, since what is restored inherits from it. When criu ends, its
 * exit status says whether the tree runs; the root of the tree is then an orphan of criu's parent's reaper. Returns
 * only when criu cannot be executed. Cgroups are the caller's: the tasks are born in those of the calling process.
 */
struct criu_restore_options {
        const char *images;   /* absolute; the log goes there as well */
        const char *log_file; /* name within it */
        const char *action_script;
        const char *root; /* of the mount namespace that is in the images; NULL: ours, or there is none */
        bool tcp_established, tcp_close, shell_job;
};
int criu_restore_exec(const struct criu_restore_options *options, struct error *err);

/*
 * Is CRIU usable with this kernel? Runs `criu --version` and `criu check` (blocking, at most 20 s). ERROR_REFUSED with
 * criu's own lines when not. ret_version: "4.2.1", room for 32.
 */
int criu_usable(char ret_version[static 32], struct error *err);

/*
 * The last error lines ("Error (file:line): …", at most 8) of a CRIU log, at most `size` - 1 bytes, timestamps removed,
 * UTF-8 without control characters. Returns their number, or a negative errno.
 */
int criu_log_errors(int dir_fd, const char *file, char *ret, size_t size);

/*
 * Whether a restore that failed may have let a task execute an instruction, by its log (of level 3 or more), by what
 * its action script noted in the same directory (stage.h), and by what CRIU did when its tasks were killed:
 */
enum criu_hold {
        CRIU_UNHELD,       /* it had died, or was killed with them */
        CRIU_HELD,         /* it stood still (grip.h) */
        CRIU_HELD_TRACING, /* it stood still and traced the root */
};
/* 0: certainly not. 1: it may, or that cannot be found out. */
int criu_restore_may_have_resumed(int dir_fd, const char *file, enum criu_hold hold);
