/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/grip.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/proc_status.h"

#define STOP_MS 2000
#define LOOK_NS 2000000L
#define PASSES_MAX 100

struct kin {
        char name[32], state;
        pid_t parent, tracer;
};

static bool read_kin(pid_t pid, struct kin *ret)
{
        AUTO_FREE char *status = NULL;

        if (proc_status_read(pid, &status) < 0)
                return false;
        const char *name = proc_status_value(status, "Name"), *state = proc_status_value(status, "State");
        if (!name || !state)
                return false;
        (void)snprintf(ret->name, sizeof(ret->name), "%.*s", (int)strcspn(name, "\n"), name);
        ret->state = *state;
        ret->parent = (pid_t)proc_status_number(status, "PPid");
        ret->tracer = (pid_t)proc_status_number(status, "TracerPid");
        return true;
}

/*
 * The root is a child of CRIU, or, as a sibling (liblxc), traced by it from its birth; either way until it is let go.
 * The name alone is a hint; that it is parent or tracer of a task in its restorer is what makes it CRIU.
 */
static pid_t restorer_of(pid_t root, bool *ret_traces)
{
        struct kin task, other;

        if (!read_kin(root, &task) || task.state == 'Z' || task.state == 'X')
                return 0;
        *ret_traces = task.tracer > 0;
        const pid_t pid = task.tracer > 0 ? task.tracer : task.parent;
        return pid > 1 && read_kin(pid, &other) && strcmp(other.name, "criu") == 0 ? pid : 0;
}

static bool stands(pid_t pid)
{
        struct kin k;

        return read_kin(pid, &k) && k.state == 'T';
}

static void spare(struct criu_grip *g)
{
        struct kin k;

        for (pid_t pid = g->pid; pid > 1 && g->n_spared < GRIP_SPARED_MAX && read_kin(pid, &k); pid = k.parent)
                g->spared[g->n_spared++] = pid;
}

void criu_grip_take(pid_t root, struct criu_grip *ret)
{
        bool traces = false, again = false;

        *ret = (struct criu_grip)CRIU_GRIP_NONE;
        const pid_t pid = restorer_of(root, &traces);
        if (pid == 0)
                return;
        AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        /* What was opened is what was looked at only if it is still the root's. */
        if (pidfd < 0 || restorer_of(root, &again) != pid ||
            syscall(SYS_pidfd_send_signal, pidfd, SIGSTOP, NULL, 0) < 0)
                return;
        const uint64_t deadline = clock_ms() + STOP_MS;
        while (!stands(pid) && clock_ms() < deadline)
                (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        if (!stands(pid) || restorer_of(root, &traces) != pid)
                return; /* it is about to be killed with the others */
        ret->pid = pid;
        ret->traces = traces;
        ret->pidfd = TAKE_FD(pidfd);
        spare(ret);
}

static bool is_spared(const struct criu_grip *g, pid_t pid)
{
        for (size_t i = 0; i < g->n_spared; i++)
                if (g->spared[i] == pid)
                        return true;
        return false;
}

static int by_number(const void *a, const void *b)
{
        pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

        return (x > y) - (x < y);
}

int criu_grip_kill_tasks(const struct criu_grip *grip, int (*list)(struct pid_list *ret, void *context), void *context)
{
        struct pid_list before = {0};
        bool fresh = true;
        int r = 0;

        for (int pass = 0; r == 0 && fresh; pass++) {
                struct pid_list now = {0};

                r = pass < PASSES_MAX ? list(&now, context) : -EAGAIN;
                if (now.n)
                        qsort(now.pids, now.n, sizeof(*now.pids), by_number);
                fresh = false;
                for (size_t i = 0; i < now.n; i++) {
                        if (is_spared(grip, now.pids[i]))
                                continue;
                        (void)kill(now.pids[i], SIGKILL);
                        fresh |= !before.n ||
                                 !bsearch(&now.pids[i], before.pids, before.n, sizeof(*now.pids), by_number);
                }
                free(before.pids);
                before = now;
        }
        free(before.pids);
        return r;
}

enum criu_hold criu_grip_hold(const struct criu_grip *grip)
{
        if (grip->pidfd < 0 || !stands(grip->pid) || syscall(SYS_pidfd_send_signal, grip->pidfd, 0, NULL, 0) < 0)
                return CRIU_UNHELD;
        return grip->traces ? CRIU_HELD_TRACING : CRIU_HELD;
}

void criu_grip_end(struct criu_grip *grip)
{
        if (grip->pidfd < 0)
                return;
        (void)syscall(SYS_pidfd_send_signal, grip->pidfd, SIGKILL, NULL, 0);
        (void)close(grip->pidfd);
        grip->pidfd = -1;
}
