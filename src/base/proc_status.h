/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What the kernel says of a process in /proc/PID/status: lines of "Key:\tvalue" (proc_pid_status(5)). */

/* The whole text; caller frees *ret. -ESRCH when there is no such process. */
int proc_status_read(pid_t pid, char **ret);

/* The value of a key, up to the end of its line; within `status`. NULL when there is no such line. */
const char *proc_status_value(const char *status, const char *key);

/* A decimal value, 0 when there is none. */
uint64_t proc_status_number(const char *status, const char *key);

/*
 * The numbers of a key such as "NSpid": one for each pid namespace from that of this /proc inwards; 0 for a group or
 * session of outside. How many, at most `max`; -EBADMSG when there is none.
 */
int proc_status_pids(const char *status, const char *key, pid_t *ret, size_t max);

/* Whether it runs: not stopped, traced or dead. What CRIU left in its restorer is traced or stopped for ever. */
bool proc_status_runs(pid_t pid);
