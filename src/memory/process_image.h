/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Which page image (criu/page_server.h) the memory of a process goes to: CRIU knows it by the pid that it has in the
 * pid namespace of the workload's first process.
 */

/* How deep that namespace lies below ours. Negative errno, -ESRCH when there is no such process. */
int process_image_depth(pid_t root, size_t *ret);

/* -ESRCH also for one that is not in the namespace of that depth: it is no part of the workload. */
int process_image_find(pid_t pid, size_t depth, uint64_t *ret);
