/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"

/* PF_KTHREAD and PF_EXITING in the flags of /proc/PID/stat. */
#define KERNEL_THREAD 0x00200000U
#define EXITING 0x00000004U

pid_t process_id(const char *id)
{
        char *end;

        if (id[0] < '1' || id[0] > '9' || strlen(id) > 10)
                return 0;
        long pid = strtol(id, &end, 10);
        return *end == '\0' && pid <= INT_MAX ? (pid_t)pid : 0;
}

int process_task_read(pid_t pid, struct process_task *ret)
{
        AUTO_FREE char *text = NULL;
        char path[64];
        int parent, group, session, terminal;
        unsigned flags;
        unsigned long long started;
        char state;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        int r = fd_read_file(AT_FDCWD, path, 4096, &text, NULL);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;
        /* The name may contain anything, also ')'. */
        const char *rest = strrchr(text, ')');
        if (!rest || sscanf(rest + 1, " %c %d %d %d %d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                            &state, &parent, &group, &session, &terminal, &flags, &started) != 7)
                return -EBADMSG;
        *ret = (struct process_task){.pid = pid,
                                     .parent = parent,
                                     .group = group,
                                     .session = session,
                                     .state = state,
                                     .kernel = flags & KERNEL_THREAD,
                                     .exiting = flags & EXITING,
                                     .terminal = terminal,
                                     .started = started};
        return 0;
}

bool process_task_exits(pid_t pid)
{
        struct process_task task;

        return process_task_read(pid, &task) < 0 || task.exiting;
}

/* ------------------------------------------------------------------------------------------------------------- sets */

void process_set_done(struct process_set *set)
{
        free(set->pids);
        *set = (struct process_set){0};
}

static int by_number(const void *a, const void *b)
{
        pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

        return (x > y) - (x < y);
}

bool process_set_has(const struct process_set *set, pid_t pid)
{
        return set->n && bsearch(&pid, set->pids, set->n, sizeof(pid), by_number);
}

void process_set_make(pid_t *pids, size_t n, struct process_set *ret)
{
        size_t used = 0;

        if (n)
                qsort(pids, n, sizeof(*pids), by_number);
        for (size_t i = 0; i < n; i++)
                if (used == 0 || pids[i] != pids[used - 1])
                        pids[used++] = pids[i];
        *ret = (struct process_set){.pids = pids, .n = used};
}

int process_set_print(const struct process_set *set, char **ret)
{
        char *text = NULL;
        size_t size = 0;

        FILE *f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        for (size_t i = 0, k; i < set->n; i = k) {
                for (k = i + 1; k < set->n && set->pids[k] == set->pids[k - 1] + 1;)
                        k++;
                (void)fprintf(f, "%s%d", i ? "," : "", (int)set->pids[i]);
                if (k - i > 1)
                        (void)fprintf(f, "-%d", (int)set->pids[k - 1]);
        }
        if (fclose(f) != 0) {
                free(text);
                return -ENOMEM;
        }
        *ret = text;
        return 0;
}

int process_set_parse(const char *text, struct process_set *ret)
{
        struct pid_list list = {0};
        const char *p = text;
        int r = 0;

        while (r == 0 && *p) {
                char *end;
                long first = isdigit((unsigned char)*p) ? strtol(p, &end, 10) : 0, last = first;
                if (first > 0 && *end == '-' && isdigit((unsigned char)end[1]))
                        last = strtol(end + 1, &end, 10);
                if (first <= 0 || last < first || last > INT_MAX || last - first >= PROCESS_TASKS_MAX ||
                    list.n + (size_t)(last - first) >= PROCESS_TASKS_MAX || (*end && (*end != ',' || !end[1])))
                        r = -EBADMSG;
                for (long pid = first; r == 0 && pid <= last; pid++)
                        r = pid_list_add(&list, (pid_t)pid);
                if (r == 0)
                        p = end + (*end == ',');
        }
        if (r < 0) {
                free(list.pids);
                return r;
        }
        process_set_make(list.pids, list.n, ret);
        return 0;
}

/* ------------------------------------------------------------------------------------------------------------- tree */

/* Threads of one process, and what each of them has forked. One that is gone has none. */
static int add_threads(pid_t pid, struct pid_list *tids, struct pid_list *children)
{
        char path[64];
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        for (struct dirent *e; dir && r == 0 && (e = readdir(dir));) {
                if (!isdigit((unsigned char)e->d_name[0]))
                        continue;
                char file[300];
                (void)snprintf(file, sizeof(file), "%s/children", e->d_name);
                r = pid_list_add(tids, (pid_t)strtol(e->d_name, NULL, 10));
                if (r == 0)
                        r = pid_list_add_file(children, dirfd(dir), file);
        }
        return r;
}

int process_tree(pid_t root, struct process_set *ret, struct process_set *ret_tids, struct error *err)
{
        struct pid_list tasks = {0}, tids = {0};

        int r = pid_list_add(&tasks, root);
        for (size_t i = 0; r == 0 && i < tasks.n; i++) {
                r = add_threads(tasks.pids[i], &tids, &tasks);
                if (tasks.n > PROCESS_TASKS_MAX || tids.n > PROCESS_TASKS_MAX)
                        r = -E2BIG;
        }
        if (r < 0) {
                free(tasks.pids);
                free(tids.pids);
                return error_errno(err, -r, "cannot walk the tree of process %d", (int)root);
        }
        process_set_make(tasks.pids, tasks.n, ret);
        if (ret_tids)
                process_set_make(tids.pids, tids.n, ret_tids);
        else
                free(tids.pids);
        return 0;
}

/* ------------------------------------------------------------------------------------------------------ descendants */

struct member {
        pid_t pid, parent;
        bool in_tree;
};

static int by_pid(const void *a, const void *b)
{
        return by_number(&((const struct member *)a)->pid, &((const struct member *)b)->pid);
}

/* Up to the root, to one that is known to belong to it, or out of the list. */
static bool leads_to(const struct member *members, size_t n, const struct member *from, pid_t root)
{
        const struct member *m = from;

        for (size_t steps = 0; m && steps <= n; steps++) {
                if (m->pid == root || m->in_tree)
                        return true;
                m = bsearch(&(struct member){.pid = m->parent}, members, n, sizeof(*members), by_pid);
        }
        return false;
}

int process_keep_descendants(pid_t *pids, size_t *n, pid_t root)
{
        AUTO_FREE struct member *members = calloc(*n + 1, sizeof(*members));
        size_t kept = 0;

        if (!members)
                return -ENOMEM;
        for (size_t i = 0; i < *n; i++) {
                struct process_task task;
                members[i].pid = pids[i];
                if (process_task_read(pids[i], &task) == 0)
                        members[i].parent = task.parent;
        }
        qsort(members, *n, sizeof(*members), by_pid);
        for (size_t i = 0; i < *n; i++) {
                members[i].in_tree = leads_to(members, *n, &members[i], root);
                if (members[i].in_tree)
                        pids[kept++] = members[i].pid;
        }
        *n = kept;
        return 0;
}
