/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * The freezer of a cgroup, version 1 (freezer.state) or 2 (cgroup.freeze). It outlives CRIU and us: tasks stay frozen
 * whoever dies. Works on the whole subtree.
 */
int freezer_freeze(const char *directory, bool v2, struct error *err);
int freezer_thaw(const char *directory, bool v2, struct error *err);

/* Pids of all tasks (thread group leaders) in the subtree; caller frees *ret. */
int freezer_pids(const char *directory, pid_t **ret, size_t *ret_n, struct error *err);

/* SIGKILL to all of them; they die when thawed. Repeats until a pass finds no task that was not hit yet. */
int freezer_kill(const char *directory, struct error *err);
