/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/proc_status.h"
#include "preflight/scan.h"

const char *const namespace_names[NAMESPACES] = {
        "mnt", "net", "pid", "user", "uts", "ipc", "cgroup", "time", "time_for_children"};
#define NAMESPACES_NESTABLE 2 /* mnt and net: CRIU's CLONE_SUBNS */

int task_parse(const char *status, struct task *ret)
{
        const char *name = proc_status_value(status, "Name"), *state = proc_status_value(status, "State");

        if (!name || !state || !proc_status_value(status, "Pid"))
                return -EBADMSG;
        *ret = (struct task){.pid = (pid_t)proc_status_number(status, "Pid"),
                             .state = *state,
                             .tracer = (pid_t)proc_status_number(status, "TracerPid"),
                             .seccomp = (unsigned)proc_status_number(status, "Seccomp"),
                             .threads = (unsigned)proc_status_number(status, "Threads"),
                             .kernel = proc_status_number(status, "Kthread") == 1};
        (void)snprintf(ret->comm, sizeof(ret->comm), "%.*s", (int)strcspn(name, "\n"), name);
        return 0;
}

int task_read(pid_t pid, struct task *ret)
{
        AUTO_FREE char *text = NULL;

        int r = proc_status_read(pid, &text);
        return r < 0 ? r : task_parse(text, ret);
}

/* A child that is born, or whose parent ends, while this is read may be missed: border_where() knows it. */
int tree_add(struct pid_list *tree, pid_t root)
{
        int r = pid_list_add(tree, root);

        for (size_t i = 0; r == 0 && i < tree->n; i++) {
                struct dirent *entry;
                char path[300];
                (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)tree->pids[i]);
                AUTO_DIR DIR *threads = opendir(path);
                while (threads && r == 0 && (entry = readdir(threads))) {
                        if (!isdigit((unsigned char)entry->d_name[0]))
                                continue;
                        (void)snprintf(path, sizeof(path), "%s/children", entry->d_name);
                        r = pid_list_add_file(tree, dirfd(threads), path);
                }
        }
        return r;
}

int tree_set(const struct pid_list *list, struct number_set *set)
{
        for (size_t i = 0; i < list->n; i++)
                if (number_set_add(set, (uint64_t)list->pids[i]) < 0)
                        return -ENOMEM;
        number_set_sort(set);
        return 0;
}

void task_judge(struct scan *s, const struct task *t)
{
        if (t->tracer)
                findings_note(&s->findings, PROBLEM_TRACED, "process %d (%s), by process %d", (int)t->pid, t->comm,
                              (int)t->tracer);
        if (t->state == 'D')
                findings_note(&s->findings, PROBLEM_UNINTERRUPTIBLE, "process %d (%s)", (int)t->pid, t->comm);
        if (t->state == 'Z' && t->threads > 1)
                findings_note(&s->findings, PROBLEM_DEAD_LEADER, "process %d (%s)", (int)t->pid, t->comm);
        if (t->seccomp == 1)
                findings_note(&s->findings, PROBLEM_SECCOMP_STRICT, "process %d (%s)", (int)t->pid, t->comm);
}

void namespaces_judge(struct scan *s, const struct task *t, const uint64_t *inode)
{
        for (size_t i = NAMESPACES_NESTABLE; i < NAMESPACES; i++)
                if (inode[i] && s->init_ns[i] && inode[i] != s->init_ns[i])
                        findings_note(&s->findings, PROBLEM_NAMESPACE, "process %d (%s) in a %s namespace", (int)t->pid,
                                      t->comm, namespace_names[i]);
}
