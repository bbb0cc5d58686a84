/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "net/tunnel.h"
#include "wire/bytes.h"

/* Tunnels: what goes in at one end comes out at the other, in order and whole; what is no tunnel is told apart. */

#define CHANNELS 6
#define BYTES (3U << 20)

struct end {
        struct tunnel *tunnel;
        bool up, down, has_asked;
        struct tunnel_peer peer;
        int asked[CHANNELS];
        size_t n_asked;
        struct error err;
};

static void on_up(struct tunnel *tunnel, const struct tunnel_peer *peer, void *context)
{
        struct end *e = context;

        (void)tunnel;
        e->up = true;
        e->peer = *peer;
        e->peer.certificate = NULL;
}

static void on_asked(struct tunnel *tunnel, int fd, void *context)
{
        struct end *e = context;

        (void)tunnel;
        assert_true(e->n_asked < CHANNELS);
        e->asked[e->n_asked++] = fd;
        e->has_asked = e->n_asked == CHANNELS;
}

static void on_down(struct tunnel *tunnel, const struct error *err, void *context)
{
        struct end *e = context;

        (void)tunnel;
        assert_false(e->down);
        e->down = true;
        e->err = *err;
}

static const struct tunnel_handlers handlers = {.up = on_up, .asked = on_asked, .down = on_down};

static void start(struct fixture *f, struct end *e, const struct host *as, bool accepting, const int *fds, unsigned n)
{
        struct tunnel_options options = {
                .accepting = accepting,
                .n_lanes = n,
                .words_fd = -1,
                .label = accepting ? "near" : "far",
                .name = accepting ? "beta" : "alpha",
                .trust_dir = as->dir,
                .handshake_ms = 60000,
        };
        struct error err = {0};

        *e = (struct end){0};
        for (unsigned i = 0; i < n; i++)
                options.lanes[i] = (struct tunnel_lane){fds[i], fds[i]};
        if (tunnel_start(f->loop, &f->env, &options, &handlers, e, &e->tunnel, &err) < 0)
                fail_msg("%s", err.text);
}

static void until(struct fixture *f, const bool *flag, const struct end *e)
{
        for (uint64_t end = clock_ms() + 60000; !*flag;) {
                if (clock_ms() > end)
                        fail_msg("nothing happened: %s", e->err.text);
                assert_int_equal(loop_run_once(f->loop, 100), 0);
        }
}

/* A tunnel of n lanes between a and b. */
static void join(struct fixture *f, struct end *near, struct end *far, unsigned n)
{
        int ours[2], theirs[2];

        for (unsigned i = 0; i < n; i++) {
                int pair[2];
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                ours[i] = pair[0];
                theirs[i] = pair[1];
        }
        start(f, near, &f->a, false, ours, n);
        start(f, far, &f->b, true, theirs, n);
        for (unsigned i = 0; i < n; i++) {
                (void)close(ours[i]);
                (void)close(theirs[i]);
        }
        until(f, &near->up, near);
        until(f, &far->up, far);
}

/* A pattern that tells channels and positions apart. */
static uint8_t byte_at(size_t channel, size_t at)
{
        return (uint8_t)(channel * 37 + at + at / 251);
}

/* Non-blocking: some of the pattern into fd; the new position, `done` when its end was sent. */
static void push(int fd, size_t channel, size_t *at, bool *done)
{
        uint8_t piece[8192];

        while (!*done) {
                size_t n = BYTES - *at < sizeof(piece) ? BYTES - *at : sizeof(piece);
                for (size_t i = 0; i < n; i++)
                        piece[i] = byte_at(channel, *at + i);
                if (n == 0) {
                        assert_int_equal(shutdown(fd, SHUT_WR), 0);
                        *done = true;
                        return;
                }
                ssize_t sent = send(fd, piece, n, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (sent < 0) {
                        assert_int_equal(errno, EAGAIN);
                        return;
                }
                *at += (size_t)sent;
        }
}

static void pull(int fd, size_t channel, size_t *at, bool *done)
{
        uint8_t piece[8192];

        while (!*done) {
                ssize_t n = recv(fd, piece, sizeof(piece), MSG_DONTWAIT);
                if (n < 0) {
                        assert_int_equal(errno, EAGAIN);
                        return;
                }
                for (ssize_t i = 0; i < n; i++)
                        assert_int_equal(piece[i], byte_at(channel, *at + (size_t)i));
                *at += (size_t)n;
                *done = n == 0;
        }
}

static void carry(struct fixture *f, unsigned lanes)
{
        struct end near, far;
        int fds[CHANNELS];
        size_t out[2][CHANNELS] = {0}, in[2][CHANNELS] = {0};
        bool sent[2][CHANNELS] = {0}, got[2][CHANNELS] = {0}, all = false;

        join(f, &near, &far, lanes);
        assert_string_equal(near.peer.fingerprint, f->b.fingerprint);
        assert_string_equal(far.peer.fingerprint, f->a.fingerprint);
        assert_string_equal(near.peer.name, "beta");
        for (size_t i = 0; i < CHANNELS; i++)
                assert_int_equal(tunnel_open(near.tunnel, i % 2 ? PURPOSE_BULK : PURPOSE_CONTROL, &fds[i], NULL), 0);
        until(f, &far.has_asked, &far);
        /* Those of two lanes overtake each other: who is who says the first byte. */
        int peers[CHANNELS];
        for (size_t i = 0; i < CHANNELS; i++) {
                uint8_t name = (uint8_t)i;
                assert_int_equal(write(fds[i], &name, 1), 1);
        }
        for (size_t i = 0; i < CHANNELS; i++) {
                uint8_t name;
                assert_int_equal(read(far.asked[i], &name, 1), 1);
                peers[name] = far.asked[i];
        }
        for (uint64_t end = clock_ms() + 120000; !all && clock_ms() < end;) {
                all = true;
                for (size_t i = 0; i < CHANNELS; i++) {
                        push(fds[i], i, &out[0][i], &sent[0][i]);
                        push(peers[i], i + 7, &out[1][i], &sent[1][i]);
                        pull(peers[i], i, &in[0][i], &got[0][i]);
                        pull(fds[i], i + 7, &in[1][i], &got[1][i]);
                        all &= got[0][i] && got[1][i];
                }
                assert_int_equal(loop_run_once(f->loop, 1), 0);
        }
        for (size_t i = 0; i < CHANNELS; i++) {
                assert_int_equal(in[0][i], BYTES);
                assert_int_equal(in[1][i], BYTES);
                (void)close(fds[i]);
                (void)close(peers[i]);
        }
        assert_false(near.down || far.down);
        tunnel_free(near.tunnel);
        until(f, &far.down, &far);
        tunnel_free(far.tunnel);
}

static void many_channels_on_one_lane(void **state)
{
        carry(*state, 1);
}

static void many_channels_on_two_lanes(void **state)
{
        carry(*state, 2);
}

/* Who does not read holds up its own channel alone; who hangs up is heard of at the other end. */
static void channels_are_on_their_own(void **state)
{
        struct fixture *f = *state;
        static uint8_t waste[8U << 20];
        struct end near, far;
        int full, other;
        uint8_t byte = 7;

        join(f, &near, &far, 1);
        assert_int_equal(tunnel_open(near.tunnel, PURPOSE_BULK, &full, NULL), 0);
        assert_int_equal(tunnel_open(near.tunnel, PURPOSE_CONTROL, &other, NULL), 0);
        for (uint64_t end = clock_ms() + 60000; far.n_asked < 2 && clock_ms() < end;)
                assert_int_equal(loop_run_once(f->loop, 50), 0);
        assert_int_equal(far.n_asked, 2);
        size_t total = 0;
        for (int quiet = 0; quiet < 20;) {
                ssize_t n = send(full, waste, sizeof(waste), MSG_DONTWAIT);
                total += n > 0 ? (size_t)n : 0;
                quiet = n > 0 ? 0 : quiet + 1;
                (void)loop_run_once(f->loop, 10);
        }
        assert_in_range(total, TUNNEL_WINDOW, 4 * TUNNEL_WINDOW);
        assert_int_equal(write(other, &byte, 1), 1);
        assert_int_equal(read(far.asked[1], &byte, 1), 1);
        assert_int_equal(byte, 7);
        (void)close(far.asked[0]);
        for (uint64_t end = clock_ms() + 60000; clock_ms() < end;) {
                if (send(full, waste, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
                        break;
                (void)loop_run_once(f->loop, 10);
        }
        assert_int_equal(send(full, waste, 1, MSG_DONTWAIT | MSG_NOSIGNAL), -1);
        assert_int_not_equal(errno, EAGAIN);
        assert_false(near.down || far.down);
        (void)close(full);
        (void)close(other);
        (void)close(far.asked[1]);
        tunnel_free(near.tunnel);
        tunnel_free(far.tunnel);
}

/* A link through a channel: TLS between two more phaul-nets, and only the certificate that came over the tunnel counts.
 */
static void links_through_a_tunnel(void **state)
{
        struct fixture *f = *state;
        CLEANUP(credentials_free_ptr) struct credentials *of_a = NULL;
        CLEANUP(credentials_free_ptr) struct credentials *of_b = NULL;
        struct end near, far;
        struct error err = {0};
        int fd;

        join(f, &near, &far, 2);
        assert_int_equal(trust_credentials_for(f->a.dir, f->b.certificate, &of_a, &err), 0);
        assert_int_equal(trust_credentials_for(f->b.dir, f->a.certificate, &of_b, &err), 0);
        assert_int_equal(of_a->n_anchors, 1);
        assert_int_equal(tunnel_open(near.tunnel, PURPOSE_CONTROL, &fd, NULL), 0);
        struct link_connect_options o = {
                .purpose = PURPOSE_CONTROL, .expect = f->b.fingerprint, .migration = "m", .address = "far"};
        assert_int_equal(
                link_connect_on(f->loop, &f->env, of_a, &o, fd, &side_handlers, &f->client, &f->client.link, &err), 0);
        for (uint64_t end = clock_ms() + 60000; far.n_asked < 1 && clock_ms() < end;)
                assert_int_equal(loop_run_once(f->loop, 50), 0);
        struct link_environment env = f->env;
        env.label = "tunnel:alpha";
        assert_int_equal(link_accept(f->loop, &env, of_b, far.asked[0], false, &side_handlers, &f->server,
                                     &f->server.link, &err),
                         0);
        for (uint64_t end = clock_ms() + 60000; f->server.last != MSG_HELLO && clock_ms() < end;)
                assert_int_equal(loop_run_once(f->loop, 50), 0);
        assert_string_equal(f->server.peer.fingerprint, f->a.fingerprint);
        assert_string_equal(f->server.peer.address, "tunnel:alpha");
        assert_int_equal(link_welcome(f->server.link, 1), 0);
        fixture_until(f, &f->client.up);
        /* The end of the tunnel is the end of its links. */
        tunnel_free(far.tunnel);
        fixture_until(f, &f->client.down);
        tunnel_free(near.tunnel);
}

/* What answers there may be anything. */
static void what_is_no_tunnel(void **state)
{
        struct fixture *f = *state;
        static const char preface[] = TUNNEL_PREFACE "c0";
        static const struct {
                const char *bytes;
                size_t size;
                const char *words;
        } cases[] = {
                {"", 0, "before anything was said"},
                {"bash: phaul: no", 15, "begins with 'bash: phaul: no"},
                {"Welcome to this machine", 23, "begins with 'Welcome to this "},
                {"\033[2J\033]0;x\007 hello you", 20, "begins with '.[2J.]0;x. hello'"},
                {"phaul tunnel 9c0", 16, "version 9 of the tunnel"},
                {"phaul tunnel 1a0", 16, "both ends of the tunnel want to receive"},
                {"phaul tunnel 1c2", 16, "control and data are exchanged"},
                {"phaul tunnel 1c0\0\0\0\0\3\0\0\1", 24, "no greeting"},
                {"phaul tunnel 1c0\xff\xff\xff\xff\1\0\0\0", 24, "a frame without sense"},
                {"phaul tunnel 1c0\0\0\0\0\1\1\0\0", 24, "a frame without sense"},
                {"phaul tunnel 1c0\0\0\0\4\1\0\0\0\0\x60\0\0", 28, "malformed greeting"},
                {"phaul tunnel 1c0\0\0\0\4\1\0\0\0\0\4\0\0", 28, "malformed greeting"},
        };

        assert_int_equal(sizeof(preface) - 1, TUNNEL_PREFACE_SIZE);
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct end e;
                int pair[2];
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                start(f, &e, &f->b, true, &pair[1], 1);
                (void)close(pair[1]);
                assert_int_equal(write(pair[0], cases[i].bytes, cases[i].size), (ssize_t)cases[i].size);
                assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
                until(f, &e.down, &e);
                expect_text(&e.err, cases[i].words);
                assert_false(e.up);
                (void)close(pair[0]);
                tunnel_free(e.tunnel);
        }
}

static size_t tunnel_header(uint8_t *frame, size_t size, uint8_t kind, uint16_t channel)
{
        put_be32(frame, (uint32_t)size);
        frame[4] = kind;
        frame[5] = 0;
        put_be16(frame + 6, channel);
        return TUNNEL_HEADER;
}

/* The greeting of a host, as its bytes: preface and frame. */
static size_t greeting(const struct host *host, uint32_t version, uint8_t *ret)
{
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_TUNNEL);
        uint8_t *body;
        size_t size;

        message_put_u32(m, FIELD_VERSION_MIN, version);
        message_put_u32(m, FIELD_VERSION_MAX, version);
        message_put_text(m, FIELD_CERTIFICATE, host->certificate);
        message_put_text(m, FIELD_NAME, "alpha");
        assert_int_equal(message_encode(m, &body, &size), 0);
        static const uint8_t preface[TUNNEL_PREFACE_SIZE] = TUNNEL_PREFACE "c0";
        memcpy(ret, preface, sizeof(preface));
        memcpy(ret + TUNNEL_PREFACE_SIZE + TUNNEL_HEADER, body, size);
        free(body);
        return TUNNEL_PREFACE_SIZE + tunnel_header(ret + TUNNEL_PREFACE_SIZE, size, TUNNEL_HELLO, 0) + size;
}

/* After a good greeting: what is against the rules ends the tunnel, and its owner goes on. */
static void what_a_peer_may_not(void **state)
{
        struct fixture *f = *state;
        static const struct {
                uint8_t kind;
                uint16_t channel;
                uint32_t size;
                const char *words;
        } cases[] = {
                {TUNNEL_DATA, 1, 5, "a connection that is not there"},
                {TUNNEL_DATA, 0, 5, "a connection that is not"},
                {TUNNEL_OPEN, 0, 0, "a connection out of turn"},
                {TUNNEL_HELLO, 0, 5, "is not there"},
                {TUNNEL_OPEN, 9, 1, "is not there"},
                {99, 0, 0, "is not there"},
                {TUNNEL_CREDIT, 77, 4, "is not there"},
                {TUNNEL_PING, 3, 0, "is not there"},
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                uint8_t bytes[8192] = {0};
                struct end e;
                int pair[2];
                size_t n = greeting(&f->a, 1, bytes);
                n += tunnel_header(bytes + n, cases[i].size, cases[i].kind, cases[i].channel) + cases[i].size;
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                start(f, &e, &f->b, true, &pair[1], 1);
                (void)close(pair[1]);
                assert_int_equal(write(pair[0], bytes, n), (ssize_t)n);
                until(f, &e.down, &e);
                assert_true(e.up);
                expect_text(&e.err, cases[i].words);
                (void)close(pair[0]);
                tunnel_free(e.tunnel);
        }
}

/* A host of another version, this host itself, and one that falls silent. */
static void who_may_not_be_there(void **state)
{
        struct fixture *f = *state;
        static const char *const words[] = {"99", "is this host itself", "no answer from near"};

        for (size_t i = 0; i < 3; i++) {
                uint8_t bytes[8192] = {0};
                struct end e;
                int pair[2];
                size_t n = greeting(i == 1 ? &f->b : &f->a, i == 0 ? 99 : 1, bytes);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                f->env.silence_ms = 1500;
                start(f, &e, &f->b, true, &pair[1], 1);
                (void)close(pair[1]);
                assert_int_equal(write(pair[0], bytes, n), (ssize_t)n);
                until(f, &e.down, &e);
                assert_int_equal(e.up, i == 2);
                expect_text(&e.err, words[i]);
                (void)close(pair[0]);
                tunnel_free(e.tunnel);
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        const struct CMUnitTest tests[] = {
                TEST(many_channels_on_one_lane), TEST(many_channels_on_two_lanes), TEST(channels_are_on_their_own),
                TEST(links_through_a_tunnel),    TEST(what_is_no_tunnel),          TEST(what_a_peer_may_not),
                TEST(who_may_not_be_there),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
