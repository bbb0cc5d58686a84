/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "net/net.h"
#include "wire/bytes.h"

/* Frames from the peer: every length is checked before a byte of the body is read, and goes into memory of fixed size.
 */

static void broken(struct net *net, const char *what)
{
        struct error err = {0};

        (void)error_set(&err, EPROTO, "%s broke the protocol: %s", net->peer, what);
        net_down(net, &err, false);
}

static int free_slot(const struct net *net)
{
        for (int i = 0; i < BULK_SLOTS; i++)
                if (!net->rx.slot_used[i])
                        return i;
        return -1;
}

/* Reading stops where the owner does not keep up; TCP passes that on to the peer. */
bool receive_paused(const struct net *net)
{
        const struct receive *rx = &net->rx;

        if (net->phase > PHASE_OPEN || net->pending)
                return true;
        if (rx->state == RECEIVING_BULK_HEADER)
                return !net->ring || free_slot(net) < 0;
        if (rx->state == RECEIVING_STREAM)
                return rx->stream_size > 0;
        return false;
}

static void begin_header(struct receive *rx)
{
        rx->state = RECEIVING_HEADER;
        rx->have = 0;
        rx->want = FRAME_HEADER;
}

static void begin_body(struct receive *rx, int state, size_t want)
{
        rx->state = state;
        rx->have = 0;
        rx->want = want;
}

static void header_done(struct net *net)
{
        struct receive *rx = &net->rx;
        const size_t size = get_be32(rx->header), bulk = bulk_header_size(net);

        rx->body = size;
        if (rx->header[5] || rx->header[6] || rx->header[7]) {
                broken(net, "reserved bytes are in use");
        } else if (rx->header[4] == FRAME_MESSAGE) {
                if (size < 4 || size > MESSAGE_MAX)
                        broken(net, "a message of an impossible size");
                else
                        begin_body(rx, RECEIVING_MESSAGE, size);
        } else if (rx->header[4] == FRAME_BULK && net->purpose == PURPOSE_BULK && net->phase == PHASE_OPEN) {
                if (size < bulk || size > bulk + BULK_MAX)
                        broken(net, "a bulk frame of an impossible size");
                else
                        begin_body(rx, RECEIVING_BULK_HEADER, bulk);
        } else if (rx->header[4] == FRAME_PACKED && net->packer && net->phase == PHASE_OPEN) {
                if (size <= bulk + PACKED_BYTES || size > bulk + PACKED_BYTES + BULK_MAX)
                        broken(net, "a packed frame of an impossible size");
                else
                        begin_body(rx, RECEIVING_BULK_HEADER, bulk + PACKED_BYTES);
        } else if (rx->header[4] == FRAME_STREAM && net->purpose == PURPOSE_STREAM && net->phase == PHASE_OPEN) {
                if (size > STREAM_CHUNK || rx->stream_end)
                        broken(net, rx->stream_end ? "bytes after the end" : "a stream frame of an impossible size");
                else
                        begin_body(rx, RECEIVING_STREAM, size);
        } else {
                broken(net, "a frame of a kind that does not belong there");
        }
}

static void message_done(struct net *net)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        struct receive *rx = &net->rx;
        struct error err = {0};
        int r = message_decode(rx->message, rx->body, &m, &err);

        begin_header(rx);
        if (r == 0)
                r = message_check_place(m, net->purpose, net->config.accepting, &err);
        if (r < 0) {
                broken(net, err.text);
                return;
        }
        if (m->type == MSG_PING) {
                /* A flood of them gets one answer at a time. */
                if (transmit_idle(net))
                        (void)transmit_simple(net, MSG_PONG);
        } else if (m->type < MSG_PING) {
                greeting_from_peer(net, m);
        } else if (m->type != MSG_PONG) {
                if (net->phase == PHASE_OPEN)
                        owner_send_message(net, m);
                else
                        broken(net, "it goes on before it was welcomed");
        }
}

static bool begin_packed(struct net *net)
{
        struct receive *rx = &net->rx;
        const uint8_t *p = rx->bulk_header + bulk_header_size(net);
        const uint32_t size = get_be32(p + 4);

        if (p[1] || p[2] || p[3] || size == 0 || size > BULK_MAX) {
                broken(net, "a packed frame with an impossible header");
                return false;
        }
        if (!rx->packed)
                rx->packed = malloc(BULK_MAX);
        if (!rx->packed) {
                struct error err = {0};
                (void)error_set(&err, ENOMEM, "out of memory");
                net_down(net, &err, false);
                return false;
        }
        rx->frame.size = size;
        begin_body(rx, RECEIVING_PACKED, rx->body - bulk_header_size(net) - PACKED_BYTES);
        return true;
}

static void bulk_header_done(struct net *net)
{
        struct receive *rx = &net->rx;
        const uint8_t *p = rx->bulk_header;
        const bool packed = rx->header[4] == FRAME_PACKED;

        rx->frame = (struct bulk_frame){
                .type = get_be16(p),
                .flags = get_be16(p + 2),
                .size = packed ? 0 : (uint32_t)(rx->body - bulk_header_size(net)),
                .object = get_be64(p + 4),
                .offset = get_be64(p + 12),
                .count = get_be64(p + 20),
                .sequence = net->version >= VERSION_BUNDLES ? get_be64(p + BULK_HEADER) : 0,
        };
        if (packed && !begin_packed(net))
                return;
        rx->slot = free_slot(net); /* there is one, or reading would be paused */
        rx->slot_used[rx->slot] = true;
        if (!packed)
                begin_body(rx, RECEIVING_BULK, rx->frame.size);
}

static void bulk_done(struct net *net)
{
        struct receive *rx = &net->rx;
        struct record_bulk record = {.header.type = RECORD_BULK, .slot = (uint32_t)rx->slot, .frame = rx->frame};

        rx->slot = -1;
        begin_header(rx);
        owner_send(net, &record, sizeof(record));
}

static void packed_done(struct net *net)
{
        struct receive *rx = &net->rx;
        int r = unpack(net->packer, rx->bulk_header[bulk_header_size(net)], rx->packed, rx->have,
                       net->ring + RING_RECEIVE(rx->slot), rx->frame.size);

        if (r == 0) {
                bulk_done(net);
        } else if (r == -ENOMEM) {
                struct error err = {0};
                (void)error_set(&err, ENOMEM, "out of memory");
                net_down(net, &err, false);
        } else {
                broken(net, "a packed frame that cannot be unpacked");
        }
}

void receive_stream_out(struct net *net)
{
        struct receive *rx = &net->rx;

        while (rx->stream_size && net->stream_fd >= 0) {
                ssize_t n = net->stream_discard ? (ssize_t)rx->stream_size
                                                : send(net->stream_fd, rx->stream + rx->stream_at, rx->stream_size,
                                                       MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n < 0) {
                        /* The reader is gone; its own end says so to the peer. */
                        net->stream_discard = true;
                        continue;
                }
                rx->stream_at += (size_t)n;
                rx->stream_size -= (size_t)n;
        }
        if (rx->stream_end && !rx->stream_size && net->stream_fd >= 0 && !net->stream_out_done) {
                (void)shutdown(net->stream_fd, SHUT_WR);
                net->stream_out_done = true;
                net_end_of_stream(net);
        }
}

static void stream_done(struct net *net)
{
        struct receive *rx = &net->rx;

        rx->stream_at = 0;
        rx->stream_size = rx->body;
        if (rx->body == 0)
                rx->stream_end = true;
        begin_header(rx);
        receive_stream_out(net);
}

static uint8_t *target(struct net *net)
{
        struct receive *rx = &net->rx;

        switch (rx->state) {
        case RECEIVING_MESSAGE:
                return rx->message;
        case RECEIVING_BULK_HEADER:
                return rx->bulk_header;
        case RECEIVING_BULK:
                return net->ring + RING_RECEIVE(rx->slot);
        case RECEIVING_PACKED:
                return rx->packed;
        case RECEIVING_STREAM:
                return rx->stream;
        case RECEIVING_HEADER:
        default:
                rx->want = FRAME_HEADER;
                return rx->header;
        }
}

static void part_done(struct net *net)
{
        switch (net->rx.state) {
        case RECEIVING_HEADER:
                header_done(net);
                break;
        case RECEIVING_MESSAGE:
                message_done(net);
                break;
        case RECEIVING_BULK_HEADER:
                bulk_header_done(net);
                break;
        case RECEIVING_BULK:
                bulk_done(net);
                break;
        case RECEIVING_PACKED:
                packed_done(net);
                break;
        case RECEIVING_STREAM:
                stream_done(net);
                break;
        }
}

static void read_failed(struct net *net, int ssl_error, int saved_errno)
{
        struct error err = {0};

        net->rx.more = false;
        if (ssl_error == SSL_ERROR_WANT_READ)
                return;
        if (ssl_error == SSL_ERROR_WANT_WRITE) {
                net->rx.wants_write = true;
                return;
        }
        if (ssl_error == SSL_ERROR_ZERO_RETURN) {
                if (net->phase == PHASE_OPEN && net->purpose == PURPOSE_STREAM)
                        (void)error_set(&err, EPIPE, "%s ended the stream early", net->peer);
                else if (net->phase == PHASE_OPEN && net->rx.state == RECEIVING_HEADER && net->rx.have == 0)
                        error_clear(&err);
                else
                        (void)error_set(&err, ECONNRESET, "%s closed the connection early", net->peer);
        } else {
                tls_explain(net, ssl_error, saved_errno, &err);
                net->tls_dead = true;
        }
        net_down(net, &err, false);
}

void receive_all(struct net *net)
{
        struct receive *rx = &net->rx;
        size_t turn = 0;

        rx->more = true;
        while (turn < TURN_BYTES && !receive_paused(net)) {
                uint8_t *p = target(net);
                size_t n = 0;
                if (rx->have < rx->want) {
                        ERR_clear_error();
                        errno = 0;
                        if (SSL_read_ex(net->ssl, p + rx->have, rx->want - rx->have, &n) != 1) {
                                int saved = errno;
                                read_failed(net, SSL_get_error(net->ssl, 0), saved);
                                return;
                        }
                        rx->have += n;
                        turn += n;
                }
                if (rx->have == rx->want)
                        part_done(net);
        }
}
