/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "session/control.h"
#include "session/fault_point.h"
#include "session/peer.h"
#include "session/session.h"
#include "session/verdict.h"

#define PROGRESS_EVERY_MS 100

/* What this side put on the wire, or on the target what came off it. */
static uint64_t bytes_moved(const struct session *s)
{
        uint64_t sent = 0, received = 0;

        if (s->peer)
                peer_counters(s, &sent, &received);
        return s->request.side == SIDE_SOURCE ? sent : received;
}

int session_report_open(struct session *s, struct error *err)
{
        const struct session_request *q = &s->request;
        const bool source = q->side == SIDE_SOURCE;
        const struct report_subject subject = {
                .id = q->id,
                .kind = q->kind,
                .name = q->name,
                .target_name = q->target_name,
                .source = source ? q->self : q->peer,
                .target = source ? q->peer : q->self,
        };

        int r = migration_report_new(&subject, clock_wall_ms() - (int64_t)(clock_ms() - s->started_ms), s->started_ms,
                                     &s->report);
        if (r < 0)
                return error_errno(err, -r, "cannot make a report");
        (void)snprintf(s->report->mode, sizeof(s->report->mode), "%s",
                       q->check_only ? "check" : migration_mode_name(q->options.mode));
        return migration_report_phase(s->report, s->phase[0] ? s->phase : NULL, clock_ms(), 0);
}

static void send_progress(struct session *s)
{
        json_t *event = migration_progress_to_json(&s->progress);

        if (event && json_object_set_new(event, "event", json_string("progress")) == 0)
                control_event(s, event);
        else
                json_decref(event);
        s->progress_sent_ms = clock_ms();
}

void session_tick(struct session *s)
{
        const uint64_t now = clock_ms();

        if (now - s->progress_sent_ms < PROGRESS_EVERY_MS || !s->phase[0])
                return;
        migration_progress_update(&s->progress, s->phase, s->round, bytes_moved(s) - s->round_base, s->round_bytes,
                                  now);
        send_progress(s);
}

void session_round(struct session *s, unsigned round, uint64_t bytes_total)
{
        s->round = round;
        s->round_bytes = bytes_total;
        s->round_base = bytes_moved(s);
        /* Those of memory, where there are any. */
        if (s->report && (strcmp(s->phase, "files") == 0 || strcmp(s->phase, "memory") == 0))
                s->report->rounds = round;
}

void session_phase(struct session *s, const char *phase)
{
        if (strcmp(phase, "rollback") == 0)
                (void)snprintf(s->failed_phase, sizeof(s->failed_phase), "%s", s->phase);
        (void)snprintf(s->phase, sizeof(s->phase), "%s", phase);
        session_round(s, 0, 0);
        if (s->report)
                (void)migration_report_phase(s->report, phase, clock_ms(), bytes_moved(s));
        migration_progress_update(&s->progress, phase, 0, 0, 0, clock_ms());
        control_event(s, json_pack("{s:s, s:s, s:s}", "event", "state", "state", handover_state_name(s->state), "phase",
                                   phase));
        send_progress(s);
        if (s->request.options.verbose)
                session_log(s, "info", "phase: %s", phase);
        fault_point(s, phase);
}

/* Without an offer there is nothing to report of but that it came to nothing. */
static json_t *bare_report(const struct session *s, const struct error *failure)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", s->request.id, "mode",
                         migration_mode_name(s->request.options.mode), "result", "failed", "owner", "source", "reason",
                         failure ? failure->text : "nothing was offered");
}

static json_t *make_report(struct session *s, const struct error *failure, const char *failed_host)
{
        if (!s->report)
                return bare_report(s, failure);
        migration_report_end(s->report, s->state, failure, failed_host, clock_wall_ms(), clock_ms(), bytes_moved(s));
        if (failure && s->failed_phase[0])
                (void)snprintf(s->report->failure.phase, sizeof(s->report->failure.phase), "%s", s->failed_phase);
        /* A check ends where a migration would begin: without a failure it is done. */
        if (s->request.check_only && !failure)
                s->report->result = REPORT_DONE;
        json_t *report = migration_report_to_json(s->report);
        if (report && s->verdict) {
                (void)json_object_set(report, "verdict", json_object_get(s->verdict, "verdict"));
                (void)json_object_set(report, "items", json_object_get(s->verdict, "items"));
        }
        return report;
}

int session_finish(struct session *s, const struct error *failure, const char *failed_host)
{
        char path[sizeof(s->paths.directory) + 16];

        if (failure && failure->kind != ERROR_NONE)
                log_error("%s", failure->text); /* watchers hear it with the result */
        else
                failure = NULL;
        json_t *report = make_report(s, failure, failed_host);
        AUTO_FREE char *text = report ? json_dumps(report, JSON_INDENT(2)) : NULL;
        if (!text) {
                json_decref(report);
                return -ENOMEM;
        }
        (void)snprintf(path, sizeof(path), "%s/report.json", s->paths.directory);
        int r = s->finished ? 0 : fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        if (r < 0)
                session_log(s, "error", "cannot write %s: %s", path, strerror(-r));
        s->finished = true;
        (void)json_object_set_new(report, "event", json_string("result"));
        control_event(s, report);
        return r;
}
