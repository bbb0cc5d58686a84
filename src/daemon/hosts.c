/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/hosts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/pairing.h"

struct talk {
        struct hosts *hosts;
        struct talk *next;
        struct link *link;
        struct source *limit;
        char label[300]; /* of the other side, for messages */

        /* a query */
        char what[32], argument[64];
        char *answer;
        size_t size;
        host_answer_fn on_answer;

        /* pairing */
        struct exchange *exchange;
        struct message *open;
        struct peer peer;
        char name[NAME_MAX_LENGTH + 1];
        host_paired_fn on_paired;

        void *context;
};

struct hosts {
        struct daemon *daemon;
        struct talk *first;
};

int hosts_new(struct daemon *daemon, struct hosts **ret, struct error *err)
{
        struct hosts *h = calloc(1, sizeof(*h));

        if (!h)
                return error_set(err, ENOMEM, "out of memory");
        h->daemon = daemon;
        *ret = h;
        return 0;
}

static void talk_free(struct talk *t)
{
        if (!t)
                return;
        for (struct talk **p = &t->hosts->first; *p; p = &(*p)->next)
                if (*p == t) {
                        *p = t->next;
                        break;
                }
        link_free(t->link);
        source_free(t->limit);
        free(t->answer);
        exchange_free(t->exchange);
        message_free(t->open);
        peer_done(&t->peer);
        free(t);
}
DEFINE_CLEANUP(struct talk, talk_free)

static void finish(struct talk *t, const json_t *answer, const struct error *err)
{
        if (t->on_answer)
                t->on_answer(answer, err, t->context);
        else
                t->on_paired(err->kind == ERROR_NONE ? &t->peer : NULL, err, t->context);
        talk_free(t);
}

void hosts_free(struct hosts *h)
{
        if (!h)
                return;
        while (h->first) {
                struct error err = {0};
                (void)error_set(&err, ESHUTDOWN, "phauld is ending");
                finish(h->first, NULL, &err);
        }
        free(h);
}

static void fail(struct talk *t, struct error *err)
{
        (void)error_wrap(err, "%s", t->label);
        finish(t, NULL, err);
}

static void on_limit(void *context)
{
        struct talk *t = context;
        struct error err = {0};

        (void)error_set(&err, ETIMEDOUT, "no answer in time");
        fail(t, &err);
}

/* -- the other side speaks ---------------------------------------------------------------------------------------- */

/* A query failed there: its error is ours, with the host in front. */
static void take_failure(struct talk *t, const char *kind, const struct message *m)
{
        struct error err = {0};
        char text[1024];

        if (message_get_text(m, FIELD_TEXT, text, sizeof(text)) < 0)
                (void)snprintf(text, sizeof(text), "it could not answer");
        (void)error_set_kind(&err, error_kind_from_name(kind), EPROTO, "%s", text);
        fail(t, &err);
}

static void take_answer(struct talk *t, const struct message *m)
{
        AUTO_FREE char *part = NULL;
        char kind[33];
        uint32_t last = 0;
        struct error err = {0};

        if (message_get_text(m, FIELD_KIND, kind, sizeof(kind)) == 0) {
                take_failure(t, kind, m);
                return;
        }
        size_t n = message_dup_text(m, FIELD_BODY, &part) == 0 ? strlen(part) : 0;
        char *grown = t->size + n <= ANSWER_MAX ? realloc(t->answer, t->size + n + 1) : NULL;
        if (!grown) {
                (void)error_set(&err, EBADMSG, "its answer is too large");
                fail(t, &err);
                return;
        }
        t->answer = grown;
        if (n)
                memcpy(t->answer + t->size, part, n);
        t->size += n;
        if (message_get_u32(m, FIELD_LAST, &last) < 0 || last == 0)
                return;

        json_t *answer = json_loadb(t->answer, t->size, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(answer)) {
                (void)error_set(&err, EBADMSG, "its answer is not JSON");
                json_decref(answer);
                fail(t, &err);
                return;
        }
        finish(t, answer, &err);
        json_decref(answer);
}

static void take_offer(struct talk *t, const struct message *m)
{
        struct message *proof = NULL;
        struct error err = {0};
        struct peer peer;

        int r = exchange_prove(t->exchange, m, &proof, &peer, &err);
        if (r == 0) {
                /* It is reached where the user said it is, whatever it calls itself. */
                (void)memcpy(peer.address, t->peer.address, sizeof(peer.address));
                peer.port = t->peer.port;
                t->peer = peer;
                r = link_send(t->link, proof);
                if (r < 0)
                        r = error_errno(&err, -r, "cannot answer");
        }
        if (r < 0)
                fail(t, &err);
}

static void take_done(struct talk *t)
{
        struct error err = {0};

        if (!t->peer.certificate) {
                (void)error_set(&err, EPROTO, "done before the offer");
                fail(t, &err);
                return;
        }
        if (t->name[0])
                (void)memcpy(t->peer.name, t->name, sizeof(t->peer.name));
        (void)hosts_store(t->hosts->daemon, &t->peer, &err);
        finish(t, NULL, &err);
}

static void on_message(struct link *link, const struct message *m, void *context)
{
        struct talk *t = context;
        struct error err = {0};

        (void)link;
        if (m->type == MSG_ANSWER && t->on_answer)
                take_answer(t, m);
        else if (m->type == MSG_PAIR_OFFER && t->on_paired)
                take_offer(t, m);
        else if (m->type == MSG_PAIR_DONE && t->on_paired)
                take_done(t);
        else {
                (void)error_set(&err, EPROTO, "unexpected message %s", message_type_name(m->type));
                fail(t, &err);
        }
}

static void on_up(struct link *link, const struct link_peer *peer, uint32_t version, void *context)
{
        struct talk *t = context;
        struct message *m;
        struct error err = {0};

        (void)peer;
        (void)version;
        if (t->on_paired) {
                m = TAKE_PTR(t->open);
        } else {
                m = message_new(MSG_QUERY);
                message_put_text(m, FIELD_WHAT, t->what);
                message_put_text(m, FIELD_ARGUMENT, t->argument[0] ? t->argument : NULL);
        }
        int r = link_send(link, m);
        if (r < 0) {
                (void)error_errno(&err, -r, "cannot ask");
                fail(t, &err);
        }
}

static void on_down(struct link *link, const struct error *cause, void *context)
{
        struct talk *t = context;
        struct error err = *cause;

        (void)link;
        if (err.kind == ERROR_NONE)
                (void)error_set(&err, ECONNRESET, "it closed the connection");
        fail(t, &err);
}

static int start(struct hosts *h, struct talk *t, const struct link_connect_options *options, unsigned limit_ms,
                 struct error *err)
{
        static const struct link_handlers handlers = {.up = on_up, .message = on_message, .down = on_down};
        CLEANUP(credentials_free_ptr) struct credentials *credentials = NULL;
        struct daemon *d = h->daemon;

        int r = trust_credentials(d->places.trust, &credentials, err);
        if (r == 0) {
                r = loop_add_timer(d->loop, limit_ms, on_limit, t, &t->limit);
                if (r < 0)
                        r = error_errno(err, -r, "cannot set a timer");
        }
        if (r == 0)
                r = link_connect(d->loop, &d->link_environment, credentials, options, &handlers, t, &t->link, err);
        return r;
}

static struct talk *talk_new(struct hosts *h, const char *address, uint16_t port, void *context)
{
        struct talk *t = calloc(1, sizeof(*t));

        if (!t)
                return NULL;
        t->hosts = h;
        t->context = context;
        (void)snprintf(t->label, sizeof(t->label), strchr(address, ':') ? "[%s]:%u" : "%s:%u", address, port);
        t->next = h->first;
        h->first = t;
        return t;
}

int hosts_query(struct hosts *h, const struct peer *peer, const char *what, const char *argument, unsigned limit_ms,
                host_answer_fn fn, void *context, struct error *err)
{
        const struct link_connect_options options = {.address = peer->address,
                                                     .port = peer->port,
                                                     .purpose = PURPOSE_QUERY,
                                                     .expect = peer->fingerprint,
                                                     .silence_ms = limit_ms};
        CLEANUP(talk_free_ptr) struct talk *t = talk_new(h, peer->address, peer->port, context);

        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        (void)snprintf(t->label, sizeof(t->label), "%s", peer->name);
        (void)snprintf(t->what, sizeof(t->what), "%s", what);
        (void)snprintf(t->argument, sizeof(t->argument), "%s", argument ? argument : "");
        t->on_answer = fn;
        int r = start(h, t, &options, limit_ms, err);
        if (r < 0)
                return r;
        (void)TAKE_PTR(t);
        return 0;
}

int hosts_pair(struct hosts *h, const char *address, uint16_t port, const char *name, const char *code,
               host_paired_fn fn, void *context, struct error *err)
{
        const struct daemon *d = h->daemon;
        const struct pair_self self = {
                .trust_dir = d->places.trust, .name = d->config->host_name, .port = d->config->port};
        const struct link_connect_options options = {
                .address = address, .port = port, .purpose = PURPOSE_PAIR, .silence_ms = PAIR_LIMIT_MS};
        CLEANUP(talk_free_ptr) struct talk *t = talk_new(h, address, port, context);

        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        t->on_paired = fn;
        (void)snprintf(t->name, sizeof(t->name), "%s", name ? name : "");
        int r = exchange_open(&self, code, &t->exchange, &t->open, err);
        if (r == 0)
                r = start(h, t, &options, PAIR_LIMIT_MS, err);
        if (r < 0)
                return r;
        (void)snprintf(t->peer.address, sizeof(t->peer.address), "%s", address);
        t->peer.port = port;
        (void)TAKE_PTR(t);
        return 0;
}

int hosts_store(struct daemon *d, struct peer *peer, struct error *err)
{
        CLEANUP(peer_done) struct peer old = {0};

        if (strcmp(peer->name, d->config->host_name) == 0)
                return error_set_kind(err, ERROR_REFUSED, EEXIST,
                                      "the other host is called %s as this one: give it another name", peer->name);
        if (trust_find(d->places.trust, peer->name, &old, NULL) == 0 && strcmp(old.fingerprint, peer->fingerprint) != 0)
                return error_set_kind(err, ERROR_REFUSED, EEXIST,
                                      "another host is paired as %s already: unpair that one, or give a name",
                                      peer->name);
        peer->paired_ms = clock_wall_ms();
        int r = trust_add(d->places.trust, peer, err);
        if (r < 0)
                return r;
        log_info("paired with %s at %s port %u", peer->name, peer->address, peer->port);
        (void)events_publish(
                d->events, "host.paired", NULL,
                json_pack("{s:s, s:s, s:i}", "name", peer->name, "address", peer->address, "port", (int)peer->port));
        return 0;
}
