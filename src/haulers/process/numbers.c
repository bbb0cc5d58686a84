/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/proc_status.h"

#define DEPTH_MAX 33 /* of pid namespaces, in Linux: the first and 32 below it */

/* The number in the innermost namespace. */
static int last_number(const char *status, const char *key, pid_t *ret, unsigned *ret_depth)
{
        pid_t numbers[DEPTH_MAX];

        int n = proc_status_pids(status, key, numbers, DEPTH_MAX);
        if (n < 0)
                return n;
        *ret = numbers[n - 1];
        *ret_depth = (unsigned)n - 1;
        return 0;
}

int process_numbers_read(pid_t pid, struct process_numbers *ret)
{
        AUTO_FREE char *status = NULL;
        struct process_numbers numbers;
        unsigned depth;

        int r = proc_status_read(pid, &status);
        if (r == 0)
                r = last_number(status, "NSpid", &numbers.pid, &numbers.depth);
        if (r == 0)
                r = last_number(status, "NSpgid", &numbers.group, &depth);
        if (r == 0)
                r = last_number(status, "NSsid", &numbers.session, &depth);
        if (r == 0)
                *ret = numbers;
        return r;
}

int process_set_inner(const struct process_set *from, struct process_set *ret)
{
        struct pid_list list = {0};
        int r = 0;

        for (size_t i = 0; r == 0 && i < from->n; i++) {
                struct process_numbers numbers;
                if (process_numbers_read(from->pids[i], &numbers) == 0)
                        r = pid_list_add(&list, numbers.pid);
        }
        if (r < 0) {
                free(list.pids);
                return r;
        }
        process_set_make(list.pids, list.n, ret);
        return 0;
}
