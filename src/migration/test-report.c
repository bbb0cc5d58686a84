/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "migration/report.h"

#define WALL 1700000000000

static const struct report_subject web = {"0123456789abcdef0123456789abcdef", "lxc", "web", "web", "alpha", "beta"};

static struct migration_report *begin(void)
{
        struct migration_report *report = NULL;

        assert_int_equal(migration_report_new(&web, WALL, 1000, &report), 0);
        return report;
}

/* The migration of the manual's example. */
static struct migration_report *success(void)
{
        struct migration_report *r = begin();

        assert_int_equal(migration_report_phase(r, "examine", 1000, 0), 0);
        assert_int_equal(migration_report_phase(r, "files", 1100, 1000), 0);
        assert_int_equal(migration_report_phase(r, "freeze", 2500, 200000000), 0);
        migration_report_frozen(r, 2510);
        migration_report_frozen(r, 2600); /* says nothing new */
        assert_int_equal(migration_report_phase(r, "files", 2520, 200500000), 0);
        assert_int_equal(migration_report_phase(r, "commit", 2640, 268000000), 0);
        assert_int_equal(migration_report_phase(r, "resume", 2645, 268000000), 0);
        r->downtime_ms = 143;
        r->predicted_ms = 150;
        r->predicted_copy_ms = 20;
        r->rounds = 4;
        r->zero_bytes = 3 * 4096;
        r->same_bytes = 0;
        assert_int_equal(migration_report_phase(r, "release", 2653, 268000100), 0);
        migration_report_unfrozen(r, 2660);
        migration_report_unfrozen(r, 2700);
        migration_report_end(r, SOURCE_RELEASED, NULL, NULL, WALL + 2315, 3315, 268000200);
        return r;
}

/* Phases follow one another without a gap, one that comes again adds up, and the line reads as in the manual. */
static void test_story(void **unused)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *r = success();
        char line[256];
        int64_t sum = 0;
        uint64_t bytes = 0;

        (void)unused;
        assert_string_equal(migration_report_text(r, line, sizeof(line)),
                            "migrated lxc/web alpha -> beta in 2.31 s, downtime 143 ms, 268 MB sent, 4 rounds");
        assert_int_equal(r->result, REPORT_DONE);
        assert_string_equal(r->owner, "target");
        assert_int_equal(r->frozen_ms, 150);
        assert_int_equal(r->n_phases, 6);
        assert_string_equal(r->phases[1].name, "files");
        assert_int_equal(r->phases[1].ms, 1400 + 120);
        assert_int_equal(r->phases[1].bytes, 199999000 + 67500000);
        for (size_t i = 0; i < r->n_phases; i++) {
                sum += r->phases[i].ms;
                bytes += r->phases[i].bytes;
        }
        assert_int_equal(sum, r->total_ms);
        assert_int_equal(bytes, r->bytes_sent);
        assert_int_equal(migration_report_phase(r, "lunch", 4000, 0), -EINVAL);
}

/* How it ended follows from who owns it and what went wrong. */
static void test_results(void **unused)
{
        static const struct {
                enum handover_state state;
                enum error_kind failure;
                enum report_result result;
                const char *owner;
        } cases[] = {
                {SOURCE_RELEASED, ERROR_NONE, REPORT_DONE, "target"},
                {TARGET_RUNNING, ERROR_NONE, REPORT_DONE, "target"},
                {SOURCE_ABORTED, ERROR_FAILED, REPORT_FAILED, "source"},
                {SOURCE_ABORTED, ERROR_NONE, REPORT_FAILED, "source"},
                {SOURCE_ABORTED, ERROR_CANCELLED, REPORT_CANCELLED, "source"},
                {SOURCE_ABORTED, ERROR_LOST, REPORT_FAILED, "source"},
                {SOURCE_UNDECIDED, ERROR_FAILED, REPORT_UNKNOWN, "unknown"},
                {TARGET_UNKNOWN, ERROR_NONE, REPORT_UNKNOWN, "unknown"},
                {SOURCE_COMMITTED, ERROR_UNKNOWN, REPORT_UNKNOWN, "target"},
        };

        (void)unused;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                CLEANUP(migration_report_free_ptr) struct migration_report *r = begin();
                struct error failure = {.kind = cases[i].failure, .text = "why"};

                migration_report_end(r, cases[i].state, &failure, NULL, WALL, 1000, 0);
                assert_int_equal(r->result, cases[i].result);
                assert_string_equal(r->owner, cases[i].owner);
        }
}

/* A failure says what, where and during what; a freeze that was going on ends with it. */
static void test_failure(void **unused)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *r = begin();
        struct error failure = {0};
        char line[256];

        (void)unused;
        (void)error_set(&failure, EIO, "criu failed: no space");
        assert_int_equal(migration_report_phase(r, "restore", 1500, 10), 0);
        migration_report_frozen(r, 1500);
        migration_report_end(r, SOURCE_ABORTED, &failure, "beta", WALL + 800, 1800, 20);
        assert_string_equal(r->failure.phase, "restore");
        assert_string_equal(r->failure.host, "beta");
        assert_string_equal(r->reason, "criu failed: no space");
        assert_int_equal(r->frozen_ms, 300);
        assert_string_equal(migration_report_text(r, line, sizeof(line)),
                            "failed lxc/web alpha -> beta after 0.80 s: criu failed: no space");

        /* A text cut in the middle of a character, or no text at all in any sense, still makes a document. */
        memset(failure.text, 'x', sizeof(failure.text));
        memcpy(failure.text + sizeof(failure.text) - 3, "\xe2\x80", 3);
        migration_report_end(r, SOURCE_ABORTED, &failure, "no host!", WALL, 1800, 20);
        json_t *json = migration_report_to_json(r);
        assert_non_null(json);
        json_decref(json);
        memcpy(failure.text, "\xff\xfe ok", 6);
        migration_report_end(r, SOURCE_ABORTED, &failure, NULL, WALL, 1800, 20);
        assert_string_equal(r->reason, "?? ok");
}

/* All that the manual lists is there, and it comes back the same. */
static void test_json(void **unused)
{
        static const char *const keys[] = {"id",
                                           "kind",
                                           "name",
                                           "target_name",
                                           "source",
                                           "target",
                                           "mode",
                                           "result",
                                           "owner",
                                           "reason",
                                           "total_ms",
                                           "downtime_ms",
                                           "frozen_ms",
                                           "bytes_sent",
                                           "zero_bytes",
                                           "same_bytes",
                                           "rounds",
                                           "tracker",
                                           "postcopy",
                                           "phases",
                                           "failure",
                                           "started_ms",
                                           "ended_ms",
                                           "predicted_downtime_ms",
                                           "predicted_copy_ms"};
        struct error failure = {0};

        (void)unused;
        (void)error_set_kind(&failure, ERROR_DENIED, EPERM, "not \"allowed\"");
        for (unsigned i = 0; i < 3; i++) {
                CLEANUP(migration_report_free_ptr)
                struct migration_report *r = i == 0 ? success() : begin(), *back = NULL;
                struct error err = {0};

                if (i == 1) {
                        assert_int_equal(migration_report_phase(r, "files", 1200, 0), 0);
                        migration_report_end(r, SOURCE_ABORTED, &failure, "alpha", WALL + 9, 1700, 77);
                } else if (i == 2) {
                        r->postcopy.used = true;
                        r->postcopy.left_bytes = 12345;
                }
                json_t *json = migration_report_to_json(r);
                assert_non_null(json);
                for (size_t j = 0; j < sizeof(keys) / sizeof(keys[0]); j++)
                        assert_non_null(json_object_get(json, keys[j]));
                assert_int_equal(json_object_size(json), sizeof(keys) / sizeof(keys[0]));
                assert_true(json_is_null(json_object_get(json, "tracker")));
                if (migration_report_from_json(json, &back, &err) < 0)
                        fail_msg("%s", err.text);
                json_t *again = migration_report_to_json(back);
                assert_true(json_equal(json, again));
                json_decref(again);
                json_decref(json);
        }
}

/* With post-copy it is frozen for longer than it stood still, and the moment when the source is free is told. */
static void test_postcopy(void **unused)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *r = begin();

        (void)unused;
        r->postcopy.used = true;
        migration_report_frozen(r, 1500);
        migration_report_handed_over(r, 1540);
        migration_report_handed_over(r, 1700); /* told again after a loss of the link */
        migration_report_source_free(r, 2900);
        migration_report_source_free(r, 3100);
        migration_report_unfrozen(r, 3000);
        assert_int_equal(r->downtime_ms, 40);
        assert_int_equal(r->frozen_ms, 1500);
        assert_int_equal(r->postcopy.source_needed_ms, 1900);
        json_t *json = migration_report_to_json(r), *postcopy = json_object_get(json, "postcopy");
        assert_int_equal(json_integer_value(json_object_get(postcopy, "source_needed_ms")), 1900);
        (void)json_object_set_new(postcopy, "left_bytes", json_string("many"));
        struct migration_report *none = NULL;
        struct error err = {0};
        assert_int_equal(migration_report_from_json(json, &none, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "postcopy"));
        json_decref(json);
}

/* Whatever single thing is missing or of another kind is found and named. */
static void test_bad_json(void **unused)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *r = success(), *back = NULL;
        static const char *const may_be_null[] = {"reason",
                                                  "downtime_ms",
                                                  "predicted_downtime_ms",
                                                  "predicted_copy_ms",
                                                  "tracker",
                                                  "postcopy",
                                                  "zero_bytes",
                                                  "same_bytes",
                                                  "failure",
                                                  "result"};
        json_t *good = migration_report_to_json(r);
        const char *key;
        json_t *value;

        (void)unused;
        assert_non_null(good);
        json_object_foreach(good, key, value)
        {
                json_t *const wrong[] = {
                        json_null(),   json_integer(-1), json_string("\x01"), json_array(),
                        json_object(), json_real(1.5),   json_true(),         json_string("UNHEARD of")};
                bool nullable = false;

                for (size_t i = 0; i < sizeof(may_be_null) / sizeof(may_be_null[0]); i++)
                        nullable |= strcmp(key, may_be_null[i]) == 0;
                for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                        json_t *bad = json_copy(good);
                        struct error err = {0};
                        json_object_set_new(bad, key, wrong[i]);
                        bool fits =
                                (nullable && i == 0) || json_typeof(json_object_get(bad, key)) == json_typeof(value);
                        fits |= strcmp(key, "reason") == 0 && json_is_string(json_object_get(bad, key));
                        int got = migration_report_from_json(bad, &back, &err);
                        if (!fits || i == 1)
                                assert_int_equal(got, -EBADMSG);
                        if (got == 0)
                                migration_report_free(TAKE_PTR(back));
                        else
                                assert_true(err.text[0]);
                        json_decref(bad);
                }
        }
        assert_int_equal(migration_report_from_json(NULL, &back, NULL), -EBADMSG);
        json_t *phases = json_object_get(good, "phases");
        json_array_append(phases, json_array_get(phases, 0));
        assert_int_equal(migration_report_from_json(good, &back, NULL), -EBADMSG); /* a phase twice */
        json_decref(good);
}

static void test_subject(void **unused)
{
        struct migration_report *r = NULL;

        (void)unused;
        for (unsigned i = 0; i < 6; i++)
                for (unsigned null = 0; null < 2; null++) {
                        struct report_subject bad = web;
                        ((const char **)&bad)[i] = null ? NULL : "../etc";
                        assert_int_equal(migration_report_new(&bad, WALL, 0, &r), -EINVAL);
                }
        assert_null(r);
}

/* Sizes as people read them. */
static void test_sizes(void **unused)
{
        static const struct {
                uint64_t bytes;
                const char *text;
        } cases[] = {
                {0, " 0 B sent"},
                {999, " 999 B sent"},
                {1000, " 1.0 kB sent"},
                {9949, " 9.9 kB sent"},
                {9950000, " 10 MB sent"},
                {999499999, " 999 MB sent"},
                {999500000, " 1.0 GB sent"},
                {1240000000, " 1.2 GB sent"},
                {UINT64_MAX, " 18 EB sent"},
        };

        (void)unused;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                CLEANUP(migration_report_free_ptr) struct migration_report *r = begin();
                char line[256];

                r->rounds = 1;
                migration_report_end(r, SOURCE_RELEASED, NULL, NULL, WALL, 1000, cases[i].bytes);
                if (!strstr(migration_report_text(r, line, sizeof(line)), cases[i].text))
                        fail_msg("'%s' in '%s'", cases[i].text, line);
                assert_non_null(strstr(line, ", 1 round"));
                assert_null(strstr(line, "rounds"));
                assert_null(strstr(line, "downtime"));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_story),   cmocka_unit_test(test_results),  cmocka_unit_test(test_failure),
                cmocka_unit_test(test_json),    cmocka_unit_test(test_postcopy), cmocka_unit_test(test_bad_json),
                cmocka_unit_test(test_subject), cmocka_unit_test(test_sizes),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
