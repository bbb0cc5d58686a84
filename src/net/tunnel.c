/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "net/net.h"
#include "net/tunnel.h"

/* The loop of a tunnel's end, its owner, and how it ends. */

#define LANE_FD(lane, out) (4 + 2 * (int)(lane) + (out))
#define WORDS_FD 8
#define WORDS_MS 300 /* for the last words of ssh after the end of its bytes */

/* -- the owner ---------------------------------------------------------------------------------------------------- */

void tunnel_tell(struct tunnel_end *t, const void *record, size_t size)
{
        /* Few and small: an owner that does not take them is gone, or as good as that. */
        if (t->owner_gone || fd_send_packet(t->record_fd, record, size, -1) < 0)
                t->over = true;
}

static void read_words(struct tunnel_end *t)
{
        char piece[512];

        while (t->words_fd >= 0) {
                ssize_t n = read(t->words_fd, piece, sizeof(piece));
                if (n < 0 && (errno == EINTR))
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        (void)close(t->words_fd);
                        t->words_fd = -1;
                        return;
                }
                size_t room = sizeof(t->words) - 1, keep = t->words_size;
                if (keep + (size_t)n > room) {
                        keep = room - (size_t)n;
                        memmove(t->words, t->words + t->words_size - keep, keep);
                }
                memcpy(t->words + keep, piece, (size_t)n);
                t->words_size = keep + (size_t)n;
                t->words[t->words_size] = '\0';
        }
}

/* Lines become one, without what a terminal would obey. The owner cleans it again. */
static void add_words(const struct tunnel_end *t, char *text, size_t size)
{
        size_t used = strlen(text);
        bool gap = true;

        if (!t->words_size || used + 4 >= size)
                return;
        text[used++] = ':';
        text[used++] = ' ';
        for (size_t i = 0; i < t->words_size && used + 3 < size; i++) {
                unsigned char c = (unsigned char)t->words[i];
                if (c == '\n' || c == '\r') {
                        gap = true;
                        continue;
                }
                if (gap && text[used - 1] != ' ')
                        text[used++] = ' ';
                gap = false;
                text[used++] = (char)(c >= ' ' && c < 127 ? c : '?');
        }
        text[used] = '\0';
}

void tunnel_fail(struct tunnel_end *t, enum error_kind kind, int code, const char *format, ...)
{
        struct record_down record = {.header.type = RECORD_DOWN, .kind = kind, .code = code};
        va_list args;

        if (t->over)
                return;
        va_start(args, format);
        (void)vsnprintf(record.text, sizeof(record.text), format, args);
        va_end(args);
        for (uint64_t end = clock_ms() + WORDS_MS; t->words_fd >= 0 && clock_ms() < end;) {
                struct pollfd p = {.fd = t->words_fd, .events = POLLIN};
                (void)poll(&p, 1, (int)(end - clock_ms()));
                read_words(t);
        }
        add_words(t, record.text, sizeof(record.text));
        tunnel_tell(t, &record, sizeof(record));
        t->over = true;
}

static void on_channel(struct tunnel_end *t, const struct record_channel *record, int *fd)
{
        struct channel *c;

        if (t->config.accepting) {
                c = channel_find(t, record->channel);
                if (!c || c->fd >= 0)
                        return; /* the peer took it back meanwhile */
        } else {
                if (record->lane >= t->config.lanes || record->channel <= t->lanes[record->lane].last_channel ||
                    record->channel > UINT16_MAX || *fd < 0 || !(c = channel_new(t, record->channel, record->lane)))
                        return; /* closed unseen: the owner's end says so */
                t->lanes[record->lane].last_channel = record->channel;
                c->open_due = true;
        }
        if (record->header.type == RECORD_REFUSED || *fd < 0) {
                c->reset_due = true;
                return;
        }
        c->fd = TAKE_FD(*fd);
        channel_pass(c);
}

static void read_owner(struct tunnel_end *t)
{
        struct record_channel record;

        for (int i = 0; i < 64 && !t->over; i++) {
                AUTO_FD int fd = -1;
                ssize_t n = fd_recv_packet(t->record_fd, &record, sizeof(record), &fd);
                if (n == -EAGAIN)
                        return;
                if (n != (ssize_t)sizeof(record) ||
                    (record.header.type != RECORD_CHANNEL && record.header.type != RECORD_REFUSED)) {
                        /* It has no use for the tunnel any more; what its links said last still goes out. */
                        t->owner_gone = true;
                        t->over = !t->up;
                        t->deadline_ms = clock_ms() + LINGER_MS;
                        return;
                }
                on_channel(t, &record, &fd);
        }
}

/* -- the loop ----------------------------------------------------------------------------------------------------- */

#define POLLS (2 + 2 * TUNNEL_LANES_MAX + TUNNEL_CHANNELS_MAX)

static bool all_said(const struct tunnel_end *t)
{
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++)
                if (t->channels[i].number)
                        return false;
        for (unsigned i = 0; i < t->config.lanes; i++)
                if (lane_has_work(t, i))
                        return false;
        return true;
}

static void check_clocks(struct tunnel_end *t)
{
        uint64_t now = clock_ms();

        if (t->owner_gone && (now >= t->deadline_ms || all_said(t)))
                t->over = true;
        else if (t->deadline_ms && now >= t->deadline_ms)
                tunnel_fail(t, ERROR_FAILED, ETIMEDOUT, "no answer from %s for %u s", t->config.peer,
                            (t->config.handshake_ms + 500) / 1000);
        for (unsigned i = 0; i < t->config.lanes && t->up; i++) {
                struct lane *l = &t->lanes[i];
                if (now >= l->heard_ms + t->config.silence_ms)
                        tunnel_fail(t, ERROR_FAILED, ETIMEDOUT, "no answer from %s for %u s", t->config.peer,
                                    (t->config.silence_ms + 500) / 1000);
                if (now >= l->said_ms + HEARTBEAT_MS)
                        l->ping_due = true;
        }
}

static nfds_t collect(const struct tunnel_end *t, struct pollfd p[static POLLS])
{
        nfds_t n = 0;

        p[n++] = (struct pollfd){.fd = t->owner_gone ? -1 : t->record_fd, .events = POLLIN};
        p[n++] = (struct pollfd){.fd = t->words_fd, .events = POLLIN};
        for (unsigned i = 0; i < TUNNEL_LANES_MAX; i++) {
                const struct lane *l = &t->lanes[i];
                bool here = i < t->config.lanes;
                p[n++] = (struct pollfd){.fd = here ? l->in : -1, .events = POLLIN};
                /* Only while it waits for room: an end nobody reads any more would be reported for ever. */
                p[n++] = (struct pollfd){.fd = here && l->blocked ? l->out : -1, .events = POLLOUT};
        }
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++) {
                const struct channel *c = &t->channels[i];
                short events = (short)((c->credit > 0 && !c->readable && !c->local_end ? POLLIN : 0) |
                                       (c->fill > 0 ? POLLOUT : 0));
                p[n++] = (struct pollfd){.fd = c->number && events ? c->fd : -1, .events = events};
        }
        return n;
}

static void serve_channels(struct tunnel_end *t, const struct pollfd *p)
{
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++) {
                struct channel *c = &t->channels[i];
                if (!c->number || p[i].fd < 0 || p[i].fd != c->fd)
                        continue;
                if (p[i].revents & (POLLIN | POLLHUP | POLLERR) && !c->local_end)
                        c->readable = true;
                if (p[i].revents & (POLLOUT | POLLHUP | POLLERR))
                        channel_pass(c);
        }
}

static void turn(struct tunnel_end *t)
{
        struct pollfd p[POLLS];
        bool busy = false;

        for (unsigned i = 0; i < t->config.lanes; i++)
                busy |= !t->lanes[i].blocked && lane_has_work(t, i);
        nfds_t n = collect(t, p);
        if (poll(p, n, busy ? 0 : HEARTBEAT_MS / 2) < 0 && errno != EINTR) {
                t->over = true;
                return;
        }
        serve_channels(t, p + 2 + (size_t)2 * TUNNEL_LANES_MAX);
        for (unsigned i = 0; i < t->config.lanes; i++) {
                if (p[3 + 2 * i].revents)
                        t->lanes[i].blocked = false;
                if (p[2 + 2 * i].revents)
                        lane_read(t, i);
        }
        if (p[1].revents)
                read_words(t);
        if (p[0].revents)
                read_owner(t);
        check_clocks(t);
        for (unsigned i = 0; i < t->config.lanes && !t->over; i++)
                lane_write(t, i);
}

/* -- down the stairs ---------------------------------------------------------------------------------------------- */

static int read_config(struct tunnel_end *t, struct error *err)
{
        struct record_tunnel *c = &t->config;
        ssize_t n = fd_recv_packet(t->record_fd, c, sizeof(*c), NULL);

        if (n != (ssize_t)sizeof(*c) || c->header.type != RECORD_TUNNEL || c->abi != RECORD_ABI || c->lanes < 1 ||
            c->lanes > TUNNEL_LANES_MAX || c->hello_size > sizeof(c->hello))
                return error_set(err, EPROTO, "phaul-net is of another version than its caller");
        c->user[sizeof(c->user) - 1] = '\0';
        c->root[sizeof(c->root) - 1] = '\0';
        c->peer[sizeof(c->peer) - 1] = '\0';
        return 0;
}

static int prepare(struct tunnel_end *t, struct error *err)
{
        int r = read_config(t, err);

        if (r == 0)
                r = sandbox_drop_user(t->config.user, TUNNEL_CHANNELS_MAX + 16, err);
        if (r < 0)
                return r;
        r = fd_nonblock(t->record_fd);
        for (unsigned i = 0; r == 0 && i < t->config.lanes; i++) {
                t->lanes[i].in = LANE_FD(i, 0);
                t->lanes[i].out = LANE_FD(i, 1);
                r = fd_nonblock(t->lanes[i].in);
                if (r == 0)
                        r = fd_nonblock(t->lanes[i].out);
        }
        if (r == 0 && t->config.has_words) {
                t->words_fd = WORDS_FD;
                r = fd_nonblock(t->words_fd);
        }
        if (r < 0)
                return error_errno(err, -r, "cannot set the tunnel up");
        return sandbox_seal(t->config.root, err);
}

void tunnel_main(int record_fd)
{
        struct tunnel_end *t = calloc(1, sizeof(*t));
        struct error err = {0};

        if (!t)
                return;
        t->record_fd = record_fd;
        t->words_fd = -1;
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++)
                t->channels[i].fd = -1;
        if (prepare(t, &err) < 0) {
                tunnel_fail(t, err.kind, err.code, "%s", err.text);
                return;
        }
        t->deadline_ms = clock_ms() + t->config.handshake_ms;
        for (unsigned i = 0; i < t->config.lanes; i++)
                lane_begin(t, i);
        while (!t->over)
                turn(t);
}
