/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "session/tunnel.h"
#include "wire/trust.h"

#define INBOX_MAX 64
#define STREAMS_MAX 64
#define CONNECT_TIMEOUT_MS 20000

struct stream {
        struct session *session;
        struct link *link;
        uint32_t number;
        enum purpose purpose;
        bool open, lost;
        bool closing; /* nobody needs it any more, but its last bytes may still be on their way */
        bool bundled; /* it is one of p->bundle, in that place */
        unsigned place;
        struct error loss;
};

struct session_peer {
        struct session *session;
        struct link *control;
        bool control_open;
        uint32_t version; /* that a control link of ours agreed on; 0: none yet */
        struct error loss;
        struct message *inbox[INBOX_MAX];
        size_t inbox_first, inbox_count;
        struct stream *streams[STREAMS_MAX];
        struct bundle *bundle; /* of streams whose purpose is bulk */
        unsigned n_bundled;    /* so many */
        bool bundle_open;
        struct peer_bulk_handlers bulk_handlers;
        void *bulk_context;
        uint64_t sent_before, received_before; /* of links that are gone */
};

int peer_new(struct session *s, struct error *err)
{
        s->peer = calloc(1, sizeof(*s->peer));
        if (!s->peer)
                return error_set(err, ENOMEM, "out of memory");
        s->peer->session = s;
        return 0;
}

/* Close a link and keep what it counted. */
static void retire(struct session_peer *p, struct link **link)
{
        uint64_t sent = 0, received = 0;

        if (!*link)
                return;
        link_counters(*link, &sent, &received);
        p->sent_before += sent;
        p->received_before += received;
        link_free(TAKE_PTR(*link));
}

static void stream_free(struct session_peer *p, struct stream *stream)
{
        if (!stream)
                return;
        for (size_t i = 0; i < STREAMS_MAX; i++)
                if (p->streams[i] == stream)
                        p->streams[i] = NULL;
        retire(p, &stream->link);
        free(stream);
}

void peer_free(struct session_peer *p)
{
        if (!p)
                return;
        for (size_t i = 0; i < STREAMS_MAX; i++)
                stream_free(p, p->streams[i]);
        retire(p, &p->control);
        bundle_free(p->bundle);
        while (p->inbox_count > 0) {
                message_free(p->inbox[p->inbox_first]);
                p->inbox_first = (p->inbox_first + 1) % INBOX_MAX;
                p->inbox_count--;
        }
        free(p);
}

/* -- control link ---------------------------------------------------------------------------------------------- */

static void control_up(struct link *link, const struct link_peer *who, uint32_t version, void *context)
{
        struct session_peer *p = context;

        (void)link;
        (void)who;
        p->version = version;
        p->control_open = true;
}

static void control_message(struct link *link, const struct message *m, void *context)
{
        struct session_peer *p = context;
        AUTO_FREE uint8_t *bytes = NULL;
        struct message *copy = NULL;
        size_t size;

        (void)link;
        if (p->inbox_count == INBOX_MAX || message_encode(m, &bytes, &size) < 0 ||
            message_decode(bytes, size, &copy, NULL) < 0) {
                (void)error_set(&p->loss, EOVERFLOW, "%s sends more messages than the protocol has",
                                p->session->request.peer);
                peer_close(p->session);
                return;
        }
        p->inbox[(p->inbox_first + p->inbox_count++) % INBOX_MAX] = copy;
}

static void control_down(struct link *link, const struct error *err, void *context)
{
        struct session_peer *p = context;

        if (link != p->control)
                return;
        p->control_open = false;
        if (err->kind == ERROR_NONE)
                (void)error_set(&p->loss, ENOTCONN, "%s closed the connection", p->session->request.peer);
        else
                p->loss = *err;
        retire(p, &p->control);
}

static const struct link_handlers control_handlers = {
        .up = control_up,
        .message = control_message,
        .down = control_down,
};

int peer_dial(struct session *s, enum purpose purpose, uint32_t number, const struct link_handlers *handlers,
              void *context, struct link **ret, struct error *err)
{
        const struct link_environment environment = {.program = s->paths.net};
        const bool data = purpose == PURPOSE_STREAM || purpose == PURPOSE_BULK;
        const unsigned links = purpose == PURPOSE_BULK ? s->peer->n_bundled : 1; /* each gets its share of the cap */
        struct link_connect_options options = {
                .purpose = purpose,
                .migration = s->request.id,
                .token = data ? s->token : NULL,
                .stream = number,
                .bytes_per_second = data ? s->request.options.bandwidth / links : 0,
        };

        if (s->tunnel)
                return session_tunnel_dial(s, &options, handlers, context, ret, err);
        if (s->request.way.kind != WAY_DIAL)
                return error_set(err, ENOTCONN, "%s reached this host through a tunnel: only it can connect again",
                                 s->request.peer);
        CLEANUP(peer_done) struct peer host = {0};
        CLEANUP(credentials_free_ptr) struct credentials *credentials = NULL;

        int r = trust_find(s->paths.trust, s->request.peer, &host, err);
        if (r < 0)
                return r;
        if (strcmp(host.fingerprint, s->request.peer_fingerprint) != 0)
                return error_set_kind(err, ERROR_DENIED, EPERM, "%s was paired anew since this migration began",
                                      s->request.peer);
        r = trust_credentials(s->paths.trust, &credentials, err);
        if (r < 0)
                return r;

        options.address = s->request.options.via[0] ? s->request.options.via : host.address;
        options.port = host.port;
        options.expect = s->request.peer_fingerprint;
        return link_connect(s->loop, &environment, credentials, &options, handlers, context, ret, err);
}

static bool control_settled(void *context)
{
        const struct session_peer *p = context;

        return p->control_open || !p->control;
}

int peer_connect(struct session *s, enum session_wait_mode mode, struct error *err)
{
        struct session_peer *p = s->peer;

        peer_close(s);
        error_clear(&p->loss);
        int r = session_tunnel_ready(s, mode, err);
        if (r == 0)
                r = peer_dial(s, PURPOSE_CONTROL, 0, &control_handlers, p, &p->control, err);
        if (r < 0)
                return r;
        /* The link is not "lost" while it is not yet open: only the user and the clock may interrupt here. */
        uint64_t deadline_ms = CONNECT_TIMEOUT_MS;
        if (mode == WAIT_INTERRUPTIBLE && s->request.options.timeout_s) {
                const uint64_t allowed = s->request.options.timeout_s * 1000, spent = clock_ms() - s->started_ms;
                const uint64_t left = spent < allowed ? allowed - spent : 1;
                deadline_ms = left < deadline_ms ? left : deadline_ms;
        }
        r = session_wait(s, WAIT_THROUGH, control_settled, p, deadline_ms, "connecting", err);
        if (r < 0) {
                peer_close(s);
                return r;
        }
        if (mode == WAIT_INTERRUPTIBLE && s->cancel_requested)
                return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        if (!p->control_open) {
                if (err)
                        *err = p->loss;
                return -(p->loss.code ?: ENOTCONN);
        }
        return 0;
}

bool peer_can_connect(const struct session *s)
{
        return s->request.way.kind == WAY_DIAL || session_tunnel_can_begin(s);
}

uint32_t peer_version(const struct session *s)
{
        return s->peer->version;
}

bool peer_is_up(const struct session *s)
{
        return s->peer->control && s->peer->control_open;
}

const struct error *peer_loss(const struct session *s)
{
        return &s->peer->loss;
}

void peer_close(struct session *s)
{
        retire(s->peer, &s->peer->control);
        s->peer->control_open = false;
}

int peer_send(struct session *s, struct message *m, struct error *err)
{
        if (!peer_is_up(s)) {
                message_free(m);
                return error_set(err, ENOTCONN, "not connected to %s", s->request.peer);
        }
        int r = link_send(s->peer->control, m);
        return r < 0 ? error_errno(err, -r, "cannot send to %s", s->request.peer) : 0;
}

int peer_send_simple(struct session *s, enum message_type type, struct error *err)
{
        return peer_send(s, message_new(type), err);
}

struct message *peer_take(struct session *s)
{
        struct session_peer *p = s->peer;

        if (p->inbox_count == 0)
                return NULL;
        struct message *m = p->inbox[p->inbox_first];
        p->inbox_first = (p->inbox_first + 1) % INBOX_MAX;
        p->inbox_count--;
        return m;
}

bool peer_has_message(const struct session *s)
{
        return s->peer->inbox_count > 0;
}

const struct message *peer_first(const struct session *s)
{
        return s->peer->inbox_count > 0 ? s->peer->inbox[s->peer->inbox_first] : NULL;
}

static bool inbox_filled(void *context)
{
        return peer_has_message(context);
}

int peer_expect(struct session *s, enum message_type type, uint64_t timeout_ms, struct message **ret, struct error *err)
{
        char what[96];

        (void)snprintf(what, sizeof(what), "waiting for %s of %s", message_type_name((uint16_t)type), s->request.peer);
        int r = session_wait(s, WAIT_INTERRUPTIBLE, inbox_filled, s, timeout_ms, what, err);
        if (r < 0)
                return r;

        r = session_far_failure(s, peer_first(s), err);
        if (r < 0)
                return r; /* stays in the queue: it is news for the handover, too */
        CLEANUP(message_free_ptr) struct message *m = peer_take(s);
        if (m->type != type)
                return error_set(err, EPROTO, "%s sent %s where %s was due", s->request.peer,
                                 message_type_name(m->type), message_type_name((uint16_t)type));
        *ret = TAKE_PTR(m);
        return 0;
}

/* -- further links --------------------------------------------------------------------------------------------- */

static void stream_up(struct link *link, const struct link_peer *who, uint32_t version, void *context)
{
        struct stream *stream = context;

        (void)link;
        (void)who;
        (void)version;
        stream->open = true;
}

static void close_bundle(struct session_peer *p)
{
        for (size_t i = 0; i < STREAMS_MAX; i++)
                if (p->streams[i] && p->streams[i]->bundled)
                        stream_free(p, p->streams[i]);
        bundle_free(TAKE_PTR(p->bundle));
        p->bundle_open = false;
}

/* None of them is of use without the others. */
static void bundle_lost(struct session_peer *p, const struct error *err)
{
        const struct error loss = *err;

        close_bundle(p);
        if (p->bulk_handlers.lost)
                p->bulk_handlers.lost(&loss, p->bulk_context);
}

static void stream_down(struct link *link, const struct error *err, void *context)
{
        struct stream *stream = context;
        struct session_peer *p = stream->session->peer;

        (void)link;
        stream->lost = true;
        stream->open = false;
        stream->loss = *err;
        if (stream->loss.kind == ERROR_NONE)
                (void)error_set(&stream->loss, ENOTCONN, "%s closed a data connection", p->session->request.peer);
        if (stream->closing) {
                stream_free(p, stream);
                return;
        }
        retire(p, &stream->link);
        if (!stream->bundled)
                return;
        if (p->bundle_open)
                bundle_lost(p, &stream->loss);
        else
                bundle_free(TAKE_PTR(p->bundle)); /* peer_bulk() will say so */
}

static bool stream_bulk(struct link *link, const struct bulk_frame *frame, const void *data, void *context)
{
        struct stream *stream = context;
        struct session_peer *p = stream->session->peer;
        struct error err = {0};

        (void)link;
        int r = stream->bundled && p->bundle ? bundle_take(p->bundle, stream->place, frame, data) : 0;
        if (r >= 0)
                return r > 0;
        (void)error_set(&err, EPROTO, "%s left out a frame", p->session->request.peer);
        bundle_lost(p, &err);
        return true;
}

static void stream_writable(struct link *link, void *context)
{
        struct stream *stream = context;
        struct session_peer *p = stream->session->peer;

        (void)link;
        if (stream->bundled && p->bulk_handlers.writable)
                p->bulk_handlers.writable(p->bulk_context);
}

static const struct link_handlers stream_handlers = {
        .up = stream_up,
        .bulk = stream_bulk,
        .writable = stream_writable,
        .down = stream_down,
};

static struct stream *stream_find(const struct session_peer *p, uint32_t number)
{
        for (size_t i = 0; i < STREAMS_MAX; i++)
                if (p->streams[i] && p->streams[i]->number == number)
                        return p->streams[i];
        return NULL;
}

static struct stream *stream_new(struct session_peer *p, enum purpose purpose, uint32_t number)
{
        for (size_t i = 0; i < STREAMS_MAX; i++) {
                if (p->streams[i])
                        continue;
                struct stream *stream = calloc(1, sizeof(*stream));
                if (!stream)
                        return NULL;
                *stream = (struct stream){.session = p->session, .number = number, .purpose = purpose};
                p->streams[i] = stream;
                return stream;
        }
        return NULL;
}

static bool token_matches(const struct session *s, const char *hex)
{
        char own[2 * SESSION_TOKEN_SIZE + 1];
        unsigned difference = 0;

        if (strlen(hex) != 2 * SESSION_TOKEN_SIZE)
                return false;
        for (size_t i = 0; i < SESSION_TOKEN_SIZE; i++)
                (void)snprintf(own + 2 * i, 3, "%02x", s->token[i]);
        for (size_t i = 0; i < 2 * (size_t)SESSION_TOKEN_SIZE; i++)
                difference |= (unsigned char)own[i] ^ (unsigned char)hex[i];
        return difference == 0;
}

void peer_attach(struct session *s, const char *fingerprint, enum purpose purpose, uint32_t number,
                 const char *token_hex, int record_fd)
{
        struct session_peer *p = s->peer;
        const struct link_handlers *handlers = purpose == PURPOSE_CONTROL ? &control_handlers : &stream_handlers;
        struct stream *stream = NULL;
        struct link *link = NULL;

        const char *refusal = NULL;
        if (strcmp(fingerprint, s->request.peer_fingerprint) != 0)
                refusal = "this migration belongs to another host";
        else if (purpose != PURPOSE_CONTROL && !token_matches(s, token_hex))
                refusal = "this connection does not prove that it belongs to the migration";
        else if (purpose != PURPOSE_CONTROL && purpose != PURPOSE_STREAM && purpose != PURPOSE_BULK)
                refusal = "a migration has no such connection";
        else if (purpose != PURPOSE_CONTROL && (stream_find(p, number) || !(stream = stream_new(p, purpose, number))))
                refusal = "no further connection is expected";

        void *context = purpose == PURPOSE_CONTROL ? (void *)p : (void *)stream;
        if (link_adopt(s->loop, record_fd, handlers, context, &link) < 0) {
                stream_free(p, stream);
                return;
        }
        if (refusal) {
                (void)link_refuse(link, ERROR_DENIED, refusal);
                link_free(link);
                return;
        }
        if (stream) {
                /* Welcomed only when a phase asks for it: nothing may arrive before somebody listens. */
                stream->link = link;
        } else if (link_welcome(link, WIRE_VERSION_MAX) < 0) {
                link_free(link);
        } else {
                peer_close(s);
                p->control = link;
                p->control_open = true;
                error_clear(&p->loss);
        }
}

static bool stream_settled(void *context)
{
        const struct stream *stream = context;

        return stream->open || stream->lost;
}

struct arrival {
        struct session *session;
        uint32_t number;
        enum session_wait_mode mode;
};

/* Or, where nothing else would end the wait: the source has lost us, or says something else since. */
static bool stream_arrived(void *context)
{
        const struct arrival *a = context;

        return stream_find(a->session->peer, a->number) != NULL ||
               (a->mode == WAIT_THROUGH && (!peer_is_up(a->session) || peer_has_message(a->session)));
}

/* Once it runs on the target nothing is given up any more. */
static enum session_wait_mode stream_wait_mode(const struct session *s)
{
        return s->state == SOURCE_SERVING || s->state == TARGET_RUNNING ? WAIT_THROUGH : WAIT_INTERRUPTIBLE;
}

static int stream_dial(struct session *s, struct stream *stream, struct error *err)
{
        return stream ? peer_dial(s, stream->purpose, stream->number, &stream_handlers, stream, &stream->link, err)
                      : error_set(err, ENOMEM, "too many connections at once");
}

static int stream_await(struct session *s, enum purpose purpose, uint32_t number, struct stream **ret,
                        struct error *err)
{
        struct arrival arrival = {.session = s, .number = number, .mode = stream_wait_mode(s)};

        int r = session_wait(s, arrival.mode, stream_arrived, &arrival, CONNECT_TIMEOUT_MS,
                             "waiting for a data connection", err);
        *ret = stream_find(s->peer, number);
        if (r == 0 && !*ret)
                r = error_set(err, ENOTCONN, "data connection %u did not come", number);
        if (r == 0 && (*ret)->purpose != purpose)
                r = error_set(err, EPROTO, "data connection %u is of another kind", number);
        return r;
}

/* The stream of that number is on its way: the source connects it, the target has waited for it. */
static int stream_begin(struct session *s, enum purpose purpose, uint32_t number, struct stream **ret,
                        struct error *err)
{
        if (s->request.side == SIDE_TARGET)
                return stream_await(s, purpose, number, ret, err);
        *ret = stream_new(s->peer, purpose, number);
        return stream_dial(s, *ret, err);
}

/* It is open. */
static int stream_finish(struct session *s, struct stream *stream, struct error *err)
{
        if (s->request.side == SIDE_TARGET) {
                if (!stream->link || link_welcome(stream->link, WIRE_VERSION_MAX) < 0)
                        return error_set(err, ENOTCONN, "data connection %u was lost", stream->number);
                stream->open = true;
                return 0;
        }
        int r = session_wait(s, stream_wait_mode(s), stream_settled, stream, CONNECT_TIMEOUT_MS,
                             "opening a data connection", err);
        if (r == 0 && stream->lost) {
                if (err)
                        *err = stream->loss;
                r = error_wrap(err, "cannot open a data connection to %s", s->request.peer);
        }
        return r;
}

int peer_stream(struct session *s, uint32_t number, int *ret_fd, struct error *err)
{
        struct stream *stream;
        int ends[2];

        int r = stream_begin(s, PURPOSE_STREAM, number, &stream, err);
        if (r == 0)
                r = stream_finish(s, stream, err);
        if (r < 0) {
                stream_free(s->peer, stream);
                return r;
        }
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
                return error_errno(err, errno, "cannot make a socket pair");
        r = link_attach_stream(stream->link, ends[1]);
        if (r < 0) {
                (void)close(ends[0]);
                return error_errno(err, -r, "cannot use a data connection");
        }
        *ret_fd = ends[0];
        return 0;
}

void peer_stream_close(struct session *s, uint32_t number)
{
        struct stream *stream = stream_find(s->peer, number);

        /* The process at our end is gone; phaul-net ends the connection when all of it has arrived. */
        if (stream && stream->link)
                stream->closing = true;
        else
                stream_free(s->peer, stream);
}

int peer_bulk(struct session *s, uint32_t first, unsigned n, const struct peer_bulk_handlers *handlers, void *context,
              struct bundle **ret, struct error *err)
{
        struct session_peer *p = s->peer;
        struct stream *streams[BUNDLE_LINKS_MAX] = {NULL};

        /* Frames may come with the loop's next round: all is there before the links are. */
        p->bulk_handlers = *handlers;
        p->bulk_context = context;
        p->n_bundled = n;
        int r = bundle_new(n, handlers->frame, context, &p->bundle);
        if (r < 0)
                return error_errno(err, -r, "cannot open %u data connections", n);
        for (unsigned i = 0; i < n && r == 0; i++) {
                r = stream_begin(s, PURPOSE_BULK, first + i, &streams[i], err);
                if (r == 0 && p->bundle)
                        bundle_set_link(p->bundle, i, streams[i]->link);
                if (streams[i]) {
                        streams[i]->bundled = true;
                        streams[i]->place = i;
                }
        }
        for (unsigned i = 0; i < n && r == 0; i++)
                r = stream_finish(s, streams[i], err);
        for (unsigned i = 0; i < n && r == 0; i++)
                if (streams[i]->lost)
                        r = error_set(err, ENOTCONN, "data connection %u was lost", streams[i]->number);
        if (r < 0) {
                close_bundle(p);
                return r;
        }
        p->bundle_open = true;
        *ret = p->bundle;
        return 0;
}

void peer_bulk_close(struct session *s)
{
        close_bundle(s->peer);
}

void peer_counters(const struct session *s, uint64_t *ret_sent, uint64_t *ret_received)
{
        const struct session_peer *p = s->peer;
        uint64_t sent, received;

        *ret_sent = p->sent_before;
        *ret_received = p->received_before;
        for (size_t i = 0; i <= STREAMS_MAX; i++) {
                const struct link *link = i < STREAMS_MAX ? (p->streams[i] ? p->streams[i]->link : NULL) : p->control;
                if (!link)
                        continue;
                link_counters(link, &sent, &received);
                *ret_sent += sent;
                *ret_received += received;
        }
}
