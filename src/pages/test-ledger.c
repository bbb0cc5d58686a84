/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is owed, through all that happens to address spaces; and twice the same is once. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "criu/page_server.h"
#include "pages/ledger.h"

#define AT(page) (UINT64_C(0x10000000) + (uint64_t)(page)*PAGE_BYTES)

struct story {
        int fd;
        struct page_ledger *ledger;
        uint32_t files[2], space;
        uint64_t settled; /* pages that were told */
};

/* Pages 0-99 in the first file, 100-149 in the second, 200-299 in the first again. */
static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));
        struct error err = {0};
        int r = 0;

        if (!s)
                return -1;
        *state = s;
        s->fd = memfd_create("ledger", MFD_CLOEXEC);
        if (s->fd < 0 || page_ledger_create(s->fd, &s->ledger, &err) < 0)
                return -1;
        r |= page_ledger_add_file(s->ledger, "pages-1.img", 200, &s->files[0]);
        r |= page_ledger_add_file(s->ledger, "round-1/pages-1.img", 1000, &s->files[1]);
        r |= page_ledger_add_space(s->ledger, 7, &s->space);
        r |= page_ledger_add_run(s->ledger, s->space, AT(0), 60, s->files[0], 0);
        r |= page_ledger_add_run(s->ledger, s->space, AT(60), 40, s->files[0], 60);
        r |= page_ledger_add_run(s->ledger, s->space, AT(100), 50, s->files[1], 900);
        r |= page_ledger_add_run(s->ledger, s->space, AT(200), 100, s->files[0], 100);
        return r | page_ledger_owe(s->ledger, s->space);
}

static int teardown(void **state)
{
        struct story *s = *state;

        page_ledger_free(s->ledger);
        (void)close(s->fd);
        free(s);
        return 0;
}

static void on_settled(uint32_t file, uint64_t position, uint64_t n_pages, void *context)
{
        struct story *s = context;

        assert_true(file < 2 && position < 1000);
        s->settled += n_pages;
}

/* "first+count@position…" of all that is owed. */
static const char *owed(const struct story *s, uint32_t space)
{
        static char text[512];
        struct ledger_run run;
        size_t used = 0;

        text[0] = '\0';
        for (uint64_t from = 0; page_ledger_next(s->ledger, space, from, UINT64_MAX, UINT64_MAX, &run);
             from = run.vaddr + run.n_pages * PAGE_BYTES)
                used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%lld+%llu@%u:%llu", used ? " " : "",
                                         ((long long)run.vaddr - (long long)AT(0)) / (long long)PAGE_BYTES,
                                         (unsigned long long)run.n_pages, run.file, (unsigned long long)run.position);
        return text;
}

static void test_runs_and_what_is_settled(void **state)
{
        struct story *s = *state;
        struct ledger_run run;

        assert_string_equal(owed(s, s->space), "0+100@0:0 100+50@1:900 200+100@0:100");
        assert_true(page_ledger_next(s->ledger, s->space, AT(98), AT(101), 1, &run));
        assert_int_equal(run.vaddr, AT(98));
        assert_int_equal(run.n_pages, 1);
        assert_false(page_ledger_next(s->ledger, s->space, AT(150), AT(200), 100, &run));
        assert_int_equal(page_ledger_settle(s->ledger, s->space, AT(90), AT(210), on_settled, s), 10 + 50 + 10);
        assert_int_equal(s->settled, 70);
        assert_int_equal(page_ledger_settle(s->ledger, s->space, AT(90), AT(210), on_settled, s), 0);
        assert_string_equal(owed(s, s->space), "0+90@0:0 210+90@0:110");
        assert_int_equal(s->ledger->head->total, 250);
        assert_int_equal(s->ledger->head->settled, 70);
}

static void test_what_moves_is_owed_where_it_goes(void **state)
{
        struct story *s = *state;

        (void)page_ledger_settle(s->ledger, s->space, AT(50), AT(52), on_settled, s);
        (void)page_ledger_settle(s->ledger, s->space, AT(190), AT(240), on_settled, s);
        /* From two files, over half of another run. */
        for (int twice = 0; twice < 2; twice++)
                assert_int_equal(page_ledger_move(s->ledger, s->space, AT(90), AT(200), 40 * PAGE_BYTES, 5), 0);
        assert_string_equal(owed(s, s->space),
                            "0+50@0:0 52+38@0:52 130+20@1:930 200+10@0:90 210+30@1:900 240+60@0:140");
        /* Back again is another event. */
        assert_int_equal(page_ledger_move(s->ledger, s->space, AT(200), AT(90), 40 * PAGE_BYTES, 6), 0);
        assert_string_equal(owed(s, s->space), "0+50@0:0 52+38@0:52 90+10@0:90 100+30@1:900 130+20@1:930 240+60@0:140");
}

static void test_a_child_is_owed_what_its_parent_is(void **state)
{
        struct story *s = *state;
        uint32_t child, again, space;

        assert_int_equal(page_ledger_attach(s->ledger, 7, 40, &space), 0);
        assert_int_equal(space, s->space);
        assert_int_equal(page_ledger_attach(s->ledger, 7, 40, &again), 1);
        (void)page_ledger_settle(s->ledger, s->space, AT(0), AT(100), on_settled, s);
        assert_int_equal(page_ledger_fork(s->ledger, s->space, 41, &child), 0);
        assert_int_equal(page_ledger_fork(s->ledger, s->space, 41, &again), 1);
        assert_int_equal(again, child);
        assert_string_equal(owed(s, child), "100+50@1:900 200+100@0:100");
        (void)page_ledger_settle(s->ledger, s->space, AT(100), AT(150), on_settled, s);
        (void)page_ledger_settle(s->ledger, child, AT(200), AT(300), on_settled, s);
        assert_string_equal(owed(s, s->space), "200+100@0:100");
        assert_string_equal(owed(s, child), "100+50@1:900");
        /* A task that is owed nothing has a place as well. */
        assert_int_equal(page_ledger_attach(s->ledger, 8, 42, &again), 0);
        assert_true(again != child && again != s->space);
        assert_string_equal(owed(s, again), "");
}

static void test_what_lies_together_in_a_file(void **state)
{
        struct story *s = *state;
        const struct ledger_part part = {.file = s->files[0], .first = 80, .end = 120};
        uint64_t position, from;
        struct ledger_run run;
        uint32_t file;

        assert_true(page_ledger_where(s->ledger, s->space, AT(205), &file, &position));
        assert_true(file == s->files[0] && position == 105);
        assert_false(page_ledger_where(s->ledger, s->space, AT(160), &file, &position));
        from = page_ledger_begin_of(s->ledger, s->space, &part, AT(205));
        assert_true(from <= AT(80));
        assert_true(page_ledger_next_of(s->ledger, s->space, &part, from, 100, &run));
        assert_true(run.vaddr == AT(80) && run.n_pages == 20);
        assert_true(page_ledger_next_of(s->ledger, s->space, &part, AT(100), 100, &run));
        assert_true(run.vaddr == AT(200) && run.n_pages == 20);
        assert_false(page_ledger_next_of(s->ledger, s->space, &part, AT(220), 100, &run));
}

static void test_what_cannot_be(void **state)
{
        struct story *s = *state;
        uint32_t space, file;

        assert_int_equal(page_ledger_add_space(s->ledger, 9, &space), 0);
        assert_int_equal(page_ledger_add_run(s->ledger, space, AT(0), 201, s->files[0], 0), -EINVAL);
        assert_int_equal(page_ledger_add_run(s->ledger, space, AT(0), 1, 2, 0), -EINVAL);
        assert_int_equal(page_ledger_add_run(s->ledger, space, AT(5), 5, s->files[0], 0), 0);
        assert_int_equal(page_ledger_add_run(s->ledger, space, AT(9), 5, s->files[0], 5), -EINVAL);
        assert_int_equal(
                page_ledger_add_file(s->ledger, "a name that is much too long to be one of ours, or CRIU's", 1, &file),
                -E2BIG);
}

/* Places of pages that are on another host: nobody is given what lies there until they have come. */
static void test_pages_that_are_away(void **state)
{
        struct story *s = *state;
        struct page_ledger *l = s->ledger;
        uint32_t file;
        uint64_t position;

        assert_int_equal(page_ledger_here(l, s->files[0], 0, 50), 50);
        assert_int_equal(page_ledger_missing(l, s->files[0], 0, 50), 0);
        assert_false(page_ledger_want(l, s->files[0], 3)); /* nothing is away */

        assert_int_equal(page_ledger_add_away(l, 0x701, AT(10), 120, s->files[0], 10), 0);
        assert_int_equal(page_ledger_add_away(l, 0x701, AT(100), 1, s->files[1], 999), 0);
        assert_int_equal(page_ledger_add_away(l, 0x701, AT(0), 1, s->files[1], 1000), -EINVAL);
        assert_int_equal(l->head->total_away, 121);
        assert_int_equal(page_ledger_here(l, s->files[0], 0, 200), 10);
        assert_int_equal(page_ledger_here(l, s->files[0], 10, 1), 0);
        assert_int_equal(page_ledger_missing(l, s->files[0], 10, 200), 120);
        assert_int_equal(page_ledger_missing(l, s->files[0], 70, 20), 20);
        assert_int_equal(page_ledger_here(l, s->files[0], 130, 70), 70);

        assert_int_equal(page_ledger_arrived(l, s->files[0], 20, 44), 44);
        assert_int_equal(page_ledger_arrived(l, s->files[0], 0, 21), 10); /* 10 to 19; the others were here */
        assert_int_equal(page_ledger_here(l, s->files[0], 0, 200), 64);
        assert_int_equal(page_ledger_missing(l, s->files[0], 64, 200), 66);
        assert_int_equal(l->head->arrived, 54);

        assert_true(page_ledger_want(l, s->files[0], 64));
        assert_true(page_ledger_want(l, s->files[1], 999));
        for (unsigned turn = 0; turn < 2; turn++) { /* told until it is here: who was told may have died */
                size_t cursor = 0;
                assert_true(page_ledger_wanted(l, &cursor, &file, &position));
                assert_int_equal(position, 64);
                assert_true(page_ledger_wanted(l, &cursor, &file, &position));
                assert_int_equal(file, s->files[1]);
                assert_false(page_ledger_wanted(l, &cursor, &file, &position));
        }
        assert_int_equal(page_ledger_arrived(l, s->files[0], 64, 1), 1);
        size_t cursor = 0;
        assert_true(page_ledger_wanted(l, &cursor, &file, &position));
        assert_int_equal(position, 999);
        assert_int_equal(page_ledger_arrived(l, s->files[1], 999, 1), 1);
        cursor = 0;
        assert_false(page_ledger_wanted(l, &cursor, &file, &position));
        for (unsigned i = 0; i < LEDGER_WANTED_MAX; i++)
                assert_true(page_ledger_want(l, s->files[0], 65 + i % 65));
        assert_false(page_ledger_want(l, s->files[0], 64));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_pages_that_are_away, setup, teardown),
                cmocka_unit_test_setup_teardown(test_runs_and_what_is_settled, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_moves_is_owed_where_it_goes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_child_is_owed_what_its_parent_is, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_lies_together_in_a_file, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_cannot_be, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
