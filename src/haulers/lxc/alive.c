/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "base/proc_status.h"
#include "criu/grip.h"

#define PUT_DOWN_MS 10000

static bool frozen(const char *name, json_t *cgroups)
{
        AUTO_FREE char *mounts = NULL;
        AUTO_FREE char *freezer = NULL;
        bool v2;

        (void)name;
        if (fd_read_file(AT_FDCWD, "/proc/self/mounts", 1 << 20, &mounts, NULL) < 0 ||
            lxc_freezer_find(mounts, cgroups, &freezer, &v2, NULL) < 0)
                return false;
        return lxc_cgroup_frozen(freezer, v2) != 0;
}

int lxc_alive(struct workload *w, struct error *err)
{
        json_t *answer;

        int r = lxc_tool(3000, &answer, err, "state", w->id, NULL);
        if (r < 0)
                return r;
        bool running = strcmp(json_text(answer, "state"), "running") == 0;
        pid_t pid = (pid_t)json_integer_value(json_object_get(answer, "init_pid"));
        json_decref(answer);
        if (!running || pid <= 0 || !proc_status_runs(pid))
                return 0;

        AUTO_FREE char *path = format_new("/lxc.payload.%s", w->id);
        json_t *cgroups = path ? json_pack("[{ss ss} {ss ss}]", "controllers", "freezer", "path", path, "controllers",
                                           "", "path", path)
                               : NULL;
        if (!cgroups)
                return error_set(err, ENOMEM, "out of memory");
        bool stopped = frozen(w->id, cgroups);
        json_decref(cgroups);
        if (stopped)
                return 0;
        w->init_pid = pid;
        return 1;
}

bool lxc_gone(const struct workload *w)
{
        struct pid_list tasks = {0};

        const int r = lxc_cgroup_tasks(w->id, &tasks);
        free(tasks.pids);
        return r == 0 && tasks.n == 0;
}

static int list_payload(struct pid_list *ret, void *context)
{
        return lxc_cgroup_tasks(context, ret);
}

int lxc_put_down(struct workload *w, const char *images, struct error *err)
{
        struct criu_grip grip = CRIU_GRIP_NONE;
        enum criu_hold hold = CRIU_UNHELD;
        const bool restart = w->options && w->options->mode == MODE_RESTART;

        if (!restart) {
                criu_grip_take(lxc_find_init(w->id), &grip);
                if (criu_grip_kill_tasks(&grip, list_payload, w->id) == 0)
                        hold = criu_grip_hold(&grip);
                criu_grip_end(&grip);
        }
        int r = lxc_cgroup_kill(w->id, PUT_DOWN_MS, err);
        if (r < 0)
                return r;
        if (restart)
                return lxc_start_trace(w, err);
        AUTO_FD int fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? 1 : criu_restore_may_have_resumed(fd, "restore.log", hold);
}
