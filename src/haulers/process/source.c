/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"
#include "haulers/process/copy.h"
#include "haulers/process/orphans.h"
#include "haulers/process/root.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/format.h"
#include "base/json_text.h"

#define END_MS 10000
#define GHOST_LIMIT (256U << 20) /* bytes of a deleted file that is still open */

/* What a later process of the migration still knows: the description. Its paths are this host's own words. */
struct place {
        json_t *info;
        char *freezer;
};

static void place_done(struct place *place)
{
        json_decref(place->info);
        free(place->freezer);
}

static int find_place(const struct workload *w, struct place *ret, struct error *err)
{
        ret->info = w->description ? json_loads(w->description, 0, NULL) : NULL;
        if (!ret->info)
                return error_set(err, EINVAL, "nothing is known of the process tree '%s'", w->id);
        ret->freezer = format_new("%s/phaul-%d-%llu", json_text(ret->info, "cgroup"),
                                  (int)json_integer_value(json_object_get(ret->info, "host_pid")),
                                  (unsigned long long)json_integer_value(json_object_get(ret->info, "started")));
        return ret->freezer ? 0 : error_set(err, ENOMEM, "out of memory");
}

int process_gather(struct workload *w, struct error *err)
{
        const struct process_private *p = w->private_data;

        if (w->options->diverge == DIVERGE_THROTTLE)
                process_cpu_hand_out(p->info);
        return process_cgroup_enter(w->init_pid, w->freezer, err);
}

/* Orphans of the tree are in its cgroup until it is frozen, but CRIU dumps the descendants of its root. */
int process_dumped(struct workload *w, pid_t *pids, size_t *n, struct error *err)
{
        return process_keep_descendants(pids, n, w->init_pid) < 0 ? error_set(err, ENOMEM, "out of memory") : 0;
}

int process_dump_options(struct workload *w, struct criu_dump_options *options, struct error *err)
{
        const struct process_private *p = w->private_data;
        struct process_task root;

        int r = process_task_read(w->init_pid, &root);
        if (r < 0 || root.started != (uint64_t)json_integer_value(json_object_get(p->info, "started")))
                return error_set_kind(err, ERROR_NOT_FOUND, ESRCH, "process %d has ended", (int)w->init_pid);
        r = process_copies_save(w, options->images_fd, false, err);
        if (r == 0)
                r = process_gather(w, err);
        if (r < 0)
                return r;
        options->pid = p->pid;
        options->within = (pid_t)json_integer_value(json_object_get(p->info, "within"));
        options->tcp_established = !w->options->tcp_close;
        options->tcp_close = w->options->tcp_close;
        options->shell_job = w->options->shell_job;
        options->file_locks = true;
        options->ghost_limit = GHOST_LIMIT;
        /* It stays in the cgroup it is in, which CRIU could not know: on the target it gets one of its own. */
        options->ignore_cgroups = true;
        return 0;
}

int process_frozen(struct workload *w, int images_fd, hauler_report_fn report, void *context, struct error *err)
{
        const struct process_private *p = w->private_data;

        /* They were not dumped, so they are not to be killed. */
        process_cpu_take_back(p->info, w->freezer);
        int r = process_orphans_evict(w, report, context, err);
        if (r == 0 && !w->options->tcp_close)
                r = process_connections_save(w, images_fd, err);
        return r < 0 ? r : process_copies_save(w, images_fd, true, err);
}

/* Nobody starts a process by its pid. */
int process_disarm(struct workload *w, struct error *err)
{
        (void)w;
        (void)err;
        return 0;
}

/* Whoever has not locked in this process cannot know whether an earlier one did. */
static int unlock(const struct workload *w, const struct place *place, struct error *err)
{
        const struct process_private *p = w->private_data;
        char mark[32];

        if (p && p->n_flows == 0)
                return 0;
        (void)snprintf(mark, sizeof(mark), "%lld",
                       (long long)json_integer_value(json_object_get(place->info, "started")));
        return process_connections_unlock((pid_t)json_integer_value(json_object_get(place->info, "host_pid")), mark,
                                          err);
}

int process_rearm(struct workload *w, struct error *err)
{
        CLEANUP(place_done) struct place place = {0};

        if (!w->description)
                return 0; /* not even looked at */
        int r = find_place(w, &place, err);
        if (r < 0)
                return r;
        process_cpu_take_back(place.info, place.freezer);
        int left = process_cpu_leave(place.info, err);
        r = process_cgroup_leave(place.freezer, json_text(place.info, "cgroup"), left == 0 ? err : NULL);
        r = r < 0 ? r : left;
        int unlocked = unlock(w, &place, r == 0 ? err : NULL);
        return r < 0 ? r : unlocked;
}

int process_release(struct workload *w, const char *released, struct error *err)
{
        CLEANUP(place_done) struct place place = {0};

        int r = find_place(w, &place, err);
        if (r == 0)
                process_cpu_take_back(place.info, place.freezer);
        if (r == 0)
                r = process_cgroup_kill(place.freezer, json_is_true(json_object_get(place.info, "v2")), END_MS, err);
        if (r == 0)
                r = process_cpu_leave(place.info, err);
        if (r == 0)
                r = unlock(w, &place, err);
        if (r == 0 && w->options->pid_root[0] && w->options->files != MOVE_SHARED)
                r = process_root_release(w->options->pid_root, released, err);
        /* It may have come here by a migration, and then had a cgroup of its own. */
        if (r == 0)
                process_home_vacate(json_text(place.info, "cgroup"));
        return r;
}
