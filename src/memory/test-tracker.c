/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a tracker says of a process that does all that programs do with memory. The process is a copy of this one: it
 * does what it is told, and stands still in between.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/test-process.h"
#include "memory/test-tracker-story.h"

#define MIB (UINT64_C(1) << 20)
#define HUGE (2 * MIB)
#define ADVICE_GUARD 102 /* MADV_GUARD_INSTALL, Linux 6.13 */

/* -- what the tracker says ------------------------------------------------------------------------------------------
 */

static void attach(void)
{
        attach_to(servant.child.pid);
}

static void refuse(pid_t pid, const char *reason)
{
        struct error err = {0};

        assert_int_equal(tracker_attach(tracker, pid, &err), -EOPNOTSUPP);
        if (!strstr(err.text, reason))
                fail_msg("%s", err.text);
        assert_int_equal(tracker_scan(tracker, pid, NULL, NULL, &err), -EOPNOTSUPP);
        assert_int_equal(tracker_clean(tracker, pid, NULL, NULL, &err), -EOPNOTSUPP);
}

/* Pages of a range that were written, by a scan of everything. */
static uint64_t dirty_of(pid_t pid, uint64_t start, uint64_t pages)
{
        struct page_count count = {.start = start, .end = start + pages * PAGE};
        struct error err = {0};

        if (tracker_scan(tracker, pid, page_count_add, &count, &err) < 0)
                fail_msg("scan: %s", err.text);
        tracker_arm(tracker);
        return count.pages;
}

static uint64_t dirty(uint64_t start, uint64_t pages)
{
        return dirty_of(servant.child.pid, start, pages);
}

/* Mapped, written, tracked, reported: all of it is clean. */
static uint64_t clean_area(uint64_t pages)
{
        uint64_t area = ask(map, pages);

        (void)ask(write_pages, area, pages);
        attach();
        assert_int_equal(clean(area, pages), 0);
        assert_int_equal(dirty(area, pages), pages);
        assert_int_equal(dirty(area, pages), 0);
        assert_int_equal(clean(area, pages), pages);
        return area;
}

/* -- stories ------------------------------------------------------------------------------------------------------ */

static void test_names(void **state)
{
        struct tracker *none;
        struct error err = {0};

        (void)state;
        assert_string_equal(tracker_kind_name(TRACKER_NONE), "none");
        assert_string_equal(tracker_kind_name(TRACKER_UFFD_WP), "uffd-wp");
        assert_string_equal(tracker_kind_name(TRACKER_SOFT_DIRTY), "soft-dirty");
        assert_string_equal(tracker_kind_name(TRACKER_HASH), "hash");
        assert_int_equal(tracker_new(TRACKER_NONE, &none, &err), 0);
        assert_int_equal(tracker_attach(none, servant.child.pid, &err), -EOPNOTSUPP);
        assert_int_equal(tracker_scan(none, servant.child.pid, NULL, NULL, &err), -EOPNOTSUPP);
        tracker_free(none);
        tracker_free(NULL);
}

static void test_writes(void **state)
{
        uint64_t area = clean_area(64);

        (void)state;
        (void)ask(write_pages, area + 5 * PAGE, 3);
        assert_int_equal(clean(area, 64), 61);
        assert_int_equal(dirty(area, 64), 3);
        assert_int_equal(clean(area, 64), 64);
        (void)ask(read_pages, area, 64);
        assert_int_equal(dirty(area, 64), 0);
        assert_int_equal(ask(read_into, area + 9 * PAGE), PAGE);
        assert_int_equal(dirty(area + 9 * PAGE, 1), 1);
        (void)ask(write_by_thread, area + 20 * PAGE, 4);
        assert_int_equal(dirty(area, 64), 4);
        /* From outside, as a debugger does. */
        char c = 'x';
        struct iovec here = {&c, 1}, there = {at(area), 1};
        assert_int_equal(process_vm_writev(servant.child.pid, &here, 1, &there, 1, 0), 1);
        assert_int_equal(clean(area, 64), 63);
        assert_int_equal(dirty(area, 64), 1);
}

static void test_new_areas(void **state)
{
        (void)state;
        (void)clean_area(4);
        uint64_t area = ask(map, 16);
        (void)ask(write_pages, area, 16);
        assert_int_equal(dirty(area, 16), 0); /* not tracked, so not reported, and dirty by definition */
        assert_int_equal(clean(area, 16), 0);
        attach();
        assert_int_equal(dirty(area, 16), 16);
        assert_int_equal(clean(area, 16), 16);
}

static void test_sparse_areas_stay_sparse(void **state)
{
        uint64_t area = ask(map, 16384);

        (void)state;
        (void)ask(write_pages, area + 100 * PAGE, 1);
        (void)ask(read_pages, area + 200 * PAGE, 5); /* the zero page */
        attach();
        assert_int_equal(dirty(area, 16384), has_zero_page() ? 1 : 6);
        (void)ask(write_pages, area + 201 * PAGE, 1);
        (void)ask(write_pages, area + 300 * PAGE, 1);
        assert_int_equal(clean(area, 200), 1);
        assert_int_equal(dirty(area, 16384), 2);
        assert_int_equal(count_used(servant.child.pid, area, 16384), 7); /* no markers either */
}

static void test_moved(void **state)
{
        uint64_t area = clean_area(32), to = ask(map, 32);

        (void)state;
        assert_int_equal(ask(move, area, 32, to), to);
        assert_int_equal(clean(to, 32), 0);
        assert_int_equal(dirty(to, 32), 0);
        attach();
        assert_int_equal(clean(to, 32), 0);
        assert_int_equal(dirty(to, 32), 32);
        (void)ask(write_pages, to + 7 * PAGE, 1);
        assert_int_equal(dirty(to, 32), 1);
        /* There and back between two rounds. */
        area = ask(map, 32);
        assert_int_equal(ask(move, to, 32, area), area);
        (void)ask(write_pages, area, 2);
        assert_int_equal(ask(move, area, 32, to), to);
        assert_int_equal(clean(to, 32), 0);
        attach();
        assert_int_equal(clean(to, 32), 0);
        assert_int_equal(dirty(to, 32), 32);
}

static void test_mapped_over(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_int_equal(ask(unmap, area + 8 * PAGE, 8), 0);
        assert_int_equal(ask(map, 8, area + 8 * PAGE), area + 8 * PAGE);
        (void)ask(write_pages, area + 8 * PAGE, 8);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(dirty(area, 32), 0);
        attach();
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(dirty(area, 32), 8);
        assert_int_equal(clean(area, 32), 32);
}

static void test_given_back(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_int_equal(ask(advise, area, 8, MADV_DONTNEED), 0);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(dirty(area, 32), 0);
        (void)ask(write_pages, area + 2 * PAGE, 1);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(dirty(area, 32), 1);
        /* Read again it is the zero page, which nobody has to carry. */
        assert_int_equal(ask(advise, area, 8, MADV_DONTNEED), 0);
        assert_int_equal(ask(read_pages, area, 8), 0);
        assert_int_equal(clean(area, 32), 24);
        assert_int_equal(dirty(area, 32), has_zero_page() ? 0 : 8);
        assert_int_equal(ask(advise, area + 8 * PAGE, 8, MADV_FREE), 0);
        (void)ask(write_pages, area + 8 * PAGE, 8);
        assert_int_equal(dirty(area, 32), 8);
}

static void test_protection(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_int_equal(ask(protect, area + 4 * PAGE, 4, PROT_READ), 0);
        assert_int_equal(clean(area, 32), 32);
        assert_int_equal(ask(protect, area + 4 * PAGE, 4, PROT_NONE), 0);
        assert_int_equal(clean(area, 32), 28);
        assert_int_equal(ask(protect, area + 4 * PAGE, 4, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(clean(area, 32), 32);
        (void)ask(write_pages, area + 4 * PAGE, 2);
        assert_int_equal(clean(area, 32), 30);
        assert_int_equal(dirty(area, 32), 2);
}

static void test_guards(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        if (ask(advise, area + 4 * PAGE, 4, ADVICE_GUARD) != 0)
                return; /* before Linux 6.13 */
        assert_int_equal(clean(area, 32), 28);
        (void)dirty(area, 32); /* before 6.15 they look like pages */
        assert_int_equal(clean(area, 4) + clean(area + 8 * PAGE, 24), 28);
        (void)ask(write_pages, area, 2);
        assert_int_equal(dirty(area, 4), 2);
}

/* One write into a huge page makes one small page dirty, not 512. */
static void test_huge_pages(void **state)
{
        uint64_t area = ask(map, 3 * HUGE / PAGE), huge = (area + HUGE - 1) & ~(HUGE - 1);

        (void)state;
        assert_int_equal(ask(advise, huge, HUGE / PAGE, MADV_HUGEPAGE), 0);
        (void)ask(write_pages, huge, 1);
        uint64_t present = count_used(servant.child.pid, huge, HUGE / PAGE);
        if (present != HUGE / PAGE)
                skip(); /* this kernel gives none */
        attach();
        assert_int_equal(dirty(huge, HUGE / PAGE), HUGE / PAGE);
        assert_int_equal(clean(huge, HUGE / PAGE), HUGE / PAGE);
        for (int i = 0; i < 3; i++) {
                (void)ask(write_pages, huge + 77 * PAGE, 2);
                assert_int_equal(clean(huge, HUGE / PAGE), HUGE / PAGE - 2);
                assert_int_equal(dirty(huge, HUGE / PAGE), 2);
        }
}

/* What is given back is the file's again, and may not look like it: pages of such memory are never clean. */
static void test_files_are_not_ours(void **state)
{
        uint64_t area = ask(map_file, 32);

        (void)state;
        (void)ask(write_pages, area, 8);
        (void)ask(read_pages, area + 8 * PAGE, 8);
        attach();
        assert_int_equal(dirty(area, 32), 0);
        assert_int_equal(clean(area, 32), 0);
        assert_int_equal(ask(advise, area, 4, MADV_DONTNEED), 0);
        (void)ask(write_pages, area + PAGE, 1);
        assert_int_equal(dirty(area, 32), 0);
        assert_int_equal(clean(area, 32), 0);
}

static void test_shared_memory_is_not_ours(void **state)
{
        uint64_t area = ask(map_shared, 16);

        (void)state;
        (void)ask(write_pages, area, 16);
        attach();
        assert_int_equal(dirty(area, 16), 0);
        assert_int_equal(clean(area, 16), 0);
}

static void test_stack(void **state)
{
        (void)state;
        attach();
        (void)dirty(0, 0);
        uint64_t deepest = ask(grow_stack, 100);
        assert_int_equal(dirty(deepest, 40), 40);
        assert_int_equal(clean(deepest, 40), 40);
        (void)ask(grow_stack, 10);
        assert_int_equal(clean(deepest, 30), 30);
        deepest = ask(grow_stack, 600); /* the mapping itself grows */
        assert_int_equal(dirty(deepest, 290), 290);
}

static void test_forked(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        pid_t forked = (pid_t)ask(fork_child, 0);
        struct error err = {0};
        assert_int_equal(tracker_scan(tracker, forked, NULL, NULL, &err), -EOPNOTSUPP);
        assert_int_equal(clean(area, 32), 32);
        attach_to(forked);
        assert_int_equal(clean_of(forked, area, 32), 0);
        assert_int_equal(dirty_of(forked, area, 32), 32);
        (void)ask(write_pages, area, 5); /* copies: the parent's are new, the child's stay */
        assert_int_equal(dirty(area, 32), 5);
        assert_int_equal(clean_of(forked, area, 32), 32);
        (void)ask(kill_it, (uint64_t)forked);
        assert_int_equal(tracker_scan(tracker, forked, NULL, NULL, &err), -ESRCH);
        assert_int_equal(tracker_attach(tracker, forked, &err), -ESRCH);
}

static void test_executed(void **state)
{
        uint64_t area = clean_area(32);
        struct error err = {0};

        (void)state;
        servant_exec(&servant);
        struct page_count all = {.end = UINT64_MAX};
        assert_int_equal(tracker_clean(tracker, servant.child.pid, page_count_add, &all, &err), 0);
        assert_int_equal(all.pages, 0);
        assert_int_equal(tracker_scan(tracker, servant.child.pid, page_count_add, &all, &err), 0);
        tracker_arm(tracker);
        assert_int_equal(all.pages, 0);
        attach();
        assert_int_equal(tracker_scan(tracker, servant.child.pid, page_count_add, &all, &err), 0);
        assert_true(all.pages > 10);
        assert_int_equal(clean(area, 32), 0);
}

/* Whose memory is somebody's already. */
static void test_memory_of_two(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        pid_t second = (pid_t)ask(share_memory, 0);
        assert_true(second > 0);
        refuse(second, "is another's too");
        assert_int_equal(clean(area, 32), 32);
        (void)ask(kill_it, (uint64_t)second);
        assert_int_equal(clean(area, 32), 32);
}

static void test_unseen_writers(void **state)
{
        (void)state;
        uint64_t area = clean_area(32);
        assert_int_equal(ask(make_aio, 0), 0);
        /* Made since it was attached. */
        struct error err = {0};
        assert_int_equal(tracker_clean(tracker, servant.child.pid, NULL, NULL, &err), -EOPNOTSUPP);
        refuse(servant.child.pid, "asynchronous I/O");
        assert_int_equal(count_flagged(servant.child.pid), 0);
        (void)area;
}

static void test_somebody_elses_userfaultfd(void **state)
{
        (void)state;
        assert_true((int64_t)ask(make_userfaultfd, 0) >= 0);
        refuse(servant.child.pid, "uses a userfaultfd itself");
        assert_int_equal(count_flagged(servant.child.pid), 0);
}

static void test_nobody_behind_a_filter(void **state)
{
        (void)state;
        assert_int_equal(ask(become_nobody, 0), 0);
        uint64_t area = clean_area(32);
        (void)ask(write_pages, area, 3);
        assert_int_equal(ask(read_into, area + 3 * PAGE), PAGE);
        assert_int_equal(dirty(area, 32), 4);
}

static void test_a_failed_scan_is_no_scan(void **state)
{
        uint64_t area = clean_area(32);
        struct error err = {0};

        (void)state;
        (void)ask(write_pages, area, 32);
        struct page_count stops = {.start = area, .end = area + PAGE, .fail = -ECANCELED};
        assert_int_equal(tracker_scan(tracker, servant.child.pid, page_count_add, &stops, &err), -ECANCELED);
        assert_int_equal(tracker_clean(tracker, servant.child.pid, NULL, NULL, &err), -EOPNOTSUPP);
        attach();
        assert_int_equal(clean(area, 32), 0);
        assert_int_equal(dirty(area, 32), 32);
}

static void test_forgotten(void **state)
{
        uint64_t area = clean_area(32);

        (void)state;
        assert_false(tracker_is_new(tracker, servant.child.pid));
        tracker_forget(tracker, servant.child.pid);
        assert_int_equal(tracker_clean(tracker, servant.child.pid, NULL, NULL, NULL), -EOPNOTSUPP);
        attach();
        assert_int_equal(clean(area, 32), 0);
        assert_true(tracker_is_new(tracker, servant.child.pid));
        assert_int_equal(dirty(area, 32), 32);
        assert_false(tracker_is_new(tracker, servant.child.pid));
}

/* Nothing is left: with us, and when we are killed. */
static void test_no_trace(void **state)
{
        uint64_t area = clean_area(32);
        size_t before = count_descriptors(servant.child.pid);

        (void)state;
        assert_true(count_flagged(servant.child.pid) > 0);
        tracker_free(tracker);
        tracker = NULL;
        assert_int_equal(count_flagged(servant.child.pid), 0);
        assert_int_equal(count_descriptors(servant.child.pid), before);

        pid_t other = fork();
        if (other == 0) {
                if (tracker_new(TRACKER_UFFD_WP, &tracker, NULL) < 0 ||
                    tracker_attach(tracker, servant.child.pid, NULL) < 0 ||
                    tracker_scan(tracker, servant.child.pid, page_count_add, &(struct page_count){0}, NULL) < 0)
                        _exit(1);
                (void)raise(SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(other, &status, 0), other);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(count_flagged(servant.child.pid), 0);
        assert_int_equal(count_descriptors(servant.child.pid), before);
        assert_int_equal(tracker_new(TRACKER_UFFD_WP, &tracker, NULL), 0);
        attach();
        assert_int_equal(dirty(area, 32), 32);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                STORY(test_names),
                STORY(test_writes),
                STORY(test_new_areas),
                STORY(test_sparse_areas_stay_sparse),
                STORY(test_moved),
                STORY(test_mapped_over),
                STORY(test_given_back),
                STORY(test_protection),
                STORY(test_guards),
                STORY(test_huge_pages),
                STORY(test_files_are_not_ours),
                STORY(test_shared_memory_is_not_ours),
                STORY(test_stack),
                STORY(test_forked),
                STORY(test_executed),
                STORY(test_memory_of_two),
                STORY(test_unseen_writers),
                STORY(test_somebody_elses_userfaultfd),
                STORY(test_nobody_behind_a_filter),
                STORY(test_a_failed_scan_is_no_scan),
                STORY(test_forgotten),
                STORY(test_no_trace),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
