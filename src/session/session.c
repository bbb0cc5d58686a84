/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "session/control.h"
#include "session/peer.h"
#include "session/request.h"
#include "session/tunnel.h"

#define LOG_LINE_MAX 2048

static int fill_paths(struct session *s, const char *directory, const struct session_places *places, struct error *err)
{
        struct session_paths *p = &s->paths;
        const char *id = s->request.id;
        int n = 0;

        n |= snprintf(p->directory, sizeof(p->directory), "%s", directory) >= (int)sizeof(p->directory);
        n |= snprintf(p->record, sizeof(p->record), "%s/record", directory) >= (int)sizeof(p->record);
        n |= snprintf(p->control, sizeof(p->control), "%s/sessions/%s.sock", places->runtime, id) >=
             (int)sizeof(p->control);
        n |= snprintf(p->hold, sizeof(p->hold), "%s/sessions/%s.hold", places->runtime, id) >= (int)sizeof(p->hold);
        n |= snprintf(p->ledger, sizeof(p->ledger), "%s/sessions/%s.pages", places->runtime, id) >=
             (int)sizeof(p->ledger);
        n |= snprintf(p->pages, sizeof(p->pages), "%s/phaul-pages", places->libexec) >= (int)sizeof(p->pages);
        n |= snprintf(p->trust, sizeof(p->trust), "%s", places->configuration) >= (int)sizeof(p->trust);
        n |= snprintf(p->hooks, sizeof(p->hooks), "%s%s", places->hooks[0] ? places->hooks : places->configuration,
                      places->hooks[0] ? "" : "/hooks.d") >= (int)sizeof(p->hooks);
        n |= snprintf(p->released, sizeof(p->released), "%s/released/%s", places->state, id) >=
             (int)sizeof(p->released);
        (void)snprintf(p->runtime, sizeof(p->runtime), "%s", places->runtime);
        n |= session_images_place(s, NULL) < 0;
        n |= snprintf(p->net, sizeof(p->net), "%s/phaul-net", places->libexec) >= (int)sizeof(p->net);
        if (n)
                return error_set(err, ENAMETOOLONG, "a path of this migration is too long");

        char sessions[sizeof(places->runtime) + 16];
        (void)snprintf(sessions, sizeof(sessions), "%s/sessions", places->runtime);
        int r = fd_mkdir_p(sessions, 0700);
        return r < 0 ? error_errno(err, -r, "cannot make %s", sessions) : 0;
}

/* Open the record; a record that exists means that an earlier process of this migration died. */
static int open_record(struct session *s, struct error *err)
{
        int r = journal_create(s->paths.record, &s->journal, err);

        s->state = s->request.side == SIDE_SOURCE ? SOURCE_WORKING : TARGET_RECEIVING;
        if (r == 0)
                return 0;
        if (r != -EEXIST)
                return r;

        error_clear(err);
        r = journal_open(s->paths.record, &s->journal, err);
        if (r < 0)
                return r;
        char report[sizeof(s->paths.directory) + 16];
        (void)snprintf(report, sizeof(report), "%s/report.json", s->paths.directory);
        s->finished = access(report, F_OK) == 0;
        s->recovering = true;
        const char *last = journal_state(s->journal);
        if (last && handover_state_from_record(s->request.side, last, &s->state) < 0)
                return error_set(err, EBADMSG, "the record %s holds '%s', which this side never writes",
                                 s->paths.record, last);
        return 0;
}

int session_open(const char *directory, struct session **ret, struct error *err)
{
        CLEANUP(session_free_ptr) struct session *s = calloc(1, sizeof(*s));
        struct session_places places;

        if (!s)
                return error_set(err, ENOMEM, "out of memory");
        int r = request_read(directory, &s->request, &places, &s->actions, err);
        if (r < 0)
                return r;
        r = fill_paths(s, directory, &places, err);
        if (r == 0)
                r = open_record(s, err);
        if (r < 0)
                return r;

        if (getrandom(s->token, sizeof(s->token), 0) != (ssize_t)sizeof(s->token))
                return error_errno(err, errno, "no random numbers");
        r = loop_new(&s->loop);
        if (r < 0)
                return error_errno(err, -r, "cannot make an event loop");
        s->started_ms = clock_ms();
        migration_progress_init(&s->progress);
        r = peer_new(s, err);
        if (r == 0)
                r = session_tunnel_new(s, err);
        if (r == 0 && s->request.side == SIDE_SOURCE)
                r = session_report_open(s, err);
        if (r == 0)
                r = control_new(s, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

void session_free(struct session *s)
{
        if (!s)
                return;
        peer_free(s->peer);
        session_tunnel_free(s->tunnel);
        control_free(s->control);
        workload_done(&s->workload);
        migration_report_free(s->report);
        json_decref(s->verdict);
        journal_free(s->journal);
        loop_free(s->loop);
        for (char **a = s->actions; a && *a; a++)
                free(*a);
        free(s->actions);
        free(s);
}

/* -- waiting --------------------------------------------------------------------------------------------------- */

int session_far_failure(const struct session *s, const struct message *m, struct error *err)
{
        char kind[32], text[ERROR_TEXT_MAX];

        if (!m || (m->type != MSG_DISCARDED && m->type != MSG_REFUSE && m->type != MSG_ABORTED))
                return 0;
        if (message_get_text(m, FIELD_TEXT, text, sizeof(text)) < 0)
                (void)snprintf(text, sizeof(text), "%s gave up", s->request.peer);
        enum error_kind how = ERROR_FAILED;
        if (message_get_text(m, FIELD_KIND, kind, sizeof(kind)) == 0)
                how = error_kind_from_name(kind);
        return error_set_kind(err, how, EREMOTEIO, "%s", text);
}

static int interruption(struct session *s, struct error *err)
{
        if (s->cancel_requested)
                return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        if (s->request.options.timeout_s && clock_ms() - s->started_ms > s->request.options.timeout_s * 1000)
                return error_set(err, ETIMEDOUT, "not done within the %llu s that were allowed",
                                 (unsigned long long)s->request.options.timeout_s);
        int r = session_far_failure(s, peer_first(s), err);
        if (r < 0)
                return r;
        if (!peer_is_up(s)) {
                if (err)
                        *err = *peer_loss(s);
                (void)error_wrap(err, "the connection to %s was lost", s->request.peer);
                return -ENOTCONN;
        }
        return 0;
}

int session_wait(struct session *s, enum session_wait_mode mode, session_done_fn done, void *context,
                 uint64_t timeout_ms, const char *what, struct error *err)
{
        const uint64_t deadline = timeout_ms ? clock_ms() + timeout_ms : 0;

        while (!done(context)) {
                uint64_t now = clock_ms();
                int r;

                if (mode == WAIT_INTERRUPTIBLE && (r = interruption(s, err)) < 0)
                        return r;
                if (deadline && now >= deadline)
                        return error_set(err, ETIMEDOUT, "%s took longer than %llu s", what,
                                         (unsigned long long)(timeout_ms + 999) / 1000);
                session_tick(s);
                uint64_t slice = deadline && deadline - now < 200 ? deadline - now : 200;
                r = loop_run_once(s->loop, (int)slice);
                if (r < 0)
                        return error_errno(err, -r, "%s", what);
        }
        return 0;
}

/* -- state ----------------------------------------------------------------------------------------------------- */

int session_step(struct session *s, enum handover_event event, const json_t *fields, unsigned *ret_acts,
                 struct error *err)
{
        struct handover_step step;

        int r = handover_step(s->state, event, &step);
        if (r < 0)
                return error_set(err, EPROTO, "'%s' cannot happen in state '%s'", handover_event_name(event),
                                 handover_state_name(s->state));
        if (step.record) {
                r = journal_append(s->journal, step.record, fields, err);
                if (r < 0)
                        return r;
        }
        if (step.next != s->state) {
                s->state = step.next;
                control_event(s, json_pack("{s:s, s:s, s:s}", "event", "state", "state", handover_state_name(s->state),
                                           "phase", s->phase));
        }
        if (ret_acts)
                *ret_acts = step.acts;
        return 0;
}

void session_log(struct session *s, const char *level, const char *format, ...)
{
        char text[LOG_LINE_MAX];
        va_list args;

        va_start(args, format);
        (void)vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        log_line(strcmp(level, "error") == 0     ? LOG_LEVEL_ERROR
                 : strcmp(level, "warning") == 0 ? LOG_LEVEL_WARNING
                                                 : LOG_LEVEL_INFO,
                 "%s", text);
        control_event(s, json_pack("{s:s, s:s, s:s}", "event", "log", "level", level, "text", text));
}

static void stands_still(struct session *s, const char *why, bool waits)
{
        if (strcmp(s->attention, why ?: "") == 0 && s->attention_waits == waits)
                return;
        (void)snprintf(s->attention, sizeof(s->attention), "%s", why ?: "");
        s->attention_waits = waits;
        if (why)
                session_log(s, "error", "%s", why);
        control_event(s, session_attention_event(s));
}

void session_attention(struct session *s, const char *why)
{
        stands_still(s, why, false);
}

void session_waiting(struct session *s, const char *why)
{
        stands_still(s, why, true);
}

json_t *session_attention_event(const struct session *s)
{
        return json_pack("{s:s, s:s, s:b}", "event", "attention", "text", s->attention, "waits",
                         (int)s->attention_waits);
}

void session_stalled(struct session *s, const char *why)
{
        if (strcmp(s->stalled, why ?: "") == 0)
                return;
        (void)snprintf(s->stalled, sizeof(s->stalled), "%s", why ?: "");
        session_log(s, why ? "warning" : "info", "%s", why ?: "it goes on: the link is back");
        control_event(s, json_pack("{s:s, s:s}", "event", "stalled", "text", s->stalled));
}

/* -- things made here ------------------------------------------------------------------------------------------ */

int session_leftover(const char *what, const char *name, void *session, struct error *err)
{
        struct session *s = session;
        json_t *fields = json_pack("{s:s, s:s}", "what", what, "name", name);

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(s->journal, "LEFTOVER", fields, err);
        json_decref(fields);
        return r;
}
