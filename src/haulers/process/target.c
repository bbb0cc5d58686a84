/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"
#include "haulers/process/copy.h"
#include "haulers/process/root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/proc_status.h"
#include "criu/grip.h"
#include "network/network.h"

#define KILL_MS 10000

int process_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err)
{
        const struct process_private *p = w->private_data;
        AUTO_FREE char *home = NULL;
        bool v2;

        process_home_sweep();
        int r = process_home(p->pid, p->token, &home, &v2, err);
        if (r < 0)
                return r;
        /* Before it is on the list: whatever bears the token of another would be killed with ours. */
        if (access(home, F_OK) == 0)
                return error_set_kind(err, ERROR_REFUSED, EBUSY, "this process tree is here already, in %s", home);
        AUTO_FREE char *name = format_new("%d#%s", (int)p->pid, p->token);
        if (!name)
                return error_set(err, ENOMEM, "out of memory");
        r = process_root_prepare(w, leftover, context, err);
        if (r == 0)
                r = process_copies_announce(w, leftover, context, err);
        if (r == 0 && !w->options->tcp_close)
                r = leftover("lock", name, context, err);
        return r < 0 ? r : leftover("cgroup", name, context, err);
}

/* As CRIU itself has it, the network is open before sockets leave their repair mode; they then ask the other end. */
int process_publish(struct workload *w, struct error *err)
{
        const struct process_private *p = w->private_data;

        /* Who has not locked in this process cannot know whether an earlier one did. */
        return p->n_flows || (!p->expected && !w->options->tcp_close)
                       ? process_connections_unlock(p->pid, p->token, err)
                       : 0;
}

int process_alive(struct workload *w, struct error *err)
{
        const struct process_private *p = w->private_data;
        AUTO_FREE char *home = NULL, *cgroup = NULL;
        bool v2;

        int r = process_home(p->pid, p->token, &home, &v2, err);
        if (r < 0)
                return r;
        if (process_cgroup_of(w->init_pid, &cgroup, &v2, NULL) < 0 || strcmp(cgroup, home) != 0)
                return 0;
        return proc_status_runs(w->init_pid) && !process_cgroup_frozen(home, v2);
}

bool process_gone(const struct workload *w)
{
        const struct process_private *p = w->private_data;
        struct pid_list tasks = {0};
        AUTO_FREE char *home = NULL;
        bool v2;

        if (process_home(p->pid, p->token, &home, &v2, NULL) < 0)
                return false;
        const int r = cgroup_add_tasks(&tasks, home);
        free(tasks.pids);
        return r == 0 && tasks.n == 0;
}

static int list_home(struct pid_list *ret, void *context)
{
        return cgroup_add_tasks(ret, context);
}

/* Sockets that end now, on a host that may still have their address, tell nobody: the source goes on with them. */
static void silence(const char *home)
{
        struct pid_list tasks = {0};

        if (cgroup_add_tasks(&tasks, home) == 0)
                (void)network_repair_on(tasks.pids, tasks.n, NULL);
        free(tasks.pids);
}

int process_put_down(struct workload *w, const char *images, struct error *err)
{
        const struct process_private *p = w->private_data;
        struct criu_grip grip = CRIU_GRIP_NONE;
        enum criu_hold hold = CRIU_UNHELD;
        AUTO_FREE char *home = NULL;
        bool v2;

        int r = process_home(p->pid, p->token, &home, &v2, err);
        if (r == 0) {
                criu_grip_take(w->init_pid, &grip);
                if (criu_grip_hold(&grip) != CRIU_UNHELD)
                        silence(home);
                if (criu_grip_kill_tasks(&grip, list_home, home) == 0)
                        hold = criu_grip_hold(&grip);
                criu_grip_end(&grip);
                r = process_cgroup_kill(home, v2, KILL_MS, err);
        }
        if (r < 0)
                return r;
        AUTO_FD int fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? 1 : criu_restore_may_have_resumed(fd, "restore.log", hold);
}

/* "PID#TOKEN" */
static int take_apart(const char *name, pid_t *ret_pid, char ret_token[static ID_LENGTH + 1], struct error *err)
{
        AUTO_FREE char *text = strdup(name);
        char *hash = text ? strchr(text, '#') : NULL;

        if (!hash || !id_is_valid(hash + 1))
                return error_set(err, EINVAL, "'%.256s' is not a leftover of ours", name);
        *hash = '\0';
        *ret_pid = process_id(text);
        memcpy(ret_token, hash + 1, ID_LENGTH + 1);
        return *ret_pid > 1 ? 0 : error_set(err, EINVAL, "'%.256s' is not a leftover of ours", name);
}

static int discard_lock(const char *name, struct error *err)
{
        char token[ID_LENGTH + 1];
        pid_t pid;

        int r = take_apart(name, &pid, token, err);
        return r < 0 ? r : process_connections_unlock(pid, token, err);
}

static int discard_cgroup(const char *name, struct error *err)
{
        AUTO_FREE char *home = NULL;
        char token[ID_LENGTH + 1];
        pid_t pid;
        bool v2;

        int r = take_apart(name, &pid, token, err);
        if (r == 0)
                r = process_home(pid, token, &home, &v2, err);
        if (r == 0)
                r = process_cgroup_kill(home, v2, KILL_MS, err);
        process_home_sweep();
        return r;
}

int process_discard(const char *what, const char *name, struct error *err)
{
        if (strcmp(what, "cgroup") == 0)
                return discard_cgroup(name, err);
        if (strcmp(what, "lock") == 0)
                return discard_lock(name, err);
        if (strcmp(what, "file") == 0 || strcmp(what, "path") == 0)
                return process_copies_discard(what, name, err);
        if (strcmp(what, "root") == 0)
                return process_root_discard(name, err);
        return error_set(err, EINVAL, "'%.64s' is nothing that a process tree leaves", what);
}

int process_keep(const char *what, const char *name, struct error *err)
{
        if (strcmp(what, "file") == 0)
                return process_copies_keep(name, err);
        if (strcmp(what, "root") == 0)
                return process_root_keep(name, err);
        return strcmp(what, "lock") == 0 ? discard_lock(name, err) : 0;
}

int process_arrived(struct workload *w, struct error *err)
{
        return w->options->dst_pidfile[0] ? process_pidfile_write(w->options->dst_pidfile, w->init_pid, err) : 0;
}
