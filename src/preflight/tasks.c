/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
