/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

/* Much data: streams and bulk links keep every byte and its order, and wait for slow readers without giving up. */

#define MIB (1024U * 1024)

/* A sequence both ends can make: position -> byte, different for each direction. */
#define REPETITIVE 6 /* the seed of one that can be compressed */
static uint8_t pattern(uint64_t seed, uint64_t at)
{
        uint64_t x = ((seed == REPETITIVE ? at / 1024 : at / 8) + seed) * UINT64_C(0x9e3779b97f4a7c15);

        x ^= x >> 29;
        return (uint8_t)(x >> (at % 8 * 8));
}

static void fill(uint8_t *p, size_t n, uint64_t seed, uint64_t at)
{
        for (size_t i = 0; i < n; i++)
                p[i] = pattern(seed, at + i);
}

static void check(const uint8_t *p, size_t n, uint64_t seed, uint64_t at)
{
        for (size_t i = 0; i < n; i++)
                if (p[i] != pattern(seed, at + i))
                        fail_msg("byte %llu is wrong", (unsigned long long)(at + i));
}

/* One user of a stream: writes `limit` bytes and closes that half, reads to the end. */
struct end {
        int fd;
        uint64_t limit, written, read, write_seed, read_seed;
        bool closed, ended;
        uint8_t buffer[65536];
};

static void step(struct end *e)
{
        ssize_t n;

        while (!e->closed) {
                size_t size =
                        e->limit - e->written < sizeof(e->buffer) ? (size_t)(e->limit - e->written) : sizeof(e->buffer);
                if (size == 0) {
                        assert_int_equal(shutdown(e->fd, SHUT_WR), 0);
                        e->closed = true;
                        break;
                }
                fill(e->buffer, size, e->write_seed, e->written);
                n = send(e->fd, e->buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0)
                        break;
                e->written += (uint64_t)n;
        }
        while (!e->ended) {
                n = recv(e->fd, e->buffer, sizeof(e->buffer), MSG_DONTWAIT);
                if (n < 0)
                        break;
                if (n == 0)
                        e->ended = true;
                check(e->buffer, (size_t)n, e->read_seed, e->read);
                e->read += (uint64_t)n;
        }
}

static struct end *attach(struct link *link, uint64_t limit, uint64_t write_seed, uint64_t read_seed)
{
        struct end *e = calloc(1, sizeof(*e));
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        *e = (struct end){.fd = pair[1], .limit = limit, .write_seed = write_seed, .read_seed = read_seed};
        assert_int_equal(link_attach_stream(link, pair[0]), 0);
        return e;
}

static void finish(struct end *e)
{
        (void)close(e->fd);
        free(e);
}

static void run_both(struct fixture *f, struct end *a, struct end *b, unsigned limit_ms)
{
        uint64_t end = clock_ms() + limit_ms;

        while (!(a->closed && a->ended && b->closed && b->ended) && clock_ms() < end) {
                struct pollfd p[] = {{a->fd, (short)(POLLIN | (a->closed ? 0 : POLLOUT)), 0},
                                     {b->fd, (short)(POLLIN | (b->closed ? 0 : POLLOUT)), 0}};
                (void)poll(p, 2, 10);
                step(a);
                step(b);
                assert_int_equal(loop_run_once(f->loop, 0), 0);
                if (f->client.down && f->client.err.kind != ERROR_NONE)
                        fail_msg("%s", f->client.err.text);
        }
}

static void a_stream_carries_both_directions_to_their_ends(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_STREAM);
        struct end *a = attach(f->client.link, 64 * MIB, 1, 2), *b = attach(f->server.link, 64 * MIB + 13, 2, 1);
        run_both(f, a, b, 60000);
        assert_true(a->read == b->limit && b->read == a->limit);
        fixture_until(f, &f->client.down);
        fixture_until(f, &f->server.down);
        assert_int_equal(f->client.err.kind, ERROR_NONE);
        assert_int_equal(f->server.err.kind, ERROR_NONE);
        finish(a);
        finish(b);
}

/* "cat | wc": one direction ends at once, the other goes on for long. */
static void a_half_closed_stream_goes_on(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_STREAM);
        struct end *a = attach(f->client.link, 0, 1, 2), *b = attach(f->server.link, 3, 2, 1);
        b->limit = UINT64_MAX; /* not yet at its end */
        for (int i = 0; i < 200 && !b->ended; i++) {
                step(a);
                ssize_t n = recv(b->fd, b->buffer, 1, MSG_DONTWAIT);
                b->ended = n == 0;
                fixture_run(f, 10);
        }
        assert_true(b->ended);
        assert_false(f->client.down || f->server.down);
        b->limit = 5 * MIB;
        run_both(f, a, b, 20000);
        assert_true(a->read == 5 * MIB);
        fixture_until(f, &f->client.down);
        fixture_until(f, &f->server.down);
        assert_int_equal(f->client.err.kind, ERROR_NONE);
        finish(a);
        finish(b);
}

/* A receiver that stops reading for longer than silence is allowed is slow, not dead. */
static void a_slow_stream_reader_is_waited_for(void **state)
{
        struct fixture *f = *state;

        f->env.silence_ms = 1500;
        fixture_open(f, PURPOSE_STREAM);
        struct end *a = attach(f->client.link, 32 * MIB, 1, 2), *b = attach(f->server.link, 0, 2, 1);
        for (uint64_t end = clock_ms() + 6500; clock_ms() < end;) {
                step(a);
                fixture_run(f, 50);
                if (f->client.down || f->server.down)
                        fail_msg("%s %s", f->client.err.text, f->server.err.text);
        }
        assert_true(a->written < 32 * MIB);
        run_both(f, a, b, 30000);
        assert_true(b->read == 32 * MIB);
        finish(a);
        finish(b);
}

/* The reader dies: what comes for it is dropped, its own end is told to the peer, and the link ends in order. */
static void a_stream_whose_reader_died_ends(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_STREAM);
        struct end *a = attach(f->client.link, 8 * MIB, 1, 2), *b = attach(f->server.link, 0, 2, 1);
        (void)close(b->fd);
        b->closed = b->ended = true;
        b->fd = -1;
        for (uint64_t end = clock_ms() + 20000; !(a->closed && a->ended) && clock_ms() < end;) {
                step(a);
                fixture_run(f, 5);
        }
        assert_true(a->ended && a->read == 0);
        fixture_until(f, &f->client.down);
        assert_int_equal(f->client.err.kind, ERROR_NONE);
        finish(a);
        free(b);
}

static void a_killed_peer_is_no_end_of_a_stream(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_STREAM);
        struct end *a = attach(f->client.link, MIB, 1, 2);
        fixture_run(f, 100);
        assert_int_equal(kill(server_net(f), SIGKILL), 0);
        fixture_until(f, &f->client.down);
        assert_int_equal(f->client.err.kind, ERROR_FAILED);
        finish(a);
}

/* ---- bulk ---- */

#define BULK_TOTAL (256ULL * MIB)

struct bulk {
        uint64_t sent, received; /* bytes */
        uint64_t frames_sent, frames_received;
        unsigned sizes; /* seed */
        unsigned expected;
        uint64_t total;
        uint64_t content; /* seed of the bytes */
};

static uint32_t next_size(unsigned *seed, uint64_t left)
{
        uint32_t size = (uint32_t)rand_r(seed) % 8 == 0 ? (uint32_t)rand_r(seed) % 4096
                                                        : (uint32_t)rand_r(seed) % (BULK_MAX + 1);

        return size < left ? size : (uint32_t)left;
}

/* Alternates between copying and filling a slot in place. */
static void send_more(struct side *side)
{
        static uint8_t data[BULK_MAX];
        struct bulk *b = side->data;

        while (b->sent < b->total) {
                unsigned seed = b->sizes;
                struct bulk_frame frame = {
                        .type = 3,
                        .flags = (uint16_t)b->frames_sent,
                        .size = next_size(&seed, b->total - b->sent),
                        .object = b->frames_sent,
                        .offset = b->sent,
                        .count = ~b->sent,
                };
                int r;
                if (b->frames_sent % 2) {
                        void *slot;
                        r = link_bulk_reserve(side->link, &slot);
                        if (r == 0) {
                                fill(slot, frame.size, b->content, b->sent);
                                r = link_bulk_commit(side->link, &frame);
                        }
                } else {
                        fill(data, frame.size, b->content, b->sent);
                        r = link_bulk_send(side->link, &frame, data);
                }
                if (r == -EAGAIN)
                        return;
                assert_int_equal(r, 0);
                b->sizes = seed;
                b->sent += frame.size;
                b->frames_sent++;
        }
}

static void take(struct side *side, const struct bulk_frame *frame, const void *data)
{
        struct bulk *b = side->data;

        assert_int_equal(frame->type, 3);
        assert_int_equal(frame->size, next_size(&b->expected, b->total - b->received));
        assert_true(frame->object == b->frames_received && frame->offset == b->received);
        assert_true(frame->count == ~b->received && frame->flags == (uint16_t)b->frames_received);
        check(data, frame->size, b->content, b->received);
        b->received += frame->size;
        b->frames_received++;
}

static void bulk_frames_keep_bytes_and_order(void **state)
{
        struct fixture *f = *state;
        struct bulk there = {.sizes = 1, .total = BULK_TOTAL}, here = {.expected = 1, .total = BULK_TOTAL};

        fixture_open(f, PURPOSE_BULK);
        f->client.data = &there;
        f->server.data = &here;
        f->client.on_writable = send_more;
        f->server.on_bulk = take;
        uint64_t begin = clock_ms();
        send_more(&f->client);
        while (here.received < BULK_TOTAL && clock_ms() < begin + 100000 && !f->client.down && !f->server.down)
                assert_int_equal(loop_run_once(f->loop, 100), 0);
        if (f->client.down || f->server.down)
                fail_msg("%s %s", f->client.err.text, f->server.err.text);
        assert_true(here.received == BULK_TOTAL);
        for (int i = 0; i < 100 && link_bulk_in_flight(f->client.link) > 0; i++)
                fixture_run(f, 10);
        assert_true(link_bulk_in_flight(f->client.link) == 0);
        print_message("%llu frames, %llu ms\n", (unsigned long long)here.frames_received,
                      (unsigned long long)(clock_ms() - begin));
        link_free(TAKE_PTR(f->client.link));
        fixture_until(f, &f->server.down);
        assert_int_equal(f->server.err.kind, ERROR_NONE);
}

static void a_slow_bulk_owner_is_waited_for(void **state)
{
        struct fixture *f = *state;
        struct bulk there = {.sizes = 3, .total = 64 * MIB}, here = {.expected = 3, .total = 64 * MIB};

        f->env.silence_ms = 1500;
        fixture_open(f, PURPOSE_BULK);
        f->client.data = &there;
        f->server.data = &here;
        f->client.on_writable = send_more;
        f->server.on_bulk = take;
        send_more(&f->client);
        /* Both owners are busy for longer than silence is allowed: their phaul-nets keep the link. */
        (void)usleep(7000000);
        for (uint64_t end = clock_ms() + 30000; here.received < here.total && clock_ms() < end;) {
                assert_int_equal(loop_run_once(f->loop, 100), 0);
                if (f->client.down || f->server.down)
                        fail_msg("%s %s", f->client.err.text, f->server.err.text);
        }
        assert_true(here.received == here.total);
}

/* Under a cap: how long it takes, and how many bytes crossed the connection. */
static uint64_t send_capped(struct fixture *f, uint32_t version, struct bulk *there, struct bulk *here,
                            uint64_t *ret_bytes)
{
        struct link_connect_options o = {.purpose = PURPOSE_BULK, .expect = f->b.fingerprint, .bytes_per_second = MIB};
        uint64_t received;

        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        while (f->server.last != MSG_HELLO && !f->server.down)
                fixture_run(f, 10);
        assert_int_equal(link_welcome(f->server.link, version), 0);
        fixture_until(f, &f->client.up);
        f->client.data = there;
        f->server.data = here;
        f->client.on_writable = send_more;
        f->server.on_bulk = take;
        uint64_t begin = clock_ms();
        send_more(&f->client);
        while (here->received < here->total && clock_ms() < begin + 20000)
                assert_int_equal(loop_run_once(f->loop, 100), 0);
        uint64_t took = clock_ms() - begin;
        assert_true(here->received == here->total);
        fixture_run(f, 1000); /* counters come a little late */
        link_counters(f->client.link, ret_bytes, &received);
        return took;
}

static void the_rate_cap_holds(void **state)
{
        struct bulk there = {.sizes = 4, .total = 3 * MIB}, here = {.expected = 4, .total = 3 * MIB};
        uint64_t bytes;

        uint64_t took = send_capped(*state, WIRE_VERSION_MAX, &there, &here, &bytes);
        if (took < 2500)
                fail_msg("3 MiB at 1 MiB/s took %llu ms", (unsigned long long)took);
        assert_true(bytes > 3 * MIB);
}

/* A connection that is slow gets less to carry; a peer of the first version does not know how. */
static void what_can_be_compressed_is(void **state)
{
        struct bulk there = {.sizes = 4, .total = 16 * MIB, .content = REPETITIVE};
        struct bulk here = {.expected = 4, .total = 16 * MIB, .content = REPETITIVE};
        uint64_t bytes;

        (void)send_capped(*state, WIRE_VERSION_MAX, &there, &here, &bytes);
        if (bytes > 4 * MIB)
                fail_msg("16 MiB took %llu bytes", (unsigned long long)bytes);
}

static void but_not_for_the_first_version(void **state)
{
        struct bulk there = {.sizes = 4, .total = 3 * MIB, .content = REPETITIVE};
        struct bulk here = {.expected = 4, .total = 3 * MIB, .content = REPETITIVE};
        uint64_t bytes;

        (void)send_capped(*state, 1, &there, &here, &bytes);
        assert_true(bytes > 3 * MIB);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        const struct CMUnitTest tests[] = {
                T(a_stream_carries_both_directions_to_their_ends),
                T(a_half_closed_stream_goes_on),
                T(a_slow_stream_reader_is_waited_for),
                T(a_stream_whose_reader_died_ends),
                T(a_killed_peer_is_no_end_of_a_stream),
                T(bulk_frames_keep_bytes_and_order),
                T(a_slow_bulk_owner_is_waited_for),
                T(the_rate_cap_holds),
                T(what_can_be_compressed_is),
                T(but_not_for_the_first_version),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
