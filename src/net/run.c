/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "net/net.h"

/* The loop, its clocks, and how a connection ends. */

#define PATIENCE_MS (10U * 60 * 1000)

void net_close(struct net *net, bool flush)
{
        if (net->phase >= PHASE_FLUSHING)
                return;
        if (!flush || net->phase == PHASE_HANDSHAKE) {
                /* Also right after an alert: that is out already, or never will be. */
                (void)shutdown(net->tcp_fd, SHUT_WR);
                net->phase = PHASE_DRAINING;
        } else {
                net->phase = PHASE_FLUSHING;
        }
        net->deadline_ms = clock_ms() + LINGER_MS;
}

void net_down(struct net *net, const struct error *err, bool flush)
{
        struct record_down record = {.header.type = RECORD_DOWN};

        if (!net->down_sent) {
                net->down_sent = true;
                owner_count(net, true);
                record.kind = err->kind;
                record.code = err->code;
                memcpy(record.text, err->text, strnlen(err->text, sizeof(record.text) - 1));
                owner_send(net, &record, sizeof(record));
        }
        net_close(net, flush);
}

void net_end_of_stream(struct net *net)
{
        struct error none = {0};

        if (net->phase != PHASE_OPEN || !net->stream_end_sent || !net->stream_out_done)
                return;
        net->patient = true;
        net_down(net, &none, true);
}

static void time_out(struct net *net)
{
        struct error err = {0};
        unsigned seconds = (net->config.handshake_ms + 500) / 1000;

        if (net->phase >= PHASE_FLUSHING) {
                net->phase = PHASE_DONE;
                return;
        }
        if (net->phase == PHASE_HANDSHAKE)
                (void)error_set(&err, ETIMEDOUT, "no answer from %s to the handshake for %u s", net->peer, seconds);
        else if (net->config.accepting)
                (void)error_set(&err, ETIMEDOUT, "%s did not say what it wants for %u s", net->peer, seconds);
        else
                (void)error_set(&err, ETIMEDOUT, "the host at %s did not answer the greeting", net->peer);
        net_down(net, &err, false);
}

/* While we do not read, the kernel still knows whether the peer's acknowledges our heartbeats. */
static bool peer_acknowledges(const struct net *net)
{
        struct tcp_info info = {0};
        socklen_t size = sizeof(info);

        /* It does not read either, and may lawfully do so; a tunnel watches by itself. */
        if (net->tx.blocked || !net->is_tcp)
                return true;
        if (getsockopt(net->tcp_fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
                return false;
        return info.tcpi_last_ack_recv <= net->config.silence_ms;
}

static void check_silence(struct net *net, uint64_t now)
{
        struct error err = {0};
        uint64_t read = BIO_number_read(SSL_get_rbio(net->ssl)), written = BIO_number_written(SSL_get_wbio(net->ssl));

        if (read != net->read_seen || (receive_paused(net) && peer_acknowledges(net))) {
                net->read_seen = read;
                net->heard_ms = now;
        }
        if (written != net->written_seen) {
                net->written_seen = written;
                net->said_ms = now;
        }
        if (now >= net->heard_ms + net->config.silence_ms) {
                (void)error_set(&err, ETIMEDOUT, "no answer from %s for %u s", net->peer,
                                (net->config.silence_ms + 500) / 1000);
                net_down(net, &err, false);
        } else if (now >= net->said_ms + HEARTBEAT_MS && transmit_idle(net)) {
                (void)transmit_simple(net, MSG_PING);
        }
}

static void check_clocks(struct net *net)
{
        uint64_t now = clock_ms();

        if (net->deadline_ms && now >= net->deadline_ms)
                time_out(net);
        if (net->phase == PHASE_GREETING || net->phase == PHASE_OPEN)
                check_silence(net, now);
        if (net->phase == PHASE_OPEN)
                owner_count(net, false);
}

static void handshake(struct net *net)
{
        struct error err = {0};

        ERR_clear_error();
        errno = 0;
        net->tx.blocked = false;
        int r = SSL_do_handshake(net->ssl), saved = errno;
        if (r == 1) {
                net->rx.more = true;
                greeting_begin(net);
                return;
        }
        int e = SSL_get_error(net->ssl, r);
        if (e == SSL_ERROR_WANT_READ)
                return;
        if (e == SSL_ERROR_WANT_WRITE) {
                net->tx.blocked = true;
                return;
        }
        tls_explain(net, e, saved, &err);
        net->tls_dead = true;
        net_down(net, &err, false);
}

static void flush(struct net *net)
{
        transmit_all(net);
        if (net->phase != PHASE_FLUSHING || (!net->tls_dead && !transmit_idle(net)))
                return;
        if (!net->tls_dead) {
                ERR_clear_error();
                int r = SSL_shutdown(net->ssl);
                /* After the end of a stream the peer needs no close_notify; everything else waits for room. */
                if (r < 0 && SSL_get_error(net->ssl, r) == SSL_ERROR_WANT_WRITE && !net->patient) {
                        net->tx.blocked = true;
                        return;
                }
        }
        (void)shutdown(net->tcp_fd, SHUT_WR);
        net->phase = PHASE_DRAINING;
}

/* Closing with bytes unread would reset the connection, and the peer could lose what we said last. */
static void drain(struct net *net)
{
        uint8_t waste[16384];

        for (int i = 0; i < 64; i++) {
                ssize_t n = recv(net->tcp_fd, waste, sizeof(waste), MSG_DONTWAIT);
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n <= 0) {
                        net->phase = PHASE_DONE;
                        return;
                }
                if (net->patient)
                        net->deadline_ms = clock_ms() + net->config.silence_ms;
        }
}

static int wait_ms(const struct net *net, bool reading)
{
        uint64_t now = clock_ms(), wait = HEARTBEAT_MS / 2;

        if (reading && net->rx.more && net->phase != PHASE_HANDSHAKE)
                return 0;
        if (net->phase <= PHASE_FLUSHING && net->phase != PHASE_HANDSHAKE && !net->tx.blocked && !net->tls_dead &&
            !transmit_idle(net)) {
                uint64_t t = transmit_wait_ms(net);
                wait = t < wait ? t : wait;
        }
        if (net->deadline_ms) {
                uint64_t t = net->deadline_ms > now ? net->deadline_ms - now : 0;
                wait = t < wait ? t : wait;
        }
        return (int)wait;
}

enum { POLL_OWNER, POLL_PEER, POLL_STREAM, POLLS };

/* A descriptor nothing is wanted from is left out: a hang-up would be reported for ever. */
static struct pollfd want(int fd, bool in, bool out)
{
        short events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0));

        return (struct pollfd){.fd = events ? fd : -1, .events = events};
}

static void collect(const struct net *net, bool reading, struct pollfd p[static POLLS])
{
        bool stream_in = net->phase == PHASE_OPEN && !net->stream_in_end && !net->tx.stream_size;

        p[POLL_OWNER] = want(net->owner_gone ? -1 : net->record_fd, owner_may_read(net), net->pending != NULL);
        /* A full queue must not hide that the owner is gone. */
        if (p[POLL_OWNER].fd < 0 && !net->owner_gone && !net->owner_hup)
                p[POLL_OWNER].fd = net->record_fd;
        p[POLL_PEER] = want(net->tcp_fd, reading || net->phase == PHASE_HANDSHAKE || net->phase == PHASE_DRAINING,
                            net->tx.blocked || net->rx.wants_write);
        p[POLL_STREAM] = want(net->stream_fd, stream_in, net->stream_fd >= 0 && net->rx.stream_size > 0);
}

static void on_owner(struct net *net, short events)
{
        if (events & POLLOUT)
                owner_flush(net);
        if (owner_may_read(net)) {
                owner_read(net);
        } else if (events & (POLLHUP | POLLERR) && !net->owner_gone) {
                net->owner_hup = true;
                net->deadline_ms = clock_ms() + LINGER_MS;
        }
}

static void on_peer(struct net *net, short events)
{
        if (events & POLLOUT) {
                net->tx.blocked = false;
                if (net->rx.wants_write) {
                        net->rx.wants_write = false;
                        net->rx.more = true;
                }
        }
        if (events & (POLLIN | POLLHUP | POLLERR))
                net->rx.more = true;
        if (net->phase == PHASE_HANDSHAKE)
                handshake(net);
        else if (net->phase == PHASE_DRAINING)
                drain(net);
}

static void turn(struct net *net)
{
        struct pollfd p[POLLS];
        bool reading = !receive_paused(net) && net->phase != PHASE_HANDSHAKE;

        collect(net, reading, p);
        int n = poll(p, POLLS, wait_ms(net, reading));
        if (n > 0 && p[POLL_OWNER].revents)
                on_owner(net, p[POLL_OWNER].revents);
        if (n > 0 && p[POLL_PEER].revents)
                on_peer(net, p[POLL_PEER].revents);
        if (n > 0 && p[POLL_STREAM].revents)
                receive_stream_out(net);

        if (net->phase == PHASE_OPEN)
                transmit_stream_in(net);
        if (net->phase == PHASE_GREETING || net->phase == PHASE_OPEN) {
                if (net->rx.more)
                        receive_all(net);
                transmit_all(net);
        }
        if (net->phase == PHASE_FLUSHING)
                flush(net);
        check_clocks(net);
}

void net_run(struct net *net)
{
        uint64_t end = 0;

        net->phase = PHASE_HANDSHAKE;
        net->deadline_ms = clock_ms() + net->config.handshake_ms;
        handshake(net);
        while (net->phase != PHASE_DONE || (net->pending && !net->owner_gone)) {
                turn(net);
                if (net->patient && !end)
                        end = clock_ms() + PATIENCE_MS;
                if (end && clock_ms() > end)
                        net->phase = PHASE_DONE;
        }
}
