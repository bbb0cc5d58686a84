/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/net.h"
#include "net/tunnel.h"
#include "wire/bytes.h"

/* One byte stream of a tunnel: the preface, and frames of all channels that live on it. */

/* -- what goes out ------------------------------------------------------------------------------------------------ */

static char lane_letter(const struct tunnel_end *t, unsigned lane)
{
        static const char letters[] = "012";

        return letters[t->config.lanes == 1 ? 0 : 1 + lane];
}

void lane_begin(struct tunnel_end *t, unsigned lane)
{
        struct lane *l = &t->lanes[lane];

        memcpy(l->tx, TUNNEL_PREFACE, sizeof(TUNNEL_PREFACE) - 1);
        l->tx[TUNNEL_PREFACE_SIZE - 2] = t->config.accepting ? 'a' : 'c';
        l->tx[TUNNEL_PREFACE_SIZE - 1] = (uint8_t)lane_letter(t, lane);
        l->tx_size = TUNNEL_PREFACE_SIZE;
        l->hello_due = lane == 0;
        l->heard_ms = l->said_ms = clock_ms();
}

bool lane_has_work(const struct tunnel_end *t, unsigned lane)
{
        const struct lane *l = &t->lanes[lane];

        if (l->tx_size || l->hello_due || l->ping_due)
                return true;
        for (size_t i = 0; i < TUNNEL_CHANNELS_MAX; i++)
                if (t->channels[i].lane == lane && channel_has_frame(&t->channels[i]))
                        return true;
        return false;
}

/* Channels take turns, so that a file cannot keep a word of the handover waiting. */
static size_t next_frame(struct tunnel_end *t, unsigned lane)
{
        struct lane *l = &t->lanes[lane];

        if (l->hello_due) {
                l->hello_due = false;
                memcpy(l->tx + TUNNEL_HEADER, t->config.hello, t->config.hello_size);
                return tunnel_put_header(l->tx, t->config.hello_size, TUNNEL_HELLO, 0);
        }
        if (l->ping_due) {
                l->ping_due = false;
                return tunnel_put_header(l->tx, 0, TUNNEL_PING, 0);
        }
        for (unsigned i = 0; t->up && i < TUNNEL_CHANNELS_MAX; i++) {
                struct channel *c = &t->channels[(l->turn + i) % TUNNEL_CHANNELS_MAX];
                if (!c->number || c->lane != lane)
                        continue;
                size_t n = channel_frame(c, l->tx);
                /* Both directions are through, and the peer knows. */
                if (c->number && c->end_sent && c->end_passed)
                        channel_free(c);
                if (n > 0) {
                        l->turn = (l->turn + i + 1) % TUNNEL_CHANNELS_MAX;
                        return n;
                }
        }
        return 0;
}

void lane_write(struct tunnel_end *t, unsigned lane)
{
        struct lane *l = &t->lanes[lane];

        for (size_t turn = 0; turn < TURN_BYTES && !l->blocked && !t->over;) {
                if (!l->tx_size) {
                        l->tx_at = 0;
                        l->tx_size = next_frame(t, lane);
                        if (!l->tx_size)
                                return;
                }
                ssize_t n = write(l->out, l->tx + l->tx_at, l->tx_size - l->tx_at);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN) {
                        l->blocked = true;
                        return;
                }
                if (n < 0) {
                        lane_read(t, lane); /* what was said before the end tells why */
                        tunnel_fail(t, ERROR_FAILED, ECONNRESET, "the connection to %s ended", t->config.peer);
                        return;
                }
                l->said_ms = clock_ms();
                l->tx_at += (size_t)n;
                turn += (size_t)n;
                if (l->tx_at == l->tx_size)
                        l->tx_size = 0;
        }
}

/* -- what comes in ------------------------------------------------------------------------------------------------ */

static void against_the_rules(struct tunnel_end *t, const char *what)
{
        tunnel_fail(t, ERROR_FAILED, EPROTO, "%s broke the rules of a tunnel: %s", t->config.peer, what);
}

static void printable(const uint8_t *bytes, size_t n, char *ret)
{
        for (size_t i = 0; i < n; i++)
                ret[i] = (char)(bytes[i] >= ' ' && bytes[i] < 127 ? bytes[i] : '.');
        ret[n] = '\0';
}

static void take_preface(struct tunnel_end *t, unsigned lane)
{
        const struct lane *l = &t->lanes[lane];
        char said[TUNNEL_PREFACE_SIZE + 1];
        const size_t name = sizeof(TUNNEL_PREFACE) - 2; /* without the version */

        printable(l->rx, TUNNEL_PREFACE_SIZE, said);
        if (memcmp(said, TUNNEL_PREFACE, name) != 0)
                tunnel_fail(t, ERROR_REFUSED, EPROTO,
                            "what answers at %s is not phaul: it begins with '%s' (does a start-up file of the shell "
                            "there print something?)",
                            t->config.peer, said);
        else if (memcmp(said, TUNNEL_PREFACE, name + 1) != 0)
                tunnel_fail(t, ERROR_REFUSED, EPROTO, "%s speaks version %c of the tunnel, this host version 1",
                            t->config.peer, said[name]);
        else if (said[TUNNEL_PREFACE_SIZE - 2] != (t->config.accepting ? 'c' : 'a'))
                tunnel_fail(t, ERROR_REFUSED, EPROTO, "both ends of the tunnel want to %s",
                            t->config.accepting ? "receive" : "send");
        else if (said[TUNNEL_PREFACE_SIZE - 1] != lane_letter(t, lane))
                tunnel_fail(t, ERROR_REFUSED, EPROTO,
                            "the other end takes this connection for another one: control and data are exchanged, or "
                            "it has one where this end has two");
}

static void take_hello(struct tunnel_end *t, const uint8_t *body, size_t size)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        struct {
                struct record_header header;
                uint8_t bytes[TUNNEL_BODY_MAX];
        } record = {.header.type = RECORD_MESSAGE};

        if (message_decode(body, size, &m, NULL) < 0 || m->type != MSG_TUNNEL) {
                against_the_rules(t, "malformed greeting");
                return;
        }
        t->up = true;
        t->deadline_ms = 0;
        for (unsigned i = 0; i < t->config.lanes; i++)
                t->lanes[i].heard_ms = clock_ms();
        memcpy(record.bytes, body, size);
        tunnel_tell(t, &record, sizeof(record.header) + size);
}

static void take_open(struct tunnel_end *t, unsigned lane, uint16_t number)
{
        struct record_channel record = {.header.type = RECORD_ASKED, .channel = number, .lane = lane};

        if (!t->config.accepting || number <= t->lanes[lane].last_channel || channel_find(t, number)) {
                against_the_rules(t, "a connection out of turn");
                return;
        }
        t->lanes[lane].last_channel = number;
        if (channel_new(t, number, lane))
                tunnel_tell(t, &record, sizeof(record));
        else
                against_the_rules(t, "too many connections at once");
}

static void take_channel_frame(struct tunnel_end *t, unsigned lane, uint8_t kind, uint16_t number, const uint8_t *body,
                               size_t size)
{
        struct channel *c = channel_find(t, number);

        /* Never opened is a mistake of the peer's, gone is what it does not know yet. */
        if (!number || (!c && number > t->lanes[lane].last_channel) || (c && c->lane != lane)) {
                against_the_rules(t, "bytes of a connection that is not there");
                return;
        }
        if (!c)
                return;
        if (kind == TUNNEL_DATA && size > 0) {
                if (channel_take(c, body, size))
                        channel_pass(c);
                else
                        against_the_rules(t, "more than was asked for");
        } else if (kind == TUNNEL_CREDIT && size == 4) {
                uint32_t more = get_be32(body);
                if (more > TUNNEL_WINDOW - c->credit)
                        against_the_rules(t, "more credit than was used");
                else
                        c->credit += more;
        } else if (kind == TUNNEL_END && size == 0) {
                c->peer_end = true;
                channel_pass(c);
        } else if (kind == TUNNEL_RESET && size == 0) {
                channel_free(c);
        } else {
                against_the_rules(t, "an unknown frame");
        }
}

static void take_frame(struct tunnel_end *t, unsigned lane, size_t size)
{
        const struct lane *l = &t->lanes[lane];
        const uint8_t *body = l->rx + TUNNEL_HEADER;
        uint8_t kind = l->rx[4];
        uint16_t number = get_be16(l->rx + 6);

        if (kind == TUNNEL_HELLO && number == 0 && lane == 0 && !t->up)
                take_hello(t, body, size);
        else if (kind == TUNNEL_PING && number == 0 && size == 0)
                return;
        else if (!t->up)
                against_the_rules(t, "no greeting");
        else if (kind == TUNNEL_OPEN && size == 0)
                take_open(t, lane, number);
        else
                take_channel_frame(t, lane, kind, number, body, size);
}

/* How much of rx the next piece needs; 0 when that much cannot be. */
static size_t wanted(const struct lane *l)
{
        if (!l->preface_seen)
                return TUNNEL_PREFACE_SIZE;
        if (l->rx_have < TUNNEL_HEADER)
                return TUNNEL_HEADER;
        uint32_t size = get_be32(l->rx);
        return size <= TUNNEL_BODY_MAX && l->rx[5] == 0 ? TUNNEL_HEADER + size : 0;
}

static void take_piece(struct tunnel_end *t, unsigned lane)
{
        struct lane *l = &t->lanes[lane];

        if (!l->preface_seen) {
                take_preface(t, lane);
                l->preface_seen = true;
                l->rx_have = 0;
        } else if (l->rx_have >= TUNNEL_HEADER && l->rx_have == wanted(l)) {
                take_frame(t, lane, l->rx_have - TUNNEL_HEADER);
                l->rx_have = 0;
        }
}

void lane_read(struct tunnel_end *t, unsigned lane)
{
        struct lane *l = &t->lanes[lane];

        for (size_t turn = 0; turn < TURN_BYTES && !t->over;) {
                size_t want = wanted(l);
                if (want == 0) {
                        against_the_rules(t, "a frame without sense");
                        return;
                }
                ssize_t n = read(l->in, l->rx + l->rx_have, want - l->rx_have);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        /* What came before the end is worth more than that it came: a shell's last words. */
                        if (!l->preface_seen && l->rx_have)
                                take_preface(t, lane);
                        tunnel_fail(t, ERROR_FAILED, ECONNRESET, "the connection to %s %s", t->config.peer,
                                    t->up ? "ended" : "ended before anything was said");
                        return;
                }
                l->heard_ms = clock_ms();
                l->rx_have += (size_t)n;
                turn += (size_t)n;
                if (l->rx_have == want)
                        take_piece(t, lane);
        }
}
