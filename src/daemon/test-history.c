/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a new migration learns from the ones before it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/fd.h"
#include "daemon/history.h"

static int set_up(void **state)
{
        struct history *h = NULL;
        struct error err = {0};

        int r = history_open(":memory:", &h, &err);
        *state = h;
        return r;
}

static int tear_down(void **state)
{
        history_free(*state);
        return 0;
}

/* One that ended; copy_ms below 0: nothing was predicted. Each is younger than the one before. */
static void put(struct history *h, const char *name, const char *target, const char *result, int downtime_ms,
                int copy_ms)
{
        static int64_t now_ms = 1000;
        struct error err = {0};
        char id[ID_LENGTH + 1];

        assert_int_equal(id_new(id), 0);
        now_ms++;
        json_t *migration =
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:{s:o, s:o, s:i}}", "id", id, "side",
                          "source", "kind", "lxc", "name", name, "source", "alpha", "target", target, "result", result,
                          "created_ms", (json_int_t)now_ms, "ended_ms", (json_int_t)now_ms, "report", "downtime_ms",
                          downtime_ms < 0 ? json_null() : json_integer(downtime_ms), "predicted_copy_ms",
                          copy_ms < 0 ? json_null() : json_integer(copy_ms), "bytes_sent", 1);
        assert_non_null(migration);
        assert_int_equal(history_put(h, migration, "", NULL, NULL, &err), 0);
        json_decref(migration);
}

static void test_floor(void **state)
{
        struct history *h = *state;

        assert_int_equal(history_floor(h, "lxc", "web", "beta"), 0);
        put(h, "web", "beta", "failed", 900, 1);
        put(h, "web", "beta", "done", 900, -1);
        put(h, "web", "beta", "done", -1, 10);
        put(h, "web", "gamma", "done", 700, 100);
        assert_int_equal(history_floor(h, "lxc", "web", "beta"), 0);
        assert_int_equal(history_floor(h, "pid", "web", "gamma"), 0);
        assert_int_equal(history_floor(h, "lxc", "web", "gamma"), 600);

        /* The middle of them, so that one that was disturbed does not count; never nothing. */
        put(h, "mail", "beta", "done", 150, 50);
        put(h, "mail", "beta", "done", 9000, 50);
        put(h, "mail", "beta", "done", 260, 50);
        assert_int_equal(history_floor(h, "lxc", "web", "beta"), 210);
        for (int i = 0; i < 5; i++)
                put(h, "web", "beta", "done", 50, 80);
        assert_int_equal(history_floor(h, "lxc", "web", "beta"), 1);

        /* Of another name only as long as there are too few of its own, and the youngest. */
        assert_int_equal(history_floor(h, "lxc", "mail", "beta"), 100);
        for (int i = 0; i < 5; i++)
                put(h, "web", "beta", "done", 400, 0);
        assert_int_equal(history_floor(h, "lxc", "web", "beta"), 400);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_floor, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
