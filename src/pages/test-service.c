/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Tasks that run before their memory is there get the right bytes, and nothing is left of who brought them. With a
 * process that plays CRIU's part, and the real program.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "pages/test-parts.h"
#include "base/test-process.h"

#define PAGES 8192U /* 32 MiB */

static struct lazy_story story;

static void read_all(int out)
{
        be_lazy(&story, false, out);
}

/* Touches nothing itself before all is there. */
static void wait_and_read(int out)
{
        be_lazy(&story, true, out);
}

static void hold_still(int out)
{
        int connection = become_lazy(&story);

        /* Before the others run, as CRIU does when it sets a task's registration up. */
        if (!check_page(page_at(5), seed_of(5)) || !check_page(page_at(63), 0))
                _exit(1);
        say(out, "+");
        (void)pause();
        (void)close(connection);
}

static void test_each_page_is_there_when_it_is_touched(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        start(&child, read_all);
        assert_int_equal(end(&child), 0);
        assert_true(wait_for_end(&story));
        assert_true(look(&story).through);
        assert_int_equal(look(&story).trouble, 0);
        assert_int_equal(access(story.directory, F_OK), 0);
        lazy_story_end(&story);
}

static void test_what_nobody_touches_comes_by_itself_and_is_given_back(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        assert_true(bytes_stored(&story) >= (uint64_t)PAGES * PAGE_BYTES * 9 / 10);
        start(&child, wait_and_read);
        assert_true(wait_for_end(&story));
        assert_int_equal(look(&story).given_bytes, look(&story).total_bytes);
        /* Two threads that give the same page at once: the later reads where nothing is any more. */
        assert_true(bytes_stored(&story) < 64U << 10);
        assert_int_equal(end(&child), 0);
        lazy_story_end(&story);
}

#define MANY 49152U /* 192 MiB */

/* Here and there, as a program does that uses all of its memory. */
static void touch_at_random(int out)
{
        int connection = become_lazy(&story);
        uint64_t n = 1;

        say(out, "+");
        finish_restore(connection);
        for (unsigned i = 0; i < MANY; i++) {
                n = (n * 5 + 12345) % MANY;
                if (*(volatile uint64_t *)page_at(n) != (was_sent(n) ? (n + 1) * UINT64_C(0x9e3779b97f4a7c15) : 0))
                        _exit(1);
        }
        (void)pause();
}

static void test_memory_is_not_there_twice(void **state)
{
        const uint64_t size = (uint64_t)MANY * PAGE_BYTES;
        struct child child;
        uint64_t most = 0;

        (void)state;
        lazy_story_begin(&story, MANY, false);
        start(&child, touch_at_random);
        const uint64_t own = bytes_resident(child.pid);
        while (look(&story).running) {
                /* In this order what moves in between counts twice rather than not at all. */
                const uint64_t stored = bytes_stored(&story), all = stored + bytes_resident(child.pid) - own;
                most = all > most ? all : most;
        }
        kill_child(&child);
        print_message("at most %llu %% of it\n", (unsigned long long)(most * 100 / size));
        assert_true(most >= size / 2 && most <= size + size * 15 / 100);
        lazy_story_end(&story);
}

static void test_images_that_are_wanted_stay_whole(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, true);
        start(&child, wait_and_read);
        assert_int_equal(end(&child), 0);
        assert_true(bytes_stored(&story) >= (uint64_t)PAGES * PAGE_BYTES * 9 / 10);
        lazy_story_end(&story);
}

static void test_tasks_that_die_end_it(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        start(&child, hold_still);
        assert_true(look(&story).running && !look(&story).filling);
        assert_true(bytes_stored(&story) > 0);
        kill_child(&child);
        assert_true(wait_for_end(&story));
        assert_true(look(&story).through);
        lazy_story_end(&story);
}

static void test_it_ends_when_it_is_told_to(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        start(&child, hold_still);
        lazy_story_end(&story);
        kill_child(&child);
        /* Also when nobody ever came. */
        lazy_story_begin(&story, 64, false);
        lazy_story_end(&story);
}

/* Whoever of the two is killed, before and after CRIU came: the other sees to it. */
static void kill_in_turn(unsigned times)
{
        for (unsigned i = 0; i < times; i++) {
                const int32_t worker = story.view->head->worker, keeper = story.view->head->keeper;
                assert_true(worker > 1 && keeper > 1);
                (void)kill(i % 2 ? keeper : worker, SIGKILL);
                for (unsigned tries = 0; tries < 5000; tries++) {
                        if (story.view->head->worker != worker && story.view->head->keeper > 1)
                                break;
                        (void)usleep(1000);
                }
                assert_true(look(&story).running);
                assert_int_not_equal(story.view->head->worker, worker);
                (void)usleep(20000);
        }
}

static void wait_for_worker(void)
{
        for (unsigned tries = 0; tries < 5000 && story.view->head->worker <= 1; tries++)
                (void)usleep(1000);
        (void)usleep(50000);
}

static void test_who_is_killed_is_replaced(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        wait_for_worker();
        kill_in_turn(4);
        start(&child, hold_still);
        kill_in_turn(4);
        kill_child(&child);
        assert_true(wait_for_end(&story));
        assert_true(look(&story).workers > 8);
        lazy_story_end(&story);
}

/* In one moment, as somebody does who ends all processes of a name. */
static void kill_both(void)
{
        const struct ledger_head *h = story.view->head;

        for (unsigned tries = 0; tries < 5000 && (role_is_free(&h->standing_by) || role_is_free(&h->working)); tries++)
                (void)usleep(1000);
        const int32_t both[] = {h->keeper, h->worker};
        assert_true(both[0] > 1 && both[1] > 1);
        for (size_t i = 0; i < 2; i++)
                (void)kill(both[i], SIGSTOP);
        for (size_t i = 0; i < 2; i++)
                (void)kill(both[i], SIGKILL);
        for (unsigned tries = 0; tries < 5000 && (h->worker == both[1] || h->keeper == both[0]); tries++)
                (void)usleep(1000);
        assert_true(look(&story).running);
        assert_true(h->worker != both[1] && h->keeper != both[0]);
}

static void test_both_are_killed_at_once(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin(&story, PAGES, false);
        wait_for_worker();
        kill_both();
        start(&child, hold_still);
        for (unsigned i = 0; i < 5; i++)
                kill_both();
        kill_in_turn(4);
        kill_both();
        kill_child(&child);
        assert_true(wait_for_end(&story));
        lazy_story_end(&story);
        lazy_story_begin(&story, MANY, false);
        start(&child, touch_at_random);
        kill_both();
        assert_true(wait_for_end(&story));
        assert_true(look(&story).through);
        kill_child(&child);
        lazy_story_end(&story);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_each_page_is_there_when_it_is_touched),
                cmocka_unit_test(test_what_nobody_touches_comes_by_itself_and_is_given_back),
                cmocka_unit_test(test_memory_is_not_there_twice),
                cmocka_unit_test(test_images_that_are_wanted_stay_whole),
                cmocka_unit_test(test_tasks_that_die_end_it),
                cmocka_unit_test(test_it_ends_when_it_is_told_to),
                cmocka_unit_test(test_who_is_killed_is_replaced),
                cmocka_unit_test(test_both_are_killed_at_once),
        };

        /* A keeper that was a worker has lost its parent: it becomes ours. */
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
