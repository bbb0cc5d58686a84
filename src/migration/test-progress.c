/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "migration/progress.h"

#define MB 1000000ULL

/* A steady stream: the rate is known after a tenth of a second, and the end is where it should be. */
static void test_steady(void **unused)
{
        struct migration_progress p;

        (void)unused;
        migration_progress_init(&p);
        assert_int_equal(p.eta_ms, -1);
        migration_progress_update(&p, "files", 1, 0, 1000 * MB, 5000);
        assert_int_equal(p.rate, 0);
        assert_int_equal(p.eta_ms, -1);
        for (uint64_t t = 10; t <= 4000; t += 10) /* 100 MB/s, told every 10 ms */
                migration_progress_update(&p, "files", 1, t * MB / 10, 1000 * MB, 5000 + t);
        assert_in_range(p.rate, 99 * MB, 101 * MB);
        assert_in_range(p.eta_ms, 5900, 6100);
        migration_progress_update(&p, "files", 1, 1000 * MB, 1000 * MB, 15000);
        assert_int_equal(p.eta_ms, 0);
}

/* A link that gets ten times slower is believed within some seconds, but not at the first hiccup. */
static void test_smoothing(void **unused)
{
        struct migration_progress p;
        uint64_t done = 0, t = 0;

        (void)unused;
        migration_progress_init(&p);
        for (; t <= 2000; t += 100, done += 10 * MB)
                migration_progress_update(&p, "memory", 2, done, 0, t);
        assert_int_equal(p.eta_ms, -1); /* no total, no end */
        migration_progress_update(&p, "memory", 2, done, 0, t += 200);
        assert_true(p.rate > 80 * MB);
        for (unsigned i = 0; i < 100; i++)
                migration_progress_update(&p, "memory", 2, done += MB, 0, t += 100);
        assert_in_range(p.rate, 9 * MB, 12 * MB);
        /* A stall ends in "not known", not in a number that was true once. */
        for (unsigned i = 0; i < 1000; i++)
                migration_progress_update(&p, "memory", 2, done, done + 1, t += 100);
        assert_int_equal(p.rate, 0);
        assert_int_equal(p.eta_ms, -1);
}

/* Another round, another phase, or bytes that go back: measured anew. */
static void test_restart(void **unused)
{
        static const struct {
                const char *phase;
                unsigned round;
                uint64_t done;
        } next[] = {{"files", 2, 10 * MB}, {"state", 1, 10 * MB}, {"files", 1, 5}};

        (void)unused;
        for (size_t i = 0; i < 3; i++) {
                struct migration_progress p;

                migration_progress_init(&p);
                p.dirty_rate = 7;
                p.predicted_downtime_ms = 8;
                migration_progress_update(&p, "files", 1, 0, 100 * MB, 0);
                migration_progress_update(&p, "files", 1, 10 * MB, 100 * MB, 1000);
                assert_int_equal(p.rate, 10 * MB);
                migration_progress_update(&p, next[i].phase, next[i].round, next[i].done, 100 * MB, 2000);
                assert_int_equal(p.rate, 0);
                assert_int_equal(p.dirty_rate, 7);
                assert_int_equal(p.predicted_downtime_ms, 8);
        }
}

/* Odd input stays inside: a clock that stands, an estimate that was too low, numbers at the edge, a long word. */
static void test_odd(void **unused)
{
        struct migration_progress p;

        (void)unused;
        migration_progress_init(&p);
        migration_progress_update(&p, "files", 1, 0, 10, 1000);
        migration_progress_update(&p, "files", 1, 20, 10, 1000);
        assert_int_equal(p.bytes_total, 20);
        assert_int_equal(p.eta_ms, 0);
        migration_progress_update(&p, "files", 1, 30, 10, 900);
        migration_progress_update(&p, "files", 1, UINT64_MAX / 2, UINT64_MAX, 2000);
        assert_true(p.rate > 0);
        migration_progress_update(&p, "a-word-that-is-much-longer-than-any-phase-has", 1, 1, 2, 3000);
        assert_int_equal(strlen(p.phase), PROGRESS_PHASE_MAX);
        migration_progress_update(&p, "slow", 1, 0, UINT64_MAX, 0);
        migration_progress_update(&p, "slow", 1, 1, UINT64_MAX, 1000);
        assert_int_equal(p.eta_ms, -1); /* longer than anybody waits */
        json_t *json = migration_progress_to_json(&p);
        assert_int_equal(json_integer_value(json_object_get(json, "bytes_total")), INT64_MAX);
        json_decref(json);
}

static void test_json(void **unused)
{
        struct migration_progress p, back;
        const char *key;
        json_t *value;

        (void)unused;
        migration_progress_init(&p);
        migration_progress_update(&p, "memory", 3, 0, 100, 0);
        migration_progress_update(&p, "memory", 3, 50, 100, 1000);
        p.dirty_rate = 12;
        json_t *json = migration_progress_to_json(&p);
        assert_int_equal(json_object_size(json), 8);
        assert_true(json_is_null(json_object_get(json, "predicted_downtime_ms")));
        assert_int_equal(migration_progress_from_json(json, &back, NULL), 0);
        json_t *again = migration_progress_to_json(&back);
        assert_true(json_equal(json, again));
        json_decref(again);

        memset(&back, 7, sizeof(back));
        struct migration_progress untouched = back;
        json_object_foreach(json, key, value)
        {
                json_t *const wrong[] = {json_integer(-2), json_string("NO WORD"), json_real(0.5), json_array()};
                (void)value;
                for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                        struct error err = {0};
                        json_t *bad = json_copy(json);
                        json_object_set_new(bad, key, wrong[i]);
                        assert_int_equal(migration_progress_from_json(bad, &back, &err), -EBADMSG);
                        assert_non_null(strstr(err.text, key));
                        assert_memory_equal(&back, &untouched, sizeof(back));
                        json_decref(bad);
                }
        }
        assert_int_equal(migration_progress_from_json(NULL, &back, NULL), -EBADMSG);
        json_decref(json);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_steady), cmocka_unit_test(test_smoothing), cmocka_unit_test(test_restart),
                cmocka_unit_test(test_odd),    cmocka_unit_test(test_json),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
