/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/source.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "session/peer.h"
#include "source/freezer.h"

static void side_done(struct source_side *x)
{
        for (size_t i = 0; i < SOURCE_TREES_MAX; i++)
                files_job_free(x->trees[i].job);
        criu_free(x->criu);
        page_server_free(x->pages);
        precopy_free(x->precopy);
        throttle_free(x->throttle);
        clean_pages_free(x->clean_pages);
        clean_pages_free(x->late_pages);
        page_giver_free(x->giver);
        late_memory_free(x->late);
        image_sender_free(x->sender);
        if (x->images_fd >= 0)
                (void)close(x->images_fd);
        free(x->ports);
}

/* What a later process needs to find the container again. */
static int record_workload(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        json_t *fields = json_pack("{s:s}", "description", s->workload.description);

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(s->journal, "WORKLOAD", fields, err);
        json_decref(fields);
        return r;
}

/* Everything up to the point of no return, and the decision. */
static int migrate(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        int r = source_examine(x, err);
        if (r < 0 || s->request.check_only)
                return r;
        r = record_workload(x, err);
        if (r == 0)
                r = source_files(x, err);
        if (r == 0 && s->request.options.mode == MODE_LIVE)
                r = source_memory(x, err);
        if (r == 0)
                r = s->request.options.mode == MODE_RESTART ? source_stop(x, err) : source_freeze(x, err);
        if (r == 0)
                r = source_handover(x, err);
        return r;
}

/* Back to where we were. The workload first, then the person, then the target. */
static void give_up(struct source_side *x, struct error *failure)
{
        struct session *s = x->session;
        struct error err = {0};

        if (s->state != SOURCE_ABORTED &&
            session_step(s, failure->kind == ERROR_CANCELLED ? EVENT_CANCEL : EVENT_FAILED, NULL, NULL, &err) < 0)
                session_log(s, "error", "%s", err.text);
        const bool was_frozen = x->frozen_since_us != 0, was_stopped = x->stopping;
        source_rollback(x);
        migration_report_unfrozen(s->report, clock_ms());

        if (was_frozen && !x->survived) {
                failure->kind = ERROR_LOST;
                (void)error_wrap(failure, "the workload did not survive the end of the dump");
        }
        if (x->not_started) {
                failure->kind = ERROR_LOST;
                (void)error_wrap(failure, "it could not be started again here: its files are whole, it is stopped");
        }
        (void)session_finish(s, failure, NULL);
        (void)peer_send_simple(s, MSG_ABORTED, NULL);
        if (peer_is_up(s) || was_frozen || was_stopped)
                (void)source_settle(x, &err);
}

static void succeed(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        migration_report_unfrozen(s->report, clock_ms());
        source_postcopy_end(x);
        /* With post-copy it is frozen here for longer than it stood still. */
        if (!s->recovering && s->report->downtime_ms < 0 && (x->frozen_since_us || x->stopping))
                s->report->downtime_ms = s->report->frozen_ms;
        int r = source_release(x, &err);
        if (r < 0)
                session_log(s, "error", "the container runs on %s; here it could not be put away: %s", s->request.peer,
                            err.text);
        (void)session_images_remove(s, NULL);
        (void)session_finish(s, NULL, NULL);
        (void)peer_send_simple(s, MSG_RELEASED, NULL);
}

static void undecided(struct source_side *x, struct error *failure)
{
        struct session *s = x->session;

        (void)error_set_kind(failure, ERROR_UNKNOWN, EIO,
                             "%s cannot tell whether the copy ran. The %s original is kept here; nothing runs by "
                             "itself until somebody decides",
                             s->request.peer, x->stopping ? "stopped" : "frozen");
        (void)session_finish(s, failure, s->request.peer);
}

/* With new descriptors, to a target that may still hold a copy because it never heard. */
static int tell_again(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        if (s->request.way.kind != WAY_DESCRIPTORS || (s->state != SOURCE_ABORTED && s->state != SOURCE_RELEASED))
                return 0;
        if (source_say(x, &err) < 0) {
                session_log(s, "error", "%s", err.text);
                return error_exit_code(err.kind);
        }
        session_log(s, "info", "the other host knows that this migration is %s", handover_state_name(s->state));
        return 0;
}

int source_run(struct session *s)
{
        CLEANUP(side_done) struct source_side x = {.session = s, .images_fd = -1, .next_stream = 1};
        struct error failure = {0};
        int r;

        /* Told and done: whatever bears the name of the workload now is another one. */
        if (s->finished)
                return tell_again(&x);
        if (s->recovering) {
                r = source_recover(&x, &failure);
                if (r == 0 && (s->state == SOURCE_COMMITTED || s->state == SOURCE_SERVING))
                        r = source_settle(&x, &failure);
                else if (r == 0 && s->state != SOURCE_RELEASED && s->state != SOURCE_UNDECIDED)
                        r = error_set(&failure, EINTR, "the session was interrupted before the commit");
        } else {
                r = migrate(&x, &failure);
        }

        if (s->request.check_only)
                (void)session_finish(s, r < 0 ? &failure : NULL, NULL);
        else if (s->state == SOURCE_RELEASED)
                succeed(&x);
        else if (s->state == SOURCE_UNDECIDED)
                undecided(&x, &failure);
        else
                give_up(&x, &failure);
        return error_exit_code(failure.kind);
}
