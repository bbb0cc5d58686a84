/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "session/hooks.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

#define CRIU_END_MS 15000

static bool criu_gone(void *context)
{
        const struct source_side *x = context;

        return x->criu_ended;
}

/* CRIU undoes what it did when it is refused; what one that died left undone is mended by the caller. */
static void end_dump(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        x->aborting = true;
        if (x->criu && !x->criu_ended) {
                if (x->criu_at_end) {
                        /* Thawed they are still held by ptrace; CRIU could not let go of frozen tasks on cgroup v1. */
                        if (freezer_thaw(s->workload.freezer, s->workload.freezer_v2, &err) < 0)
                                session_log(s, "error", "%s", err.text);
                        (void)criu_proceed(x->criu, false);
                } else {
                        criu_cancel(x->criu);
                }
                page_server_free(TAKE_PTR(x->pages));
                if (session_wait(s, WAIT_THROUGH, criu_gone, x, CRIU_END_MS, "waiting for criu to undo its work",
                                 &err) < 0)
                        session_log(s, "error", "%s", err.text);
        }
        criu_free(TAKE_PTR(x->criu));
        page_server_free(TAKE_PTR(x->pages));
}

/* TCP repair mode that a dead CRIU left on would swallow what the workload writes. */
static void repair_off(struct session *s)
{
        AUTO_FREE pid_t *pids = NULL;
        struct error err = {0};
        size_t n;

        int r = freezer_pids(s->workload.freezer, &pids, &n, &err);
        if (r == 0)
                r = network_repair_off(pids, n, &err);
        if (r < 0)
                session_log(s, "error", "%s", err.text);
        else if (r > 0)
                session_log(s, "warning", "took %d connections out of TCP repair mode", r);
}

static void network_back(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        for (size_t i = 0; i < x->n_ports; i++)
                if (network_unlock(&x->ports[i], &err) < 0)
                        session_log(s, "error", "%s", err.text);
        if (x->n_ports > 0 && network_announce(s->workload.init_pid, &err) < 0)
                session_log(s, "warning", "%s", err.text);
        if (s->workload.init_pid)
                session_hooks(s, NETWORK_STAYED);
}

/* Whoever dumps may kill; asked before the hauler puts the tasks back to where they were. */
static bool tasks_live(const struct session *s)
{
        AUTO_FREE pid_t *pids = NULL;
        size_t n = 0;

        return freezer_pids(s->workload.freezer, &pids, &n, NULL) == 0 && n > 0;
}

void source_rollback(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        session_phase(s, "rollback");
        for (size_t i = 0; i < SOURCE_TREES_MAX; i++)
                files_job_free(TAKE_PTR(x->trees[i].job));
        if (x->in_rounds && !x->frozen_since_us && freezer_thaw(s->workload.freezer, s->workload.freezer_v2, &err) < 0)
                session_log(s, "error", "%s", err.text);
        if (x->throttle && throttle_lift(x->throttle, &err) < 0)
                session_log(s, "error", "%s", err.text);
        if (x->frozen_since_us) {
                end_dump(x);
                repair_off(s);
                if (freezer_thaw(s->workload.freezer, s->workload.freezer_v2, &err) < 0)
                        session_log(s, "error", "%s", err.text);
                x->survived = tasks_live(s);
                network_back(x);
        }
        if (x->stopping && source_start_again(x, &err) < 0) {
                x->not_started = true;
                session_log(s, "error", "%s", err.text);
        }
        if (x->stopping && !x->not_started)
                session_hooks(s, NETWORK_STAYED);
        if (s->workload.id && s->hauler->rearm(&s->workload, &err) < 0)
                session_log(s, "error", "%s", err.text);
        precopy_free(TAKE_PTR(x->precopy));
        image_sender_free(TAKE_PTR(x->sender));
        peer_bulk_close(s);
        x->bulk = NULL;
        if (session_images_remove(s, &err) < 0)
                session_log(s, "warning", "%s", err.text);
}
