/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "criu/stage.h"
#include "network/network.h"
#include "session/ask.h"
#include "session/hooks.h"
#include "session/peer.h"
#include "session/protocol.h"
#include "target/target.h"

#define ASK_EVERY_MS 2000
#define START_TIMEOUT_MS 60000
#define ALIVE_TIMEOUT_MS 5000
#define ALIVE_POLL_MS 5
#define INSIST_MS 1000

/* -- starting ---------------------------------------------------------------------------------------------------- */

int target_find_ports(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (s->request.options.mode == MODE_RESTART || !s->hauler->ports)
                return 0; /* it makes its own when it starts, or has none of its own */

        int n = s->hauler->ports(&s->workload, x->ports, TARGET_PORTS_MAX, err);
        x->n_ports = n < 0 ? 0 : n;
        return n < 0 ? n : 0;
}

static int network_up(struct target_side *x, struct error *err)
{
        for (int i = 0; i < x->n_ports; i++) {
                int r = network_attach(x->ports[i].outside, x->ports[i].bridge, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* What is said at its end, as by sockets that close, must not reach those who go on talking to the source. */
static void network_down(struct target_side *x)
{
        for (int i = 0; i < x->n_ports; i++) {
                struct network_port port = {0};
                struct error err = {0};

                (void)snprintf(port.outside, sizeof(port.outside), "%s", x->ports[i].outside);
                (void)snprintf(port.bridge, sizeof(port.bridge), "%s", x->ports[i].bridge);
                if (network_lock(&port, &err) < 0)
                        session_log(x->session, "warning", "%s", err.text);
        }
}

static bool time_is_up(void *context)
{
        const uint64_t *until = context;

        return clock_ms() >= *until;
}

void target_insist(struct session *s, enum handover_event event)
{
        for (;;) {
                struct error err = {0};
                if (session_step(s, event, NULL, NULL, &err) == 0)
                        return;
                session_log(s, "error", "%s; trying again", err.text);
                uint64_t until = clock_ms() + INSIST_MS;
                (void)session_wait(s, WAIT_THROUGH, time_is_up, &until, 0, "writing the record", NULL);
        }
}

static bool restore_over(void *context)
{
        const struct target_side *x = context;

        return x->restore_ended;
}

/*
 * A task that hangs in CRIU's restorer looks like one that sleeps; whether CRIU came through to where it lets tasks go
 * was noted by the hold program.
 */
static bool came_through(const struct session *s)
{
        if (s->request.options.mode == MODE_RESTART)
                return true;
        AUTO_FD int images = open(s->paths.images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return images >= 0 && criu_stage_get(images) == CRIU_STAGE_RESUMED;
}

struct alive_wait {
        struct session *session;
        bool restored; /* the restore program let its tasks go and ended well */
        uint64_t next_ms;
        bool gone;
};

static bool seen_alive(void *context)
{
        struct alive_wait *w = context;

        if (clock_ms() < w->next_ms)
                return false;
        w->next_ms = clock_ms() + ALIVE_POLL_MS;
        if (!came_through(w->session))
                return false;
        if (w->session->hauler->alive(&w->session->workload, NULL) > 0)
                return true;
        w->gone = w->restored && w->session->hauler->gone(&w->session->workload);
        return w->gone;
}

/*
 * Whether the copy lives: what our restore says, if we have one, and what we see. What was restored and is gone has
 * run here, to its end.
 */
static bool is_alive(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        struct alive_wait w = {.session = s};

        if (x->restore && session_wait(s, WAIT_THROUGH, restore_over, x, START_TIMEOUT_MS, "starting", err) < 0)
                return false;
        if (x->restore && x->restore_error.kind != ERROR_NONE) {
                *err = x->restore_error;
                return false;
        }
        w.restored = x->restore != NULL;
        if (session_wait(s, WAIT_THROUGH, seen_alive, &w, ALIVE_TIMEOUT_MS, "the restored tasks", err) < 0)
                return false;
        if (w.gone)
                session_log(s, "warning", "it ran here, and has ended since");
        return true;
}

static void arrive(struct session *s)
{
        struct error err = {0};

        if (s->hauler->ports && network_announce(s->workload.init_pid, &err) < 0)
                session_log(s, "warning", "%s", err.text);
        session_hooks(s, NETWORK_ARRIVED);
}

/*
 * What does not get through is put down before anything is said about it: a criu that outlived an earlier session could
 * be letting the tasks go at this moment. Only then is it known whether they may have run.
 */
static int did_not_start(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        struct error no = {0};

        if (err->kind == ERROR_NONE)
                (void)error_set(err, EIO, "the copy did not come to life");
        network_down(x);
        int ran = s->hauler->put_down(&s->workload, s->paths.images, &no);
        if (ran < 0)
                session_log(s, "error", "%s", no.text);
        target_insist(s, ran == 0 ? EVENT_NEVER_RAN : EVENT_GONE);
        return -err->code;
}

static void start_ended(bool orderly, const struct error *err, void *context)
{
        struct target_side *x = context;

        (void)orderly;
        x->start_ended = true;
        x->start_error = *err;
}

static bool start_over(void *context)
{
        const struct target_side *x = context;

        return x->start_ended;
}

/*
 * Restart mode: publish and start. An earlier session of this migration may have done so already, or have begun it:
 * then only what is there counts, and what is not there is not tried again: the source has it whole.
 */
static int start_stopped(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        struct hauler_change *job = NULL;

        int r = s->hauler->publish(&s->workload, err);
        if (r == 0 && s->request.options.no_start)
                return s->hauler->stopped(&s->workload, err) > 0 ? 0 : -EIO;
        if (r < 0 || s->recovering)
                return r < 0 || is_alive(x, err) ? r : -EIO;
        r = s->hauler->start(s->loop, &s->workload, start_ended, x, &job, err);
        if (r == 0)
                r = session_wait(s, WAIT_THROUGH, start_over, x, START_TIMEOUT_MS, "starting", err);
        s->hauler->change_free(job);
        if (r == 0 && x->start_error.kind != ERROR_NONE) {
                *err = x->start_error;
                r = -err->code;
        }
        return r < 0 || is_alive(x, err) ? r : -EIO;
}

static int start_restarted(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (start_stopped(x, err) < 0)
                return did_not_start(x, err);
        target_insist(s, EVENT_ALIVE);
        (void)target_tell(s, NULL);
        if (!s->request.options.no_start)
                arrive(s);
        return 0;
}

int target_start(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        session_phase(s, "resume");
        if (s->request.options.mode == MODE_RESTART)
                return start_restarted(x, err);
        int r = network_up(x, err);
        if (r == 0)
                r = s->hauler->publish(&s->workload, err);
        if (r == 0 && x->restore)
                r = s->hauler->restore_verdict(x->restore, true);
        if (r < 0 || !is_alive(x, err))
                return did_not_start(x, err);

        target_insist(s, EVENT_ALIVE);
        (void)target_tell(s, NULL);
        arrive(s);
        return 0;
}

/* -- waiting for the decision ------------------------------------------------------------------------------------ */

struct decision {
        struct target_side *side;
        uint64_t ask_at_ms;
};

static bool decision_due(void *context)
{
        const struct decision *d = context;
        const struct session *s = d->side->session;

        return peer_has_message(s) || d->side->restore_ended || (!peer_is_up(s) && clock_ms() >= d->ask_at_ms);
}

/* The event in what the source said, or HANDOVER_EVENTS for nothing. */
static enum handover_event heard(const struct message *m)
{
        char state[32] = "";

        if (m->type == MSG_COMMIT)
                return EVENT_HEARD_COMMIT;
        if (m->type == MSG_ABORTED)
                return EVENT_HEARD_ABORTED;
        if (m->type == MSG_RELEASED)
                return EVENT_HEARD_RELEASED;
        if (m->type != MSG_RESUME || message_get_text(m, FIELD_STATE, state, sizeof(state)) < 0)
                return HANDOVER_EVENTS;
        if (strcmp(state, handover_state_name(SOURCE_COMMITTED)) == 0)
                return EVENT_HEARD_COMMIT;
        if (strcmp(state, handover_state_name(SOURCE_ABORTED)) == 0)
                return EVENT_HEARD_ABORTED;
        if (strcmp(state, handover_state_name(SOURCE_RELEASED)) == 0)
                return EVENT_HEARD_RELEASED;
        return HANDOVER_EVENTS;
}

static enum handover_event asked(struct session *s)
{
        char record[32] = "";

        /* Only a durable record of the source counts; no answer, or none yet, is no decision. */
        if (ask_handover(s, record, sizeof(record)) < 0)
                return HANDOVER_EVENTS;
        if (strcmp(record, "COMMIT") == 0)
                return EVENT_HEARD_COMMIT;
        if (strcmp(record, "RELEASED") == 0)
                return EVENT_HEARD_RELEASED;
        return strcmp(record, "ABORTED") == 0 ? EVENT_HEARD_ABORTED : HANDOVER_EVENTS;
}

int target_handover(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        bool lost = false;

        session_phase(s, "commit");
        (void)peer_send_simple(s, MSG_PREPARED, NULL);
        for (;;) {
                struct decision d = {.side = x, .ask_at_ms = clock_ms() + ASK_EVERY_MS};
                enum handover_event event = HANDOVER_EVENTS;
                unsigned acts = 0;

                if (!lost && !peer_is_up(s)) {
                        lost = true;
                        session_log(s, "warning", "the connection to %s was lost: holding the copy and asking again",
                                    s->request.peer);
                        (void)session_step(s, EVENT_LINK_LOST, NULL, NULL, NULL);
                }
                (void)session_wait(s, WAIT_THROUGH, decision_due, &d, 0, "waiting for the decision", NULL);

                CLEANUP(message_free_ptr) struct message *m = peer_take(s);
                if (m) {
                        event = heard(m);
                        lost = false;
                } else if (x->restore_ended) {
                        event = EVENT_FAILED;
                        *err = x->restore_error;
                } else {
                        event = asked(s);
                }
                if (event == HANDOVER_EVENTS) {
                        if (m && m->type == MSG_RESUME)
                                (void)peer_send_simple(s, MSG_PREPARED, NULL);
                        continue;
                }

                int r = session_step(s, event, NULL, &acts, err);
                if (r == -EPROTO)
                        continue;
                if (r < 0)
                        return r;
                if (acts & ACT_START)
                        return target_start(x, err);
                if (event == EVENT_HEARD_ABORTED)
                        return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "%s took it back", s->request.peer);
                return err->kind != ERROR_NONE ? -err->code : error_set(err, EIO, "the held copy ended");
        }
}

/* -- telling how it ended ---------------------------------------------------------------------------------------- */

int target_tell(struct session *s, const struct error *failure)
{
        enum message_type type;

        /* Only what is durable is said. A copy that is being started, or could not be recorded, is not yet anything. */
        switch (s->state) {
        case TARGET_PREPARED:
                type = MSG_PREPARED;
                break;
        case TARGET_RUNNING:
                type = s->needs_source ? MSG_FILLING : MSG_RUNNING;
                break;
        case TARGET_UNKNOWN:
                type = MSG_LOST;
                break;
        case TARGET_DISCARDING:
        case TARGET_DISCARDED:
                type = MSG_DISCARDED;
                break;
        default:
                return 0;
        }
        struct message *m = message_new(type);

        if ((type == MSG_DISCARDED || type == MSG_LOST) && failure && failure->kind != ERROR_NONE) {
                message_put_text(m, FIELD_KIND, error_kind_name(failure->kind));
                message_put_text(m, FIELD_TEXT, failure->text);
        }
        if (type == MSG_FILLING)
                message_put_bytes(m, FIELD_TOKEN, s->token, sizeof(s->token));
        return peer_send(s, m, NULL);
}

struct last_word {
        struct session *session;
        uint64_t until_ms; /* without a connection */
};

static bool last_word_over(void *context)
{
        const struct last_word *l = context;

        return peer_has_message(l->session) || (!peer_is_up(l->session) && clock_ms() >= l->until_ms);
}

void target_linger(struct target_side *x, const struct error *failure)
{
        struct session *s = x->session;
        bool told = target_tell(s, failure) == 0 || x->told;

        /* Once told, a source that hangs up has heard. One that asks later makes phauld start us again, on record. */
        for (;;) {
                struct last_word l = {.session = s, .until_ms = clock_ms() + (told ? 0 : SESSION_LINGER_MS)};
                (void)session_wait(s, WAIT_THROUGH, last_word_over, &l, 0, "lingering", NULL);
                CLEANUP(message_free_ptr) struct message *m = peer_take(s);
                if (!m || m->type == MSG_RELEASED)
                        return;
                if (m->type == MSG_RESUME || m->type == MSG_COMMIT || m->type == MSG_ABORTED)
                        told = target_tell(s, failure) == 0;
        }
}
