/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "migration/convergence.h"

#define MB 1000000.0

/* A workload that dirties at a steady rate at most so much memory, on a link of a steady bandwidth. */
struct story {
        double memory, dirty_rate, bandwidth; /* bytes, per second */
        double now;                           /* seconds */
        double look;                          /* seconds of each scan, and of the last look */
        double scanned;
        unsigned rounds;
        struct convergence c;
};

static struct story story_new(double memory, double dirty_rate, double bandwidth, uint64_t allowed_ms)
{
        struct story s = {.memory = memory, .dirty_rate = dirty_rate, .bandwidth = bandwidth, .now = 5};

        convergence_init(&s.c, allowed_ms, 100, 8);
        return s;
}

static enum convergence_advice next_round(struct story *s)
{
        const double since = s->rounds ? (s->now - s->scanned) * s->dirty_rate : s->memory;
        const double bytes = since < s->memory ? since : s->memory;

        s->scanned = s->now;
        s->now += s->look + bytes / s->bandwidth;
        s->rounds++;
        const struct convergence_round round = {
                .scanned_us = (uint64_t)(s->scanned * 1e6),
                .sent_us = (uint64_t)(s->now * 1e6),
                .last_us = (uint64_t)(s->look * 1e6),
                .bytes = (uint64_t)bytes,
                .written = s->rounds > 1 ? (uint64_t)bytes : 0,
        };
        return convergence_round(&s->c, &round);
}

static enum convergence_advice all_rounds(struct story *s)
{
        enum convergence_advice advice;

        do
                advice = next_round(s);
        while (advice == CONVERGENCE_AGAIN && s->rounds < 100);
        return advice;
}

/* Of a first round nothing follows but that there has to be another; from then on the downtime is known, and is true.
 */
static void test_predicts(void **unused)
{
        struct story s = story_new(1000 * MB, 50 * MB, 500 * MB, 120);

        (void)unused;
        assert_int_equal(convergence_downtime_ms(&s.c), -1);
        assert_int_equal(convergence_dirty_rate(&s.c), -1);
        assert_int_equal(next_round(&s), CONVERGENCE_AGAIN);
        assert_int_equal(convergence_downtime_ms(&s.c), -1);

        /* 2 s for all of it, in which 100 MB are written: 0.2 s, in which 10 MB are written. */
        assert_int_equal(next_round(&s), CONVERGENCE_ENOUGH);
        assert_in_range(convergence_dirty_rate(&s.c), 49 * MB, 51 * MB);
        assert_in_range(convergence_copy_ms(&s.c), 19, 21);
        assert_in_range(convergence_downtime_ms(&s.c), 119, 121);
        assert_in_range((s.now - s.scanned) * s.dirty_rate / s.bandwidth * 1e3, 19, 21);
}

/* A tracker that reads all memory does so once more in the end, and what is written while it reads is not the link's
 * fault. */
static void test_the_last_look_counts(void **unused)
{
        struct story s = story_new(1000 * MB, 50 * MB, 500 * MB, 120);

        (void)unused;
        s.look = 0.2;
        assert_int_equal(next_round(&s), CONVERGENCE_AGAIN);
        assert_int_equal(next_round(&s), CONVERGENCE_AGAIN);
        assert_in_range((int64_t)s.c.bandwidth, 495 * MB, 505 * MB);
        /* 0.2 s of looking and 0.22 s for 110 MB: 21 MB are left, for 42 ms, and it is looked at once more. */
        assert_in_range(convergence_copy_ms(&s.c), 240, 244);
}

/* It goes on for as long as that makes it shorter, although it is short enough for nobody. */
static void test_goes_on_while_it_gains(void **unused)
{
        struct story s = story_new(1000 * MB, 50 * MB, 100 * MB, 1);

        (void)unused;
        assert_int_equal(all_rounds(&s), CONVERGENCE_STALLED);
        assert_int_equal(s.rounds, 8); /* the ceiling: each has halved what was left */
        assert_in_range(convergence_copy_ms(&s.c), 30, 50);
}

/* What is written faster than it can be sent stays as it is: three rounds show that. */
static void test_stalls(void **unused)
{
        struct story s = story_new(200 * MB, 1000 * MB, 100 * MB, 300);

        (void)unused;
        assert_int_equal(all_rounds(&s), CONVERGENCE_STALLED);
        assert_int_equal(s.rounds, 3);
        assert_true(convergence_downtime_ms(&s.c) > 2000);
}

/* Slowed down it converges; until then the rounds that did not are forgotten. */
static void test_slowed(void **unused)
{
        struct story s = story_new(200 * MB, 1000 * MB, 100 * MB, 300);

        (void)unused;
        assert_int_equal(all_rounds(&s), CONVERGENCE_STALLED);
        s.dirty_rate = 20 * MB;
        convergence_slowed(&s.c);
        assert_int_equal(all_rounds(&s), CONVERGENCE_ENOUGH);
        assert_in_range(convergence_downtime_ms(&s.c), 100, 300);
}

/* So little memory, or so idle a workload, that one round is all. */
static void test_brief(void **unused)
{
        struct story small = story_new(1 * MB, 50 * MB, 500 * MB, 300);
        struct story idle = story_new(1000 * MB, 0, 500 * MB, 300);

        (void)unused;
        assert_int_equal(next_round(&small), CONVERGENCE_ENOUGH);
        assert_in_range(convergence_downtime_ms(&small.c), 100, 110);
        assert_int_equal(all_rounds(&idle), CONVERGENCE_ENOUGH);
        assert_int_equal(idle.rounds, 2);
        assert_int_equal(convergence_downtime_ms(&idle.c), 100);
        assert_int_equal(convergence_dirty_rate(&idle.c), 0);
}

/* A clock that stands still, a round of nothing, numbers beyond all sense: no division by zero, no wrong sign. */
static void test_odd_numbers(void **unused)
{
        static const struct convergence_round odd[] = {
                {.scanned_us = 7, .sent_us = 7},
                {.scanned_us = 7, .sent_us = 7, .bytes = 1, .written = 1},
                {.scanned_us = 9, .sent_us = 8, .bytes = UINT64_MAX, .written = UINT64_MAX},
                {.scanned_us = UINT64_MAX - 1, .sent_us = UINT64_MAX, .bytes = 1, .written = UINT64_MAX},
        };
        struct convergence c;

        (void)unused;
        convergence_init(&c, 300, 100, 100);
        for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
                (void)convergence_round(&c, &odd[i]);
                assert_true(convergence_downtime_ms(&c) >= 100);
                assert_true(convergence_copy_ms(&c) >= 0);
                assert_true(convergence_dirty_rate(&c) >= -1);
        }
        /* A last round that shows nothing is the last all the same. */
        convergence_init(&c, 300, 100, 1);
        assert_int_equal(convergence_round(&c, &(struct convergence_round){.sent_us = 9000000, .bytes = 1}),
                         CONVERGENCE_STALLED);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_predicts),
                cmocka_unit_test(test_the_last_look_counts),
                cmocka_unit_test(test_goes_on_while_it_gains),
                cmocka_unit_test(test_stalls),
                cmocka_unit_test(test_slowed),
                cmocka_unit_test(test_brief),
                cmocka_unit_test(test_odd_numbers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
