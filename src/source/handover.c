/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "session/hooks.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

#define PREPARED_TIMEOUT_MS 300000
#define RECONNECT_MS 500
#define RECONNECT_SSH_MS 30000 /* at last: a host that is away for long, and its sshd when it is back */
#define ATTENTION_MS 60000
#define TELL_TIMEOUT_MS (10 * 60 * 1000)
#define CRIU_END_MS 10000
#define STAND_STILL_MS 500
#define SAY_TIMEOUT_MS 60000

struct timer {
        uint64_t until_ms;
        struct session *session;
};

/* Time is up, or something came: a link that phauld accepted for us, or a message. */
static bool nap_over(void *context)
{
        const struct timer *t = context;

        return clock_ms() >= t->until_ms || peer_is_up(t->session) || peer_has_message(t->session);
}

static void nap(struct session *s, uint64_t ms)
{
        struct timer t = {.until_ms = clock_ms() + ms, .session = s};

        (void)session_wait(s, WAIT_THROUGH, nap_over, &t, 0, "waiting", NULL);
}

/* After a reconnect: what we are, so that the other side says what it is. */
static int say_state(struct session *s, struct error *err)
{
        struct message *m = message_new(MSG_RESUME);

        message_put_text(m, FIELD_MIGRATION, s->request.id);
        message_put_text(m, FIELD_STATE, handover_state_name(s->state));
        return peer_send(s, m, err);
}

static bool heard_or_lost(void *context)
{
        struct session *s = context;

        return peer_has_message(s) || !peer_is_up(s);
}

static int tell_commit(struct session *s)
{
        return peer_send_simple(s, MSG_COMMIT, NULL);
}

static int tell_aborted(struct session *s)
{
        return peer_send_simple(s, MSG_ABORTED, NULL);
}

/* Act on one message of the target; events that are not legal now are old news and ignored. */
static int hear(struct source_side *x, const struct message *m, struct error *err)
{
        struct session *s = x->session;
        unsigned acts = 0;
        enum handover_event event;

        switch (m->type) {
        case MSG_PREPARED:
                event = EVENT_HEARD_PREPARED;
                break;
        case MSG_FILLING:
                event = EVENT_HEARD_FILLING;
                break;
        case MSG_RUNNING:
                event = EVENT_HEARD_RUNNING;
                break;
        case MSG_DISCARDED:
                event = EVENT_HEARD_DISCARDED;
                break;
        case MSG_LOST:
                event = EVENT_HEARD_LOST;
                break;
        default:
                return 0;
        }
        if (m->type == MSG_PREPARED && s->state == SOURCE_COMMITTED) {
                /* It did not hear COMMIT: once more. */
                (void)tell_commit(s);
                return 0;
        }

        bool committed = s->state == SOURCE_COMMITTED;
        int r = session_step(s, event, NULL, &acts, err);
        if (r == -EPROTO)
                return 0;
        if (r < 0)
                return r;
        if (event == EVENT_HEARD_FILLING && s->state == SOURCE_SERVING) {
                const uint8_t *token;
                size_t size;
                if (message_get_bytes(m, FIELD_TOKEN, &token, &size) == 0 && size == sizeof(s->token))
                        memcpy(s->token, token, size);
                x->asked_for_pages = true;
                source_serve(x);
        }
        if (event == EVENT_HEARD_DISCARDED && committed) {
                char text[ERROR_TEXT_MAX];
                if (message_get_text(m, FIELD_TEXT, text, sizeof(text)) < 0)
                        (void)snprintf(text, sizeof(text), "the copy could not be started");
                (void)error_set(err, EREMOTEIO, "%s: %s", s->request.peer, text);
        }
        if ((acts & ACT_TELL) && s->state == SOURCE_ABORTED)
                (void)tell_aborted(s);
        return 0;
}

/* The state in which there is nothing more to say or to hear. */
static bool settled(const struct source_side *x, bool told)
{
        switch (x->session->state) {
        case SOURCE_RELEASED:
        case SOURCE_UNDECIDED:
                return true;
        case SOURCE_ABORTED:
                return told;
        default:
                return false;
        }
}

/* How it goes to reach the target again. */
struct reaching {
        bool asked;        /* it was reached, and has said nothing since */
        uint64_t since_ms; /* 0: it was heard of */
        uint64_t pause_ms;
        char said[ERROR_TEXT_MAX]; /* why not, as it was last told */
};

static void heard_of(struct reaching *r)
{
        *r = (struct reaching){.pause_ms = RECONNECT_MS};
}

static void not_reached(struct session *s, struct reaching *r, const struct error *why)
{
        const uint64_t most = s->request.way.kind == WAY_SSH ? RECONNECT_SSH_MS : RECONNECT_MS, now = clock_ms();
        char text[512];

        r->asked = false;
        if (strcmp(r->said, why->text) != 0)
                session_log(s, "warning", "cannot reach %s: %s", s->request.peer, why->text);
        (void)strcpy(r->said, why->text);
        if (!r->since_ms)
                r->since_ms = now;
        if (s->state == SOURCE_SERVING) {
                (void)snprintf(
                        text, sizeof(text),
                        "the link to %s is down (%.200s): it runs there, and a part of its memory is still in the "
                        "frozen original here, which is kept. It goes on when the link is back",
                        s->request.peer, why->text);
                session_stalled(s, text);
        }
        if (s->state == SOURCE_COMMITTED && now - r->since_ms > ATTENTION_MS) {
                (void)snprintf(text, sizeof(text),
                               "%s has not answered since the commit: the original is kept here and does not run, as "
                               "the other host has the last word. It is asked until it answers",
                               s->request.peer);
                session_waiting(s, text);
        }
        nap(s, r->pause_ms);
        r->pause_ms = r->pause_ms * 2 < most ? r->pause_ms * 2 : most;
}

/* Once. Whoever comes by itself meanwhile is told, too. */
static void reach(struct session *s, struct reaching *r)
{
        struct error why = {0};

        if (r->asked)
                not_reached(s, r, peer_loss(s));
        if (!peer_is_up(s) && peer_connect(s, WAIT_THROUGH, &why) < 0)
                not_reached(s, r, &why);
        if (peer_is_up(s))
                r->asked = say_state(s, NULL) == 0;
}

/* Committed, and nobody can be asked: the copy may run there, so it must not run here. */
static void stand_still(const struct source_side *x)
{
        struct session *s = x->session;
        char why[512];

        if (s->state == SOURCE_SERVING) {
                (void)snprintf(why, sizeof(why),
                               "the descriptors that led to %s were lost and cannot come back by themselves: it runs "
                               "there, and a part of its memory is still in the frozen original here, which is kept. "
                               "Open new ones, and `phaul reconnect %s` goes on",
                               s->request.peer, s->request.id);
                session_stalled(s, why);
        } else {
                (void)snprintf(why, sizeof(why),
                               "the descriptors that led to %s were lost after the commit and cannot come back by "
                               "themselves. The %s original is kept here and does not run; the other host has the last "
                               "word: open new ones, and `phaul reconnect %s` asks it",
                               s->request.peer, x->stopping ? "stopped" : "frozen", s->request.id);
                session_attention(s, why);
        }
        nap(s, STAND_STILL_MS);
}

/* Or the way for pages can be opened again. */
static bool something_to_do(void *context)
{
        const struct source_side *x = context;
        struct session *s = x->session;

        return heard_or_lost(s) || (x->asked_for_pages && !x->bulk && clock_ms() >= x->reopen_at_ms);
}

int source_settle(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        const uint64_t give_up = clock_ms() + TELL_TIMEOUT_MS;
        const bool committed = s->state == SOURCE_COMMITTED;
        struct reaching reaching;
        bool told = false;

        heard_of(&reaching);

        while (!settled(x, told)) {
                if (peer_is_up(s))
                        session_attention(s, NULL);
                if (!peer_is_up(s) && !peer_has_message(s)) {
                        /* An aborted source has done its duty to the workload; telling is a kindness to the target. */
                        if (s->state == SOURCE_ABORTED && (clock_ms() > give_up || !peer_can_connect(s)))
                                return 0;
                        if (!peer_can_connect(s)) {
                                stand_still(x);
                                continue;
                        }
                        x->asked_for_pages = false;
                        reach(s, &reaching);
                        continue;
                }
                (void)session_wait(s, WAIT_THROUGH, something_to_do, x, 0, "waiting for the target", NULL);

                CLEANUP(message_free_ptr) struct message *m = peer_take(s);
                x->asked_for_pages &= peer_is_up(s);
                if (!m && x->asked_for_pages && !x->bulk)
                        source_serve(x);
                if (!m)
                        continue;
                heard_of(&reaching);
                told |= m->type == MSG_DISCARDED;
                int r = hear(x, m, err);
                if (r < 0)
                        return r;
                if (committed && s->state == SOURCE_ABORTED)
                        return -EREMOTEIO;
        }
        return 0;
}

int source_say(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        int r = peer_connect(s, WAIT_THROUGH, err);
        if (r == 0)
                r = say_state(s, err);
        if (r == 0)
                r = session_wait(s, WAIT_THROUGH, heard_or_lost, s, SAY_TIMEOUT_MS, "waiting for the answer", err);
        if (r == 0 && !peer_has_message(s))
                r = error_set(err, ENOTCONN, "the connection to %s was lost", s->request.peer);
        return r;
}

static bool criu_gone(void *context)
{
        const struct source_side *x = context;

        return x->criu_ended;
}

int source_release(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        session_phase(s, "release");
        /* Killed while frozen they cannot run one more instruction; thawed, they die. Only then may CRIU be answered:
         * on cgroup v1 it would wait for ever for tasks that are frozen. */
        int r = s->workload.freezer ? freezer_kill(s->workload.freezer, err) : 0;
        if (r == 0 && s->workload.freezer)
                r = freezer_thaw(s->workload.freezer, s->workload.freezer_v2, err);
        if (r < 0 && r != -ENOENT)
                return r;
        error_clear(err);

        if (x->criu && !x->criu_ended) {
                (void)criu_proceed(x->criu, true);
                (void)session_wait(s, WAIT_THROUGH, criu_gone, x, CRIU_END_MS, "waiting for criu", NULL);
        }
        criu_free(TAKE_PTR(x->criu));

        return s->hauler->release(&s->workload, s->paths.released, err);
}

int source_handover(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        CLEANUP(message_free_ptr) struct message *prepared = NULL;
        unsigned acts;

        session_phase(s, "restore");
        int r = peer_expect(s, MSG_PREPARED, PREPARED_TIMEOUT_MS, &prepared, err);
        if (r < 0)
                return r;

        session_phase(s, "commit");
        if (s->cancel_requested)
                return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        r = s->hauler->disarm(&s->workload, err);
        if (r == 0)
                r = session_step(s, EVENT_HEARD_PREPARED, NULL, &acts, err);
        if (r < 0)
                return r;
        (void)tell_commit(s);
        if (s->workload.init_pid)
                session_hooks(s, NETWORK_LEAVING);

        session_phase(s, "resume");
        return source_settle(x, err);
}
