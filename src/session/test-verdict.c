/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "session/verdict.h"

static const char *text_of(const struct verdict *v, size_t i, const char *key)
{
        return json_string_value(json_object_get(json_array_get(v->items, i), key));
}

/* A judgement is an error to people, and says that it could be forced; what is impossible does not. */
static void judgements_are_errors(void **unused)
{
        CLEANUP(verdict_done) struct verdict v = {.host = "alpha"};
        struct error err = {0};

        (void)unused;
        verdict_report("disk", GRADE_JUDGED, "full", &v);
        verdict_report("name", GRADE_ERROR, "taken", &v);
        assert_int_equal(verdict_grade(&v), GRADE_ERROR);
        assert_string_equal(text_of(&v, 0, "grade"), "error");
        assert_true(json_is_true(json_object_get(json_array_get(v.items, 0), "forcible")));
        assert_null(json_object_get(json_array_get(v.items, 1), "forcible"));
        assert_true(verdict_refusal(&v, &err) < 0);
        assert_string_equal(err.text, "alpha: full\nalpha: taken");
}

/* --force turns judgements into warnings, and nothing else. */
static void force_spares_what_is_impossible(void **unused)
{
        const struct migration_options options = {.force = true};
        CLEANUP(verdict_done) struct verdict v = {.host = "alpha", .options = &options};

        (void)unused;
        verdict_report("disk", GRADE_JUDGED, "full", &v);
        assert_int_equal(verdict_grade(&v), GRADE_WARNING);
        assert_string_equal(text_of(&v, 0, "reason"), "forced: full");
        assert_null(json_object_get(json_array_get(v.items, 0), "forcible"));
        verdict_report("name", GRADE_ERROR, "taken", &v);
        assert_int_equal(verdict_grade(&v), GRADE_ERROR);
}

/* A skipped item warns whoever reports it and however sure; others, and what is well, stay as they are. */
static void skipped_items_do_not_count(void **unused)
{
        const struct migration_options options = {.skip_cpu_check = true};
        CLEANUP(verdict_done) struct verdict v = {.host = "alpha", .options = &options};

        (void)unused;
        verdict_report("cpu", GRADE_ERROR, "no avx", &v);
        verdict_report("cpu", GRADE_JUDGED, "no avx2", &v);
        verdict_report("cpu", GRADE_OK, "the same", &v);
        assert_int_equal(verdict_grade(&v), GRADE_WARNING);
        assert_string_equal(text_of(&v, 0, "reason"), "not counted, as asked: no avx");
        assert_string_equal(text_of(&v, 2, "reason"), "the same");
        verdict_report("criu", GRADE_ERROR, "broken", &v);
        assert_int_equal(verdict_grade(&v), GRADE_ERROR);
}

/* What one host says the other one hears, and nothing that is not an item is taken for one. */
static void items_travel(void **unused)
{
        CLEANUP(verdict_done) struct verdict there = {.host = "beta"}, here = {.host = "alpha"};
        struct message *m = message_new(MSG_VERDICT);
        struct error err = {0};

        (void)unused;
        verdict_report("disk", GRADE_JUDGED, "full", &there);
        verdict_report("kind", GRADE_OK, "LXC", &there);
        assert_int_equal(verdict_put_message(&there, m), 0);
        assert_int_equal(verdict_add_message(&here, m, &err), 0);
        assert_true(json_equal(here.items, there.items));
        message_free(m);

        static const char *const wrong[] = {
                "{\"id\":\"a\",\"host\":\"b\",\"grade\":\"ok\"}",
                "{\"id\":\"a\",\"host\":\"b\",\"grade\":\"ok\",\"reason\":\"c\",\"forcible\":false}",
                "{\"id\":\"a\",\"host\":\"b\",\"grade\":\"ok\",\"reason\":\"c\",\"more\":true}",
        };
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                CLEANUP(verdict_done) struct verdict v = {.host = "alpha"};
                m = message_new(MSG_VERDICT);
                message_put_text(m, FIELD_GRADE, "ok");
                message_put_text(m, FIELD_ITEM, wrong[i]);
                assert_true(verdict_add_message(&v, m, &err) < 0);
                message_free(m);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(judgements_are_errors),
                cmocka_unit_test(force_spares_what_is_impossible),
                cmocka_unit_test(skipped_items_do_not_count),
                cmocka_unit_test(items_travel),
        };

        return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
