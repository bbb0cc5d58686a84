/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/tunnel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/link_private.h"
#include "wire/trust.h"

/* The owner's side of a tunnel. Nothing that its phaul-net says is believed before it is checked. */

#define FIRST_LANE_FD 4
#define WORDS_FD 8
#define SILENCE_MS 5000

struct tunnel {
        struct loop *loop;
        struct tunnel_handlers handlers;
        void *context;
        int record_fd;
        struct source *source;
        bool accepting, up, down, in_callback, freed;
        unsigned n_lanes;
        uint32_t last_channel;
        char label[128];
        char own[FINGERPRINT_LENGTH + 1];
};

static void destroy(struct tunnel *t)
{
        source_free(t->source);
        if (t->record_fd >= 0)
                (void)close(t->record_fd);
        free(t);
}

void tunnel_free(struct tunnel *t)
{
        if (!t)
                return;
        if (!t->in_callback) {
                destroy(t);
                return;
        }
        t->freed = true;
        source_free(TAKE_PTR(t->source));
        if (t->record_fd >= 0)
                (void)close(TAKE_FD(t->record_fd));
}

static void go_down(struct tunnel *t, const struct error *err)
{
        if (t->down || t->freed)
                return;
        t->down = true;
        source_free(TAKE_PTR(t->source));
        if (t->record_fd >= 0)
                (void)close(TAKE_FD(t->record_fd));
        if (t->handlers.down)
                t->handlers.down(t, err, t->context);
}

/* -- what phaul-net says ------------------------------------------------------------------------------------------ */

static int check_peer(const struct tunnel *t, const struct message *m, struct tunnel_peer *peer, struct error *err)
{
        uint32_t min = 0, max = 0, version;
        int64_t expires = 0;

        (void)message_get_u32(m, FIELD_VERSION_MIN, &min);
        (void)message_get_u32(m, FIELD_VERSION_MAX, &max);
        if (message_get_text(m, FIELD_NAME, peer->name, sizeof(peer->name)) < 0 || !name_is_valid(peer->name))
                return error_set(err, EBADMSG, "%s gives a name that is none", t->label);
        int r = message_dup_text(m, FIELD_CERTIFICATE, &peer->certificate);
        if (r < 0)
                return error_errno(err, -r, "the greeting of %s", t->label);
        r = wire_negotiate(min, max, &version, err);
        if (r == 0)
                r = trust_inspect(peer->certificate, peer->fingerprint, &expires, err);
        if (r < 0)
                return error_wrap(err, "%s", peer->name);
        if (expires <= clock_wall_ms())
                return error_set_kind(err, ERROR_DENIED, EKEYEXPIRED, "the certificate of %s has expired", peer->name);
        if (strcmp(peer->fingerprint, t->own) == 0)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "the other end of %s is this host itself", t->label);
        return 0;
}

static int on_greeting(struct tunnel *t, const uint8_t *data, size_t size, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        struct tunnel_peer peer = {0};

        if (t->up)
                return -EPROTO;
        int r = message_decode(data, size, &m, err);
        if (r == 0 && m->type != MSG_TUNNEL)
                r = -EPROTO;
        if (r == 0)
                r = check_peer(t, m, &peer, err);
        if (r == 0) {
                t->up = true;
                t->handlers.up(t, &peer, t->context);
        }
        free(peer.certificate);
        return r;
}

static int send_channel(struct tunnel *t, uint32_t type, uint32_t channel, uint32_t lane, int fd)
{
        struct record_channel record = {.header.type = type, .channel = channel, .lane = lane};
        ssize_t n = fd_send_packet(t->record_fd, &record, sizeof(record), fd);

        return n < 0 ? (int)n : 0;
}

static int on_asked(struct tunnel *t, const struct record_channel *asked)
{
        int pair[2];

        if (!t->accepting || !t->up || asked->lane >= t->n_lanes)
                return -EPROTO;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return send_channel(t, RECORD_REFUSED, asked->channel, asked->lane, -1);
        AUTO_FD int ours = pair[0];
        AUTO_FD int theirs = pair[1];
        int r = send_channel(t, RECORD_CHANNEL, asked->channel, asked->lane, theirs);
        if (r == 0)
                t->handlers.asked(t, TAKE_FD(ours), t->context);
        return r;
}

static void on_down(struct tunnel *t, struct record_down *record)
{
        struct error err = {.kind = record->kind, .code = record->code};

        if (record->kind > ERROR_LOST || record->kind == ERROR_NONE)
                err.kind = ERROR_FAILED;
        if (err.code <= 0)
                err.code = EIO;
        link_clean_text(record->text, sizeof(record->text));
        memcpy(err.text, record->text, sizeof(err.text));
        go_down(t, &err);
}

union tunnel_record {
        struct record_header header;
        struct record_channel channel;
        struct record_down down;
        uint8_t bytes[RECORD_MAX];
};

static int on_record(struct tunnel *t, union tunnel_record *record, size_t size, struct error *err)
{
        switch (record->header.type) {
        case RECORD_MESSAGE:
                return on_greeting(t, record->bytes + sizeof(record->header), size - sizeof(record->header), err);
        case RECORD_ASKED:
                return size == sizeof(record->channel) ? on_asked(t, &record->channel) : -EPROTO;
        case RECORD_DOWN:
                if (size != sizeof(record->down))
                        return -EPROTO;
                on_down(t, &record->down);
                return 0;
        default:
                return -EPROTO;
        }
}

/* One packet a time: the loop is level-triggered, and the handler may have freed us. */
static void on_readable(int fd, uint32_t events, void *context)
{
        struct tunnel *t = context;
        union tunnel_record *record = malloc(sizeof(*record));
        struct error err = {0};

        (void)events;
        ssize_t n = record ? fd_recv_packet(fd, record, sizeof(*record), NULL) : -ENOMEM;
        if (n == -EAGAIN) {
                free(record);
                return;
        }
        t->in_callback = true;
        int r;
        if (n == 0 || n == -ECONNRESET)
                r = error_set(&err, EPIPE, "the network process of the tunnel ended unexpectedly");
        else if (n < (ssize_t)sizeof(record->header))
                r = error_set(&err, EPROTO, "the network process of the tunnel broke the rules");
        else
                r = on_record(t, record, (size_t)n, &err);
        if (r < 0) {
                if (err.kind == ERROR_NONE)
                        (void)error_errno(&err, -r, "the network process of the tunnel broke the rules");
                go_down(t, &err);
        }
        t->in_callback = false;
        free(record);
        if (t->freed)
                destroy(t);
}

/* -- starting ----------------------------------------------------------------------------------------------------- */

static int fill_config(struct record_tunnel *c, const struct link_environment *env,
                       const struct tunnel_options *options, char own[static FINGERPRINT_LENGTH + 1], struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_TUNNEL);
        AUTO_FREE char *certificate = NULL;
        AUTO_FREE uint8_t *data = NULL;
        size_t size;

        int r = trust_self(options->trust_dir, &certificate, own, err);
        if (r < 0)
                return r;
        message_put_u32(m, FIELD_VERSION_MIN, WIRE_VERSION_MIN);
        message_put_u32(m, FIELD_VERSION_MAX, WIRE_VERSION_MAX);
        message_put_text(m, FIELD_CERTIFICATE, certificate);
        message_put_text(m, FIELD_NAME, options->name);
        message_put_text(m, FIELD_SOFTWARE, "phaul " PHAUL_VERSION);
        r = message_encode(m, &data, &size);
        if (r == 0 && size > sizeof(c->hello))
                r = -EMSGSIZE;
        if (r < 0)
                return error_errno(err, -r, "cannot make the greeting");
        *c = (struct record_tunnel){
                .header.type = RECORD_TUNNEL,
                .abi = RECORD_ABI,
                .accepting = options->accepting,
                .lanes = options->n_lanes,
                .has_words = options->words_fd >= 0,
                .silence_ms = env && env->silence_ms ? env->silence_ms : SILENCE_MS,
                .handshake_ms = options->handshake_ms,
                .hello_size = (uint32_t)size,
        };
        memcpy(c->hello, data, size);
        (void)snprintf(c->user, sizeof(c->user), "%s", env && env->user ? env->user : "");
        (void)snprintf(c->root, sizeof(c->root), "%s", env && env->root ? env->root : LINK_DEFAULT_ROOT);
        (void)snprintf(c->peer, sizeof(c->peer), "%s", options->label);
        return 0;
}

static int start_net(const struct link_environment *env, const struct tunnel_options *options, int record_fd,
                     struct error *err)
{
        const char *program = env && env->program ? env->program : PHAUL_LIBEXECDIR "/phaul-net";
        struct spawn_fd fds[6] = {{record_fd, LINK_RECORD_FD}};
        size_t n = 1;

        for (unsigned i = 0; i < options->n_lanes; i++) {
                fds[n++] = (struct spawn_fd){options->lanes[i].in, FIRST_LANE_FD + 2 * (int)i};
                fds[n++] = (struct spawn_fd){options->lanes[i].out, FIRST_LANE_FD + 2 * (int)i + 1};
        }
        if (options->words_fd >= 0)
                fds[n++] = (struct spawn_fd){options->words_fd, WORDS_FD};
        return link_start_process(program, "tunnel", options->label, fds, n, err);
}

int tunnel_start(struct loop *loop, const struct link_environment *env, const struct tunnel_options *options,
                 const struct tunnel_handlers *handlers, void *context, struct tunnel **ret, struct error *err)
{
        CLEANUP(tunnel_free_ptr) struct tunnel *t = calloc(1, sizeof(*t));
        AUTO_FREE struct record_tunnel *config = calloc(1, sizeof(*config));
        int pair[2];

        if (!t || !config)
                return error_set(err, ENOMEM, "out of memory");
        t->record_fd = -1;
        t->loop = loop;
        t->handlers = *handlers;
        t->context = context;
        t->accepting = options->accepting;
        t->n_lanes = options->n_lanes;
        (void)snprintf(t->label, sizeof(t->label), "%s", options->label);
        int r = fill_config(config, env, options, t->own, err);
        if (r == 0)
                r = link_make_root(config->root, err);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_errno(err, errno, "cannot start a tunnel");
        t->record_fd = pair[0];
        AUTO_FD int theirs = pair[1];
        link_enlarge(t->record_fd);
        link_enlarge(theirs);
        r = start_net(env, options, theirs, err);
        if (r < 0)
                return r;
        r = fd_nonblock(t->record_fd);
        if (r == 0) {
                ssize_t n = fd_send_packet(t->record_fd, config, sizeof(*config), -1);
                r = n < 0 ? (int)n : 0;
        }
        if (r == 0)
                r = loop_add_io(loop, t->record_fd, EPOLLIN, on_readable, t, &t->source);
        if (r < 0)
                return error_errno(err, -r, "cannot start a tunnel");
        *ret = TAKE_PTR(t);
        return 0;
}

int tunnel_open(struct tunnel *t, enum purpose purpose, int *ret_fd, struct error *err)
{
        const bool data = purpose == PURPOSE_STREAM || purpose == PURPOSE_BULK;
        int pair[2];

        if (t->accepting || !t->up || t->down)
                return error_set(err, ENOTCONN, "the tunnel to %s is not open", t->label);
        if (t->last_channel == UINT16_MAX)
                return error_set(err, EMFILE, "no more connections through the tunnel to %s", t->label);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_errno(err, errno, "cannot make a socket pair");
        AUTO_FD int ours = pair[0];
        AUTO_FD int theirs = pair[1];
        int r = send_channel(t, RECORD_CHANNEL, ++t->last_channel, data && t->n_lanes > 1, theirs);
        if (r < 0)
                return error_errno(err, -r, "the tunnel to %s", t->label);
        *ret_fd = TAKE_FD(ours);
        return 0;
}
