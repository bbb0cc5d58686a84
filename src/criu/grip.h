/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/cgroup.h"
#include "criu/criu.h"

/*
 * A CRIU that is restoring, made to stand still while its tasks are killed. Between "Unlock network" and "pre-resume"
 * only its ptrace holds them: were it killed first, or at the same time, they would run for a moment. Stopped, it goes
 * on holding them, and lets nobody else go; what it had not done by then it never did.
 */
#define GRIP_SPARED_MAX 16

struct criu_grip {
        int pidfd;   /* -1: there is no such CRIU, or it could not be stopped */
        bool traces; /* root was traced by it when it stood still: CRIU lets go of the root first */
        pid_t pid;
        pid_t spared[GRIP_SPARED_MAX]; /* it and its ancestors: when they die, the kernel may let it go on */
        size_t n_spared;
};
#define CRIU_GRIP_NONE                                                                                                 \
        {                                                                                                              \
                .pidfd = -1                                                                                            \
        }

/* Find the CRIU that restores the tree of `root` and stop it (SIGSTOP); blocks for up to two seconds. */
void criu_grip_take(pid_t root, struct criu_grip *ret);

/*
 * SIGKILL all that `list` names (it is called until it names nobody new) but those spared. Nobody is waited for:
 * whoever has SIGKILL pending executes nothing any more. Also works without a grip. Negative errno.
 */
int criu_grip_kill_tasks(const struct criu_grip *grip, int (*list)(struct pid_list *ret, void *context), void *context);

/* Whether it stands where it stood, and how the tasks were held by that. */
enum criu_hold criu_grip_hold(const struct criu_grip *grip);

/* Kill it. Repeatable. */
void criu_grip_end(struct criu_grip *grip);
