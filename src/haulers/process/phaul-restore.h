/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "criu/criu.h"

/* What a process stays behind for, as parent of the tree. */
struct keep {
        bool terminal;   /* leader of a new session with a new terminal: a shell job */
        pid_t first_pid; /* process 1 of a new pid namespace, in which CRIU's own pids begin here; 0: the host's */
};

/* criu restores the tree as a child of the keeper. Returns its exit status, to be ours, as soon as there is one. */
int restore_kept(const struct criu_restore_options *options, const struct keep *keep);
