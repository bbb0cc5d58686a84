/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "session/peer.h"
#include "source/source.h"

/*
 * Restart mode: what takes the place of the freeze. To the handover "frozen" is "stopped, and nobody but us can start
 * it": its definition is away (disarmed) from before the stop on. Two records tell a later process where we were:
 *
 *      STOPPING   from here on it has to be started again, unless COMMIT comes
 *      STOPPED    nothing of it lives; whatever runs under its name later was started by us
 */
#define STOP_MARGIN_MS 60000
#define START_TIMEOUT_MS 120000
#define ALIVE_TIMEOUT_MS 5000

struct change {
        bool ended, orderly;
        struct error error;
};

static void changed(bool orderly, const struct error *err, void *context)
{
        struct change *c = context;

        c->ended = true;
        c->orderly = orderly;
        c->error = *err;
}

static bool change_ended(void *context)
{
        const struct change *c = context;

        return c->ended;
}

static int note(struct session *s, const char *record, struct error *err)
{
        return journal_append(s->journal, record, NULL, err);
}

/* What was asked of it is not taken back: an interruption is told when it is down, and a rollback then starts it. */
static int stop_it(struct source_side *x, enum session_wait_mode mode, struct error *err)
{
        struct session *s = x->session;
        const uint64_t limit = s->request.options.stop_timeout_s ?: MIGRATION_STOP_TIMEOUT_S, since = clock_ms();
        struct hauler_change *job = NULL;
        struct change c = {0};

        int r = s->hauler->stop(s->loop, &s->workload, (unsigned)limit, changed, &c, &job, err);
        if (r < 0)
                return r;
        const uint64_t wait_ms = limit * 1000 + STOP_MARGIN_MS;
        const int interrupted = session_wait(s, mode, change_ended, &c, wait_ms, "stopping", err);
        struct error late = {0};
        r = session_wait(s, WAIT_THROUGH, change_ended, &c, wait_ms, "stopping", &late);
        s->hauler->change_free(job);
        if (r < 0)
                *err = late;
        else if (c.error.kind != ERROR_NONE) {
                *err = c.error;
                r = error_wrap(err, "stopping %s/%s", s->request.kind, s->request.name);
        }
        if (r < 0)
                return r;
        if (c.orderly)
                session_log(s, "info", "%s/%s shut down by itself in %llu ms", s->request.kind, s->request.name,
                            (unsigned long long)(clock_ms() - since));
        else
                session_log(s, "warning", "%s/%s did not shut down by itself within %llu s and was killed",
                            s->request.kind, s->request.name, (unsigned long long)limit);
        x->stopped = true;
        r = note(s, "STOPPED", interrupted ? &late : err);
        return interrupted ?: r;
}

int source_stop(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        session_phase(s, "stop");
        int r = source_files_arm(x, err);
        if (r == 0 && s->cancel_requested)
                r = error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        if (r < 0)
                return r;
        if (s->workload.init_pid) {
                r = note(s, "STOPPING", err);
                if (r < 0)
                        return r;
                x->stopping = true;
                migration_report_frozen(s->report, clock_ms());
        }
        r = s->hauler->disarm(&s->workload, err);
        if (r == 0 && x->stopping)
                r = stop_it(x, WAIT_INTERRUPTIBLE, err);
        /* Up to here anybody could start it, and that is not undone without having been asked for. */
        else if (r == 0 && s->hauler->alive(&s->workload, err) != 0)
                r = error_set(err, EBUSY, "%s/%s was stopped, but has been started meanwhile", s->request.kind,
                              s->request.name);
        if (r == 0)
                r = session_step(s, EVENT_FROZEN, NULL, NULL, err);
        if (r < 0)
                return r;

        session_phase(s, "state");
        r = source_files_last(x, err);
        return r < 0 ? r : peer_send_simple(s, MSG_STATE_END, err);
}

static bool seen_alive(void *context)
{
        struct session *s = context;

        return s->hauler->alive(&s->workload, NULL) > 0;
}

static int start_it(struct session *s, struct error *err)
{
        struct hauler_change *job = NULL;
        struct change c = {0};

        int r = s->hauler->start(s->loop, &s->workload, changed, &c, &job, err);
        if (r == 0)
                r = session_wait(s, WAIT_THROUGH, change_ended, &c, START_TIMEOUT_MS, "starting it again", err);
        s->hauler->change_free(job);
        if (r == 0 && c.error.kind != ERROR_NONE)
                *err = c.error;
        /* What counts is whether it runs; another process of ours may have been at it, too. */
        struct error none = {0};
        if (session_wait(s, WAIT_THROUGH, seen_alive, s, ALIVE_TIMEOUT_MS, "the start", &none) < 0)
                return err->kind != ERROR_NONE ? -err->code : (*err = none, -none.code);
        error_clear(err);
        return 0;
}

int source_start_again(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        struct error inner = {0};

        /* Asked to go down, it may be on its way: it is helped to the end, or it would go down after our start. */
        if (!x->stopped && stop_it(x, WAIT_THROUGH, &inner) < 0)
                session_log(s, "error", "%s", inner.text);
        int r = s->hauler->rearm(&s->workload, err);
        if (r == 0)
                r = start_it(s, err);
        if (r < 0)
                return r;
        session_log(s, "info", "%s/%s was started again here", s->request.kind, s->request.name);
        return 0;
}
