/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What trackers that put nothing into a process say of it: soft-dirty and hash, one of which the command line names.
 * The process is a copy of this one: it does what it is told, and stands still in between.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "memory/process_memory.h"
#include "memory/test-tracker-story.h"

#define HUGE_PAGES 512U
#define HUGE_BYTES (HUGE_PAGES * PAGE)
#define ADVICE_COLLAPSE 25 /* MADV_COLLAPSE, Linux 6.1 */

/* -- a round ------------------------------------------------------------------------------------------------------ */

#define RANGES 4096U

struct report {
        struct page_count count;
        uint64_t starts[RANGES], ends[RANGES];
        size_t n;
};

static int on_written(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct report *r = context;

        assert_true(r->n < RANGES);
        r->starts[r->n] = start;
        r->ends[r->n++] = end;
        return page_count_add(pid, start, end, &r->count);
}

static void send(const struct report *r, pid_t pid)
{
        static uint8_t page[PAGE];

        AUTO_FD int memory = process_memory_open(pid);
        assert_true(memory >= 0);
        for (size_t i = 0; i < r->n; i++)
                for (uint64_t a = r->starts[i]; a < r->ends[i]; a += PAGE)
                        if (process_memory_read(memory, a, page, PAGE) == (ssize_t)PAGE)
                                tracker_sent(tracker, pid, a, 1, page);
}

static struct report *scan_of(pid_t pid, uint64_t start, uint64_t pages)
{
        struct report *r = calloc(1, sizeof(*r));
        struct error err = {0};

        assert_non_null(r);
        r->count = (struct page_count){.start = start, .end = start + pages * PAGE};
        if (tracker_scan(tracker, pid, on_written, r, &err) < 0)
                fail_msg("scan: %s", err.text);
        return r;
}

/* How many pages of the range were reported; all that were, are sent. */
static uint64_t round_of(pid_t pid, uint64_t start, uint64_t pages)
{
        attach_to(pid);
        struct report *r = scan_of(pid, start, pages);
        tracker_arm(tracker);
        send(r, pid);
        const uint64_t n = r->count.pages;
        free(r);
        return n;
}

static uint64_t a_round(uint64_t start, uint64_t pages)
{
        return round_of(servant.child.pid, start, pages);
}

/* Between two that nobody may touch: what the kernel merges with a new mapping counts as new. */
static uint64_t clean_area(uint64_t pages)
{
        uint64_t area = ask(map, pages + 2) + PAGE;

        assert_int_equal(ask(protect, area - PAGE, 1, PROT_NONE), 0);
        assert_int_equal(ask(protect, area + pages * PAGE, 1, PROT_NONE), 0);
        (void)ask(write_pages, area, pages);
        assert_int_equal(a_round(area, pages), pages);
        assert_int_equal(clean(area, pages), pages);
        assert_int_equal(a_round(area, pages), 0);
        return area;
}

/* -- stories ------------------------------------------------------------------------------------------------------ */

static void test_writes(void **state)
{
        uint64_t area = clean_area(64);

        (void)state;
        (void)ask(write_pages, area + 5 * PAGE, 3);
        assert_int_equal(clean(area, 64), 61);
        assert_int_equal(a_round(area, 64), 3);
        assert_int_equal(clean(area, 64), 64);
        (void)ask(read_pages, area, 64);
        assert_int_equal(a_round(area, 64), 0);
        assert_int_equal(ask(read_into, area + 9 * PAGE), PAGE);
        assert_int_equal(a_round(area + 9 * PAGE, 1), 1);
        (void)ask(write_by_thread, area + 20 * PAGE, 4);
        assert_int_equal(clean(area, 64), 60);
        assert_int_equal(a_round(area, 64), 4);
}

/* Only one of them looks at contents. */
static void test_written_back(void **state)
{
        uint64_t area = clean_area(16);

        (void)state;
        for (int i = 0; i < 256; i++)
                (void)ask(write_pages, area, 16);
        assert_int_equal(clean(area, 16), kind == TRACKER_HASH ? 16 : 0);
}

/* What was not sent is dirty, although it was reported. */
static void test_reported_but_forgotten(void **state)
{
        uint64_t area = clean_area(16);

        (void)state;
        (void)ask(write_pages, area, 8);
        tracker_forget(tracker, servant.child.pid);
        attach_to(servant.child.pid);
        assert_int_equal(clean(area, 16), 0);
        assert_true(tracker_is_new(tracker, servant.child.pid));
        assert_int_equal(a_round(area, 16), 16);
        assert_false(tracker_is_new(tracker, servant.child.pid));
}

/* Aligned and as large as this, the kernel moves whole page tables, and no bit in them tells of it. */
static void test_moved_over_another(void **state)
{
        const uint64_t pages = 2 * HUGE_PAGES;
        uint64_t room = ask(map, 4 * pages), from = (room + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1),
                 to = from + pages * PAGE;

        (void)state;
        assert_int_equal(ask(advise, room, 4 * pages, MADV_NOHUGEPAGE), 0);
        (void)ask(write_pages, from, 2 * pages);
        (void)ask(write_pages, to, pages); /* twice: unlike the other */
        assert_int_equal(a_round(from, 2 * pages), 2 * pages);
        assert_int_equal(clean(to, pages), pages);
        assert_int_equal(ask(move, from, pages, to), to);
        assert_int_equal(clean(to, pages), 0);
        assert_int_equal(a_round(to, pages), pages);
        assert_int_equal(clean(to, pages), pages);
}

static void test_mapped_over(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_int_equal(ask(unmap, area + 8 * PAGE, 8), 0);
        assert_int_equal(ask(map, 8, area + 8 * PAGE), area + 8 * PAGE);
        (void)ask(write_pages, area + 8 * PAGE, 8);
        (void)ask(write_pages, area + 8 * PAGE, 8);
        assert_in_range(clean(area, 32), kind == TRACKER_HASH ? 24 : 0, 24);
        assert_in_range(a_round(area, 32), 8, kind == TRACKER_HASH ? 8 : 32);
        assert_int_equal(clean(area, 32), 32);
}

/* Written, and then not to be read while the others are looked at. */
static void test_out_of_sight(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        (void)ask(write_pages, area, 4);
        assert_int_equal(ask(protect, area, 8, PROT_NONE), 0);
        assert_int_equal(a_round(area, 32), 0);
        assert_int_equal(clean(area, 8), 0);
        assert_int_equal(ask(protect, area, 8, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(clean(area, 4), 0);
        assert_in_range(a_round(area, 32), 4, kind == TRACKER_HASH ? 4 : 8);
        assert_int_equal(clean(area, 32), 32);
}

static void test_given_back(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_int_equal(ask(advise, area, 8, MADV_DONTNEED), 0);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(ask(read_pages, area, 8), 0);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(a_round(area, 32), has_zero_page() ? 0 : 8);
        (void)ask(write_pages, area, 8);
        (void)ask(write_pages, area, 8);
        assert_int_equal(a_round(area, 32), 8);
}

/* Read again, it is the huge page of zeros: present, never written, and not what was sent. */
static void test_huge_pages_given_back(void **state)
{
        uint64_t area = ask(map, 3 * HUGE_PAGES), huge = (area + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);

        (void)state;
        assert_int_equal(ask(advise, huge, HUGE_PAGES, MADV_HUGEPAGE), 0);
        (void)ask(write_pages, huge, HUGE_PAGES);
        assert_int_equal(a_round(huge, HUGE_PAGES), HUGE_PAGES);
        assert_int_equal(clean(huge, HUGE_PAGES), HUGE_PAGES);
        assert_int_equal(ask(advise, huge, HUGE_PAGES, MADV_DONTNEED), 0);
        assert_int_equal(ask(read_pages, huge, HUGE_PAGES), 0);
        assert_int_equal(clean(huge, HUGE_PAGES), 0);
}

/* One write into a huge page makes one small page dirty, not 512. */
static void test_huge_pages(void **state)
{
        uint64_t area = ask(map, 3 * HUGE_PAGES), huge = (area + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);

        (void)state;
        (void)ask(write_pages, huge, HUGE_PAGES);
        if (ask(advise, huge, HUGE_PAGES, ADVICE_COLLAPSE) != 0)
                skip(); /* this kernel has none */
        assert_int_equal(a_round(huge, HUGE_PAGES), HUGE_PAGES);
        for (int i = 0; i < 3; i++) {
                (void)ask(write_pages, huge + 77 * PAGE, 2);
                assert_int_equal(clean(huge, HUGE_PAGES), HUGE_PAGES - 2);
                assert_int_equal(a_round(huge, HUGE_PAGES), 2);
        }
}

static void test_sparse_areas_stay_sparse(void **state)
{
        uint64_t area = ask(map, 16384);

        (void)state;
        assert_int_equal(ask(advise, area, 16384, MADV_NOHUGEPAGE), 0);
        (void)ask(write_pages, area + 100 * PAGE, 1);
        (void)ask(read_pages, area + 200 * PAGE, 5); /* the zero page */
        assert_int_equal(a_round(area, 16384), has_zero_page() ? 1 : 6);
        (void)ask(write_pages, area + 300 * PAGE, 1);
        assert_int_equal(a_round(area, 16384), 1);
        assert_int_equal(count_used(servant.child.pid, area, 16384), 7);
}

static void test_not_ours(void **state)
{
        uint64_t file = ask(map_file, 32), shared = ask(map_shared, 16);

        (void)state;
        (void)ask(write_pages, file, 32);
        (void)ask(write_pages, shared, 16);
        assert_int_equal(a_round(file, 32), 0);
        assert_int_equal(a_round(shared, 16), 0);
        assert_int_equal(clean(file, 32) + clean(shared, 16), 0);
}

static void test_stack(void **state)
{
        (void)state;
        (void)a_round(0, 0);
        uint64_t deepest = ask(grow_stack, 100);
        assert_int_equal(a_round(deepest, 40), 40);
        assert_int_equal(clean(deepest, 40), 40);
}

static void test_forked(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        pid_t forked = (pid_t)ask(fork_child, 0);
        assert_int_equal(tracker_scan(tracker, forked, NULL, NULL, NULL), -EOPNOTSUPP);
        attach_to(forked);
        assert_int_equal(clean_of(forked, area, 32), 0);
        assert_int_equal(round_of(forked, area, 32), 32);
        (void)ask(write_pages, area, 5); /* copies: the parent's are new, the child's stay */
        assert_int_equal(a_round(area, 32), 5);
        assert_int_equal(clean_of(forked, area, 32), 32);
        (void)ask(kill_it, (uint64_t)forked);
        assert_int_equal(tracker_attach(tracker, forked, NULL), -ESRCH);
}

static void test_executed(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        servant_exec(&servant);
        assert_int_equal(clean(0, UINT64_MAX / PAGE), 0);
        assert_true(a_round(0, UINT64_MAX / PAGE) > 10);
        assert_int_equal(clean(area, 32), 0);
}

/* Whoever is looked at first must not take from the other what he is to be told. */
static void test_memory_of_two(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        pid_t second = (pid_t)ask(share_memory, 0);
        assert_int_equal(round_of(second, area, 32), 32);
        (void)ask(write_pages, area, 5);
        attach_to(servant.child.pid);
        attach_to(second);
        struct report *first = scan_of(servant.child.pid, area, 32), *other = scan_of(second, area, 32);
        tracker_arm(tracker);
        assert_int_equal(first->count.pages, 5);
        assert_int_equal(other->count.pages, 5);
        free(first);
        free(other);
        (void)ask(kill_it, (uint64_t)second);
}

static void test_unseen_writers(void **state)
{
        struct error err = {0};

        (void)state;
        (void)clean_area(32);
        assert_int_equal(ask(make_aio, 0), 0);
        assert_int_equal(tracker_clean(tracker, servant.child.pid, NULL, NULL, &err), -EOPNOTSUPP);
        assert_int_equal(tracker_attach(tracker, servant.child.pid, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err.text, "asynchronous I/O"));
}

static void test_a_failed_scan_is_no_scan(void **state)
{
        uint64_t area = clean_area(32);
        struct error err = {0};

        (void)state;
        (void)ask(write_pages, area, 32);
        struct page_count stops = {.start = area, .end = area + PAGE, .fail = -ECANCELED};
        assert_int_equal(tracker_scan(tracker, servant.child.pid, page_count_add, &stops, &err), -ECANCELED);
        tracker_arm(tracker);
        assert_int_equal(tracker_clean(tracker, servant.child.pid, NULL, NULL, &err), -EOPNOTSUPP);
        assert_int_equal(a_round(area, 32), 32);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                STORY(test_writes),
                STORY(test_written_back),
                STORY(test_reported_but_forgotten),
                STORY(test_moved_over_another),
                STORY(test_mapped_over),
                STORY(test_out_of_sight),
                STORY(test_given_back),
                STORY(test_huge_pages),
                STORY(test_huge_pages_given_back),
                STORY(test_sparse_areas_stay_sparse),
                STORY(test_not_ours),
                STORY(test_stack),
                STORY(test_forked),
                STORY(test_executed),
                STORY(test_memory_of_two),
                STORY(test_unseen_writers),
                STORY(test_a_failed_scan_is_no_scan),
        };

        for (kind = TRACKER_SOFT_DIRTY; kind <= TRACKER_HASH; kind++)
                if (argc == 2 && strcmp(argv[1], tracker_kind_name(kind)) == 0)
                        return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
        (void)fprintf(stderr, "usage: test-tracker-others soft-dirty|hash\n");
        return 2;
}
