/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

/*
 * The processes of this host as a JSON array: {pid, ppid, name, command, user, uid, memory_bytes, started_ms, cgroup,
 * foreign}; `cgroup` as /proc tells it, `foreign` when it lives in another pid namespace than ours. Kernel threads are
 * left out. NULL when out of memory.
 */
json_t *processes_list(const char *proc);

/*
 * Puts each process under the workload (an object with init_pid) whose cgroup it is in, as its "processes"; what
 * remains is returned as a new array. Changes both arguments' objects (drops the members only used for grouping).
 */
json_t *processes_group(json_t *processes, json_t *workloads);
