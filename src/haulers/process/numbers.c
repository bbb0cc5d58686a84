/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"

/* "\nNSpid:\t1234\t17": a number per namespace, ours first. Kernels without pid namespaces have no such line. */
static int last_number(const char *status, const char *key, pid_t *ret, unsigned *ret_depth)
{
        const char *at = strstr(status, key);
        unsigned n = 0;

        if (!at)
                return -EBADMSG;
        at += strlen(key);
        while (*at == '\t') {
                char *end;
                *ret = (pid_t)strtol(at + 1, &end, 10);
                if (end == at + 1)
                        return -EBADMSG;
                at = end;
                n++;
        }
        if (n == 0)
                return -EBADMSG;
        if (ret_depth)
                *ret_depth = n - 1;
        return 0;
}

int process_numbers_read(pid_t pid, struct process_numbers *ret)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        int r = fd_read_file(AT_FDCWD, path, 65536, &text, NULL);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;
        struct process_numbers numbers;
        r = last_number(text, "\nNSpid:", &numbers.pid, &numbers.depth);
        if (r == 0)
                r = last_number(text, "\nNSpgid:", &numbers.group, NULL);
        if (r == 0)
                r = last_number(text, "\nNSsid:", &numbers.session, NULL);
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
