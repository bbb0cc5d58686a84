/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The event ring: order, resuming, filters, and a reader that is too slow. Problem documents as well. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/events.h"
#include "daemon/problem.h"

#define A "00112233445566778899aabbccddeeff"
#define B "ffeeddccbbaa99887766554433221100"

static void wake(void *context)
{
        (*(unsigned *)context)++;
}

static void publish(struct events *e, const char *migration, int n)
{
        assert_int_equal(events_publish(e, "test", migration, json_pack("{s:i}", "n", n)), 0);
}

/* Read everything there is, in small pieces as a slow socket takes them. */
static void drain(struct event_reader *r, char *text, size_t size)
{
        size_t used = 0, n;

        while ((n = event_reader_read(r, text + used, size - used - 1 < 7 ? size - used - 1 : 7)) > 0)
                used += n;
        text[used] = '\0';
}

static void a_reader_sees_what_comes_after_it(void **state)
{
        CLEANUP(events_free_ptr) struct events *e = NULL;
        struct event_reader *r;
        unsigned woken = 0;
        char text[4096];

        (void)state;
        assert_int_equal(events_new(100, 10, &e), 0);
        publish(e, NULL, 1);
        assert_int_equal(event_reader_new(e, false, 0, NULL, wake, &woken, &r), 0);
        drain(r, text, sizeof(text));
        assert_string_equal(text, "");
        publish(e, A, 2);
        assert_int_equal(woken, 1);
        publish(e, A, 3); /* not waiting any more: no second wake-up */
        assert_int_equal(woken, 1);
        drain(r, text, sizeof(text));
        assert_string_equal(text, "id: 101\nevent: test\ndata: {\"n\":2}\n\nid: 102\nevent: test\ndata: {\"n\":3}\n\n");
        event_reader_free(r);
}

static void resuming_goes_on_after_the_last_id(void **state)
{
        CLEANUP(events_free_ptr) struct events *e = NULL;
        struct event_reader *r;
        unsigned woken = 0;
        char text[4096];

        (void)state;
        assert_int_equal(events_new(100, 10, &e), 0);
        for (int i = 0; i < 5; i++)
                publish(e, i % 2 ? A : B, i);
        assert_int_equal(event_reader_new(e, true, 102, NULL, wake, &woken, &r), 0);
        drain(r, text, sizeof(text));
        assert_true(strncmp(text, "id: 103\n", 8) == 0);
        event_reader_free(r);

        assert_int_equal(event_reader_new(e, true, 99, A, wake, &woken, &r), 0);
        drain(r, text, sizeof(text));
        assert_null(strstr(text, "gap"));
        assert_null(strstr(text, "id: 100"));
        assert_non_null(strstr(text, "id: 101"));
        assert_non_null(strstr(text, "id: 103"));
        event_reader_free(r);

        /* An id this phauld never gave out: from now on. */
        assert_int_equal(event_reader_new(e, true, 5000, NULL, wake, &woken, &r), 0);
        drain(r, text, sizeof(text));
        assert_string_equal(text, "");
        event_reader_free(r);
}

static void who_was_overtaken_is_told(void **state)
{
        CLEANUP(events_free_ptr) struct events *e = NULL;
        struct event_reader *r;
        unsigned woken = 0;
        char text[8192];

        (void)state;
        assert_int_equal(events_new(100, 10, &e), 0);
        assert_int_equal(event_reader_new(e, false, 0, NULL, wake, &woken, &r), 0);
        for (int i = 0; i < 25; i++)
                publish(e, NULL, i);
        drain(r, text, sizeof(text));
        assert_true(strncmp(text, "event: gap\n", 11) == 0);
        assert_non_null(strstr(text, "id: 115\n"));
        assert_null(strstr(text, "id: 114\n"));
        assert_non_null(strstr(text, "id: 124\n"));
        event_reader_free(r);
}

static void silence_is_filled_with_comments(void **state)
{
        CLEANUP(events_free_ptr) struct events *e = NULL;
        struct event_reader *r;
        unsigned woken = 0;
        char text[256];

        (void)state;
        assert_int_equal(events_new(1, 10, &e), 0);
        assert_int_equal(event_reader_new(e, false, 0, NULL, wake, &woken, &r), 0);
        /* At once, so that the client gets its headers; then nothing until it is time. */
        assert_int_equal(event_reader_read(r, text, sizeof(text)), 14);
        assert_int_equal(event_reader_read(r, text, sizeof(text)), 0);
        events_heartbeat(e);
        assert_int_equal(woken, 1);
        assert_true(event_reader_read(r, text, sizeof(text)) > 0);
        assert_int_equal(text[0], ':');
        assert_int_equal(event_reader_read(r, text, sizeof(text)), 0);
        event_reader_free(r);
}

static void every_kind_of_error_has_its_status(void **state)
{
        static const struct {
                enum error_kind kind;
                int code;
                unsigned status;
        } cases[] = {
                {ERROR_USAGE, EINVAL, 400},     {ERROR_USAGE, E2BIG, 413},         {ERROR_REFUSED, EINVAL, 422},
                {ERROR_REFUSED, EALREADY, 409}, {ERROR_NOT_FOUND, ENOENT, 404},    {ERROR_DENIED, EACCES, 403},
                {ERROR_FAILED, EIO, 500},       {ERROR_FAILED, ECONNREFUSED, 502}, {ERROR_FAILED, ETIMEDOUT, 504},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct error err = {0};
                (void)error_set_kind(&err, cases[i].kind, cases[i].code, "why \xff not");
                assert_int_equal(problem_status(&err), cases[i].status);
                json_t *p = problem_document(0, &err);
                assert_string_equal(json_string_value(json_object_get(p, "kind")), error_kind_name(cases[i].kind));
                assert_string_not_equal(json_string_value(json_object_get(p, "title")), "Error");
                assert_non_null(json_object_get(p, "detail")); /* also when the text is not UTF-8 */
                json_decref(p);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_reader_sees_what_comes_after_it),
                cmocka_unit_test(resuming_goes_on_after_the_last_id),
                cmocka_unit_test(who_was_overtaken_is_told),
                cmocka_unit_test(silence_is_filled_with_comments),
                cmocka_unit_test(every_kind_of_error_has_its_status),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
