/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/tunnel.h"
#include "wire/bytes.h"

/* One connection through a tunnel: bytes between a stream socket of this host and frames. */

size_t tunnel_put_header(uint8_t *frame, size_t size, enum tunnel_kind kind, uint16_t channel)
{
        put_be32(frame, (uint32_t)size);
        frame[4] = (uint8_t)kind;
        frame[5] = 0;
        put_be16(frame + 6, channel);
        return TUNNEL_HEADER + size;
}

struct channel *channel_find(struct tunnel_end *t, uint32_t number)
{
        for (size_t i = 0; number && i < TUNNEL_CHANNELS_MAX; i++)
                if (t->channels[i].number == number)
                        return &t->channels[i];
        return NULL;
}

struct channel *channel_new(struct tunnel_end *t, uint32_t number, unsigned lane)
{
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++) {
                struct channel *c = &t->channels[i];
                if (c->number)
                        continue;
                *c = (struct channel){.number = (uint16_t)number,
                                      .lane = lane,
                                      .fd = -1,
                                      .credit = TUNNEL_WINDOW,
                                      .buffer = malloc(TUNNEL_WINDOW)};
                if (!c->buffer)
                        c->number = 0;
                return c->buffer ? c : NULL;
        }
        return NULL;
}

void channel_free(struct channel *c)
{
        if (c->fd >= 0)
                (void)close(c->fd);
        free(c->buffer);
        *c = (struct channel){.fd = -1};
}

/* Whoever was at our end has gone: the peer shall know, and nothing more is kept for it. */
static void give_up(struct channel *c)
{
        c->reset_due = true;
        c->fill = 0;
}

bool channel_take(struct channel *c, const uint8_t *data, size_t size)
{
        if (c->peer_end || c->fill + c->consumed + size > TUNNEL_WINDOW)
                return false;
        if (c->reset_due)
                return true;
        size_t at = (c->first + c->fill) % TUNNEL_WINDOW, head = TUNNEL_WINDOW - at;
        if (head > size)
                head = size;
        memcpy(c->buffer + at, data, head);
        memcpy(c->buffer, data + head, size - head);
        c->fill += size;
        return true;
}

void channel_pass(struct channel *c)
{
        while (c->fd >= 0 && c->fill > 0) {
                size_t n = TUNNEL_WINDOW - c->first;
                if (n > c->fill)
                        n = c->fill;
                ssize_t written = send(c->fd, c->buffer + c->first, n, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (written < 0 && errno == EINTR)
                        continue;
                if (written < 0) {
                        if (errno != EAGAIN)
                                give_up(c);
                        return;
                }
                c->first = (c->first + (size_t)written) % TUNNEL_WINDOW;
                c->fill -= (size_t)written;
                c->consumed += (uint32_t)written;
        }
        if (c->fd >= 0 && c->peer_end && !c->end_passed) {
                (void)shutdown(c->fd, SHUT_WR);
                c->end_passed = true;
        }
}

bool channel_has_frame(const struct channel *c)
{
        return c->number && (c->open_due || c->reset_due || c->consumed >= TUNNEL_CREDIT_AT ||
                             (c->local_end && !c->end_sent) || (c->readable && c->credit > 0));
}

/* What our end has to say; 0 when it has nothing after all. */
static size_t data_frame(struct channel *c, uint8_t *frame)
{
        size_t room = c->credit < TUNNEL_CHUNK ? c->credit : TUNNEL_CHUNK;
        ssize_t n;

        do
                n = recv(c->fd, frame + TUNNEL_HEADER, room, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n > 0) {
                c->credit -= (uint32_t)n;
                return tunnel_put_header(frame, (size_t)n, TUNNEL_DATA, c->number);
        }
        c->readable = false;
        if (n < 0 && errno == EAGAIN)
                return 0;
        c->local_end = true;
        if (n < 0)
                give_up(c);
        return 0;
}

size_t channel_frame(struct channel *c, uint8_t *frame)
{
        if (c->open_due) {
                c->open_due = false;
                return tunnel_put_header(frame, 0, TUNNEL_OPEN, c->number);
        }
        if (!c->reset_due && c->readable && c->credit > 0 && c->consumed < TUNNEL_CREDIT_AT) {
                size_t n = data_frame(c, frame);
                if (n > 0)
                        return n;
        }
        if (c->reset_due) {
                size_t n = tunnel_put_header(frame, 0, TUNNEL_RESET, c->number);
                channel_free(c);
                return n;
        }
        if (c->consumed >= TUNNEL_CREDIT_AT) {
                put_be32(frame + TUNNEL_HEADER, c->consumed);
                c->consumed = 0;
                return tunnel_put_header(frame, 4, TUNNEL_CREDIT, c->number);
        }
        if (c->local_end && !c->end_sent) {
                c->end_sent = true;
                return tunnel_put_header(frame, 0, TUNNEL_END, c->number);
        }
        return 0;
}
