/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Start another program: no shell, nothing inherited but what is listed. The child gets default signal handling, an
 * empty signal mask, a clean environment (PATH, HOME, LANG, for a `user` USER and LOGNAME, plus `env`), and the
 * descriptors 0-2 and `fds`; all others are closed.
 */
struct spawn_fd {
        int fd;     /* ours */
        int target; /* its number in the child; 0..2 or above. Targets must be distinct. */
};

/* Whom the child becomes before it runs anything: all of its groups, its home as HOME and as working directory. */
struct spawn_user {
        uid_t uid;
        gid_t gid;
        gid_t groups[64];
        size_t n_groups;
        char name[64], home[256];
};

/* As the password and group databases have it; ERROR_NOT_FOUND when there is no such user. */
int spawn_user_find(uid_t uid, struct spawn_user *ret, struct error *err);

struct spawn_options {
        const char *const *argv; /* NULL-terminated; argv[0] is searched in SPAWN_PATH unless it holds a slash */
        const char *const *env;  /* NULL-terminated "NAME=value", may be NULL */
        const struct spawn_fd *fds;
        size_t n_fds;                  /* descriptors not listed among 0-2 are /dev/null */
        bool new_session;              /* setsid(): the child survives the signals of our terminal */
        bool die_with_parent;          /* SIGKILL when the thread that spawned it dies */
        bool keep_from_oom;            /* oom_score_adj -1000, where allowed (a criu that holds a workload) */
        bool merge_stderr;             /* descriptor 2 is a copy of the child's 1 */
        const struct spawn_user *user; /* NULL: as who we are */
        pid_t within; /* the child is in the pid and the mount namespace of this process, 0: in ours. The pid namespace
                         must be below ours. Not with die_with_parent: a parent outside is not seen */
};

#define SPAWN_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Most descriptors one child may get. */
#define SPAWN_FDS_MAX 16

/*
 * Start it. *ret_pid is the child (reap it!), *ret_pidfd a close-on-exec pidfd the caller owns. A program that cannot
 * be executed is reported here, not as a strange exit code.
 */
int spawn(const struct spawn_options *options, pid_t *ret_pid, int *ret_pidfd, struct error *err);

/*
 * Run to the end and collect up to `limit` bytes of standard output (NUL-terminated, caller frees) within `timeout_ms`;
 * a child that takes longer is killed (-ETIMEDOUT). Output beyond `limit` is dropped. Returns the exit code, 128 + n
 * for signal n, or a negative errno. Blocks: not for use in an event loop that holds a frozen workload.
 */
int spawn_capture(const struct spawn_options *options, int timeout_ms, size_t limit, char **ret_output,
                  struct error *err);
