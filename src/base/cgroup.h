/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* Control groups of either version: the tasks of a subtree, and what is done with a whole subtree. */

/* Pids without order, hardly ever one twice; `pids` is freed by its owner. Begins as {0}. */
struct pid_list {
        pid_t *pids;
        size_t n, room;
};

/* 0, or -ENOMEM; also for more than a million. */
int pid_list_add(struct pid_list *list, pid_t pid);

/* Those in a file such as cgroup.procs or children. One that is gone, or cannot have any, has none. */
int pid_list_add_file(struct pid_list *list, int dir_fd, const char *file);

/* All tasks (thread group leaders) of the subtree. A directory that is not there has none. Negative errno. */
int cgroup_add_tasks(struct pid_list *list, const char *directory);

/* Remove the directory and all below it; they must be empty of tasks (-EBUSY). One that is not there is removed. */
int cgroup_remove(const char *directory);

/* Write to a control file of the directory. Negative errno. */
int cgroup_write(const char *directory, const char *file, const char *text);
