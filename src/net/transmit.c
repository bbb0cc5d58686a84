/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "net/net.h"
#include "wire/bytes.h"

/* Frames on their way to the peer, under the rate cap. A frame that was begun is finished before another one. */

#define QUEUE_MAX (TRANSMIT_HIGH + 2 * (FRAME_HEADER + MESSAGE_MAX))

static void put_frame_header(uint8_t *p, size_t size, enum frame_kind kind)
{
        put_be32(p, (uint32_t)size);
        p[4] = (uint8_t)kind;
        p[5] = p[6] = p[7] = 0;
}

static int make_room(struct transmit *tx, size_t size)
{
        if (tx->room - tx->end >= size)
                return 0;
        if (tx->start && tx->sending != SENDING_QUEUE) {
                memmove(tx->queue, tx->queue + tx->start, tx->end - tx->start);
                tx->end -= tx->start;
                tx->start = 0;
                if (tx->room - tx->end >= size)
                        return 0;
        }
        if (tx->end + size > 2 * QUEUE_MAX)
                return -ENOBUFS;
        size_t room = tx->end + size < 4096 ? 4096 : (tx->end + size) * 2;
        if (room > 2 * QUEUE_MAX)
                room = 2 * QUEUE_MAX;
        uint8_t *grown = realloc(tx->queue, room);
        if (!grown)
                return -ENOMEM;
        /* What is being sent moved along; OpenSSL was told that it may. */
        if (tx->sending == SENDING_QUEUE)
                tx->at = grown + (tx->at - tx->queue);
        tx->queue = grown;
        tx->room = room;
        return 0;
}

int transmit_message(struct net *net, const struct message *m)
{
        struct transmit *tx = &net->tx;
        uint8_t *data;
        size_t size;
        int r = message_encode(m, &data, &size);

        if (r < 0)
                return r;
        r = tx->end - tx->start > QUEUE_MAX ? -ENOBUFS : make_room(tx, FRAME_HEADER + size);
        if (r == 0) {
                put_frame_header(tx->queue + tx->end, size, FRAME_MESSAGE);
                memcpy(tx->queue + tx->end + FRAME_HEADER, data, size);
                tx->end += FRAME_HEADER + size;
        }
        free(data);
        return r;
}

/* A message without fields. Losing a heartbeat for want of memory does no harm. */
int transmit_simple(struct net *net, uint16_t type)
{
        struct message *m = message_new(type);
        int r = m ? transmit_message(net, m) : -ENOMEM;

        message_free(m);
        return r;
}

void transmit_commit(struct net *net, uint32_t slot, const struct bulk_frame *frame)
{
        struct transmit *tx = &net->tx;

        tx->slots[tx->n_slots] = (uint8_t)slot;
        tx->frames[tx->n_slots++] = *frame;
}

void transmit_stream_in(struct net *net)
{
        struct transmit *tx = &net->tx;

        if (net->stream_fd < 0 || net->stream_in_end || tx->stream_size)
                return;
        ssize_t n = recv(net->stream_fd, tx->stream + FRAME_HEADER, STREAM_CHUNK, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        /* A socket that broke has ended, too: what the other end makes of it is the business of those who use it. */
        if (n <= 0) {
                n = 0;
                net->stream_in_end = true;
        }
        put_frame_header(tx->stream, (size_t)n, FRAME_STREAM);
        tx->stream_size = FRAME_HEADER + (size_t)n;
}

static void begin(struct transmit *tx, int what, const uint8_t *at, size_t size)
{
        tx->sending = what;
        tx->at = at;
        tx->left = size;
}

static void begin_bulk(struct net *net)
{
        struct transmit *tx = &net->tx;
        const struct bulk_frame *f = &tx->frames[0];
        enum pack_method method = PACK_NONE;
        uint8_t *p = tx->bulk_header;

        tx->bulk_began_us = clock_us();
        tx->bulk_waited = false;
        tx->bulk_data = net->ring + RING_SEND(tx->slots[0]);
        tx->bulk_size = f->size;
        if (net->packer)
                method = pack(net->packer, tx->bulk_data, f->size, &tx->bulk_data, &tx->bulk_size);
        const size_t plain = bulk_header_size(net), header = plain + (method == PACK_NONE ? 0 : PACKED_BYTES);

        put_frame_header(p, header + tx->bulk_size, method == PACK_NONE ? FRAME_BULK : FRAME_PACKED);
        put_be16(p + 8, f->type);
        put_be16(p + 10, f->flags);
        put_be64(p + 12, f->object);
        put_be64(p + 20, f->offset);
        put_be64(p + 28, f->count);
        if (plain > BULK_HEADER)
                put_be64(p + FRAME_HEADER + BULK_HEADER, f->sequence);
        uint8_t *packed = p + FRAME_HEADER + plain;
        packed[0] = (uint8_t)method;
        packed[1] = packed[2] = packed[3] = 0;
        put_be32(packed + 4, f->size);
        begin(tx, SENDING_BULK_HEADER, p, FRAME_HEADER + header);
}

static void slot_sent(struct net *net)
{
        struct transmit *tx = &net->tx;
        struct record_slot record = {.header.type = RECORD_SENT, .slot = tx->slots[0]};

        if (net->packer && tx->bulk_size)
                pack_sent(net->packer, tx->bulk_size, clock_us() - tx->bulk_began_us, tx->bulk_waited);
        tx->n_slots--;
        memmove(tx->slots, tx->slots + 1, tx->n_slots * sizeof(tx->slots[0]));
        memmove(tx->frames, tx->frames + 1, tx->n_slots * sizeof(tx->frames[0]));
        tx->sending = SENDING_NOTHING;
        owner_send(net, &record, sizeof(record));
}

/* A piece is out: what it was decides what comes next. */
static void piece_sent(struct net *net)
{
        struct transmit *tx = &net->tx;

        switch (tx->sending) {
        case SENDING_QUEUE:
                tx->start = (size_t)(tx->at - tx->queue);
                if (tx->start == tx->end)
                        tx->start = tx->end = 0;
                tx->sending = SENDING_NOTHING;
                break;
        case SENDING_BULK_HEADER:
                if (tx->bulk_size)
                        begin(tx, SENDING_BULK_DATA, tx->bulk_data, tx->bulk_size);
                else
                        slot_sent(net);
                break;
        case SENDING_BULK_DATA:
                slot_sent(net);
                break;
        case SENDING_STREAM:
                if (tx->stream_size == FRAME_HEADER)
                        net->stream_end_sent = true;
                tx->stream_size = 0;
                tx->sending = SENDING_NOTHING;
                net_end_of_stream(net);
                break;
        case SENDING_NOTHING:
                break;
        }
}

/* False: nothing to send. */
static bool next_piece(struct net *net)
{
        struct transmit *tx = &net->tx;

        if (tx->sending != SENDING_NOTHING)
                return true;
        if (tx->end > tx->start)
                begin(tx, SENDING_QUEUE, tx->queue + tx->start, tx->end - tx->start);
        else if (tx->n_slots)
                begin_bulk(net);
        else if (tx->stream_size)
                begin(tx, SENDING_STREAM, tx->stream, tx->stream_size);
        return tx->sending != SENDING_NOTHING;
}

bool transmit_idle(const struct net *net)
{
        const struct transmit *tx = &net->tx;

        return tx->sending == SENDING_NOTHING && tx->end == tx->start && !tx->n_slots && !tx->stream_size;
}

bool transmit_full(const struct net *net)
{
        return net->tx.end - net->tx.start > TRANSMIT_HIGH;
}

/* A tenth of a second's worth may go at once, but never so little that TLS is all there is. */
static double burst(const struct net *net)
{
        double b = (double)net->config.bytes_per_second / 10;

        return b < 1024 ? 1024 : b;
}

static void refill(struct net *net)
{
        struct transmit *tx = &net->tx;
        uint64_t now = clock_us();

        if (tx->tokens_us)
                tx->tokens += (double)(now - tx->tokens_us) * (double)net->config.bytes_per_second / 1e6;
        else
                tx->tokens = burst(net);
        tx->tokens_us = now;
        if (tx->tokens > burst(net))
                tx->tokens = burst(net);
}

/* How much may go now: `left`, less under the cap, 0 to wait. */
static size_t allowance(struct net *net, size_t left)
{
        if (!net->config.bytes_per_second)
                return left;
        refill(net);
        double worthwhile = left < 1024 ? (double)left : 1024;
        if (net->tx.tokens < worthwhile)
                return 0;
        return (double)left < net->tx.tokens ? left : (size_t)net->tx.tokens;
}

uint64_t transmit_wait_ms(const struct net *net)
{
        const struct transmit *tx = &net->tx;

        if (!net->config.bytes_per_second || tx->tokens >= 1024)
                return 0;
        return (uint64_t)((1024 - tx->tokens) * 1000 / (double)net->config.bytes_per_second) + 1;
}

static void write_failed(struct net *net, int ssl_error, int saved_errno)
{
        struct error err = {0};

        if (ssl_error == SSL_ERROR_WANT_WRITE) {
                net->tx.blocked = net->tx.bulk_waited = true;
                return;
        }
        if (ssl_error == SSL_ERROR_WANT_READ)
                return;
        /* Before it closed, the peer may have said why. */
        net->tx.blocked = true;
        if (!receive_paused(net)) {
                ERR_clear_error();
                receive_all(net);
        }
        if (net->phase >= PHASE_FLUSHING && net->down_sent)
                return;
        tls_explain(net, ssl_error, saved_errno, &err);
        net->tls_dead = true;
        net_down(net, &err, false);
}

void transmit_all(struct net *net)
{
        struct transmit *tx = &net->tx;
        size_t turn = 0;

        while (turn < TURN_BYTES && !net->tls_dead && !tx->blocked && net->phase != PHASE_HANDSHAKE &&
               net->phase <= PHASE_FLUSHING && next_piece(net)) {
                size_t n = tx->retry ?: allowance(net, tx->left), written = 0;
                if (n == 0) {
                        tx->bulk_waited = true;
                        return;
                }
                ERR_clear_error();
                errno = 0;
                if (SSL_write_ex(net->ssl, tx->at, n, &written) != 1) {
                        int saved = errno;
                        tx->retry = n;
                        write_failed(net, SSL_get_error(net->ssl, 0), saved);
                        return;
                }
                tx->retry = 0;
                tx->at += written;
                tx->left -= written;
                tx->tokens -= (double)written;
                turn += written;
                net->said_ms = clock_ms();
                if (tx->left == 0)
                        piece_sent(net);
        }
}
