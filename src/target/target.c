/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "target/target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pages/service.h"
#include "session/peer.h"

#define ATTACH_TIMEOUT_MS 15000

static void side_done(struct target_side *x)
{
        for (size_t i = 0; i < TARGET_JOBS_MAX; i++)
                files_job_free(x->jobs[i].job);
        if (x->restore)
                x->session->hauler->restore_free(x->restore);
        image_receiver_free(x->receiver);
        source_free(x->sync_source);
        source_free(x->on_pages);
        target_remote_close(x);
        if (x->images_fd >= 0)
                (void)close(x->images_fd);
        json_decref(x->probes);
        free(x->description);
}

/*
 * DISCARDING is durable, so nothing here will ever start: the source is told at once and does not stay frozen while
 * files are removed. Not so when the copy was being started: then its network may still be up, and goes first.
 */
static void discard(struct target_side *x, struct error *failure)
{
        struct session *s = x->session;
        struct error err = {0};
        const bool was_starting = s->state == TARGET_DISCARDING;

        if (s->state == TARGET_RECEIVING || s->state == TARGET_PREPARED)
                target_insist(s, EVENT_FAILED);
        if (s->state == TARGET_DISCARDING) {
                if (!was_starting)
                        x->told = target_tell(s, failure) == 0;
                session_phase(s, "rollback");
                if (target_discard(x, &err) < 0)
                        session_log(s, "error", "not everything could be removed: %s", err.text);
                else if (session_step(s, EVENT_DISCARD_DONE, NULL, NULL, &err) < 0)
                        session_log(s, "error", "%s", err.text);
        }
        (void)session_finish(s, s->request.check_only ? NULL : failure, s->request.self);
        /* Where nothing was prepared nobody will ask what became of it. */
        if (x->prepared || s->recovering)
                target_linger(x, failure);
}

static int keep(const char *record, const json_t *entry, void *context)
{
        struct session *s = context;
        const char *what = json_string_value(json_object_get(entry, "what"));
        const char *name = json_string_value(json_object_get(entry, "name"));
        struct error err = {0};

        if (strcmp(record, "LEFTOVER") == 0 && what && name && s->hauler->keep(what, name, &err) < 0)
                session_log(s, "warning", "%s", err.text);
        return 0;
}

static void running(struct target_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        if (s->hauler->arrived && s->hauler->arrived(&s->workload, &err) < 0)
                session_log(s, "warning", "%s", err.text);
        if (s->hauler->keep)
                (void)journal_each(s->journal, keep, s);

        image_receiver_free(TAKE_PTR(x->receiver));
        if (x->images_fd >= 0)
                (void)close(TAKE_FD(x->images_fd));
        target_fill(x);
        if (session_images_remove(s, &err) < 0)
                session_log(s, "warning", "%s", err.text);
        (void)session_finish(s, NULL, NULL);
        if (!x->heard)
                target_linger(x, NULL);
}

static bool connected(void *context)
{
        return peer_is_up(context);
}

static int receive(struct target_side *x, struct error *err)
{
        /* phauld started us because of a connection, and hands it over now. */
        int r = session_wait(x->session, WAIT_THROUGH, connected, x->session, ATTACH_TIMEOUT_MS,
                             "waiting for the source's connection", err);

        if (r == 0)
                r = target_receive(x, err);
        if (r == 0)
                r = target_restore(x, err);
        return r < 0 ? r : target_handover(x, err);
}

/* After a crash the record alone says where we are. */
static int recover(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        /* Where the session before listened. What waits there goes by the record. */
        (void)unlink(s->paths.hold);
        int r = target_recall(x, err);
        if (r < 0)
                return r;
        struct page_service_status pages;
        s->needs_source = page_service_look(s->paths.ledger, &pages, NULL) == 0 && pages.running && pages.away_bytes;
        if (s->needs_source && target_remote_open(x, err) < 0)
                session_log(s, "error", "%s", err->text);
        error_clear(err);
        switch (s->state) {
        case TARGET_PREPARED:
                r = target_find_ports(x, err);
                return r < 0 ? r : target_handover(x, err);
        case TARGET_STARTING:
                (void)target_find_ports(x, err);
                return target_start(x, err);
        case TARGET_RUNNING:
                return 0;
        default:
                return error_set(err, EINTR, "the receiving session was interrupted");
        }
}

int target_run(struct session *s)
{
        CLEANUP(side_done) struct target_side x = {.session = s, .images_fd = -1};
        struct error failure = {0};

        int r = s->recovering ? recover(&x, &failure) : receive(&x, &failure);
        if (r < 0 && failure.kind == ERROR_NONE)
                (void)error_set(&failure, -r, "the receiving side failed");

        switch (s->state) {
        case TARGET_RUNNING:
                running(&x);
                break;
        case TARGET_UNKNOWN:
                (void)session_finish(s, &failure, s->request.self);
                target_linger(&x, &failure);
                break;
        default:
                discard(&x, &failure);
        }
        return error_exit_code(failure.kind);
}
