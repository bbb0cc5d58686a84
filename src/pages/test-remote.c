/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Post-copy: tasks run while some of their pages are on another host, and get the right ones, whoever dies meanwhile.
 * This process is the session, and the source as well.
 */
#include <errno.h>
#include <poll.h>
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

#include "base/clock.h"
#include "criu/page_server.h"
#include "pages/remote.h"
#include "pages/test-parts.h"
#include "base/test-process.h"

#define PAGES 8192U /* 32 MiB */
#define IMAGE PAGE_IMAGE(PAGE_IMAGE_TASK, TASK_PID)
#define LIMIT_MS 60000U

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

/* Before it runs, as CRIU does; then all that is forked shares what is missing. */
static void read_early_and_fork(int out)
{
        int connection = become_lazy(&story);

        say(out, "+");
        if (!check_page(page_at(0), seed_of(0)) || !check_page(page_at(PAGES - 2), seed_of(PAGES - 2)))
                _exit(1);
        finish_restore(connection);
        pid_t child = fork();
        check_pages(&story);
        if (child == 0)
                _exit(0);
        int status = 0;
        if (waitpid(child, &status, 0) != child || status != 0)
                _exit(3);
}

static uint64_t left_pages(void)
{
        uint64_t n = 0;

        for (uint64_t i = 0; i < PAGES; i++)
                n += was_left(i);
        return n;
}

static struct page_remote *open_remote(void)
{
        struct page_remote *remote = NULL;
        struct error err = {0};

        if (page_remote_open(story.ledger, story.images_fd, &remote, &err) != 0)
                fail_msg("%s", err.text);
        return remote;
}

/* The source answers. */
static void answer(struct page_remote *remote, const struct remote_run *run)
{
        static uint8_t pages[64 * PAGE_BYTES];
        const uint64_t first = (run->vaddr - BASE) / PAGE_BYTES;
        struct error err = {0};

        assert_int_equal(run->image, IMAGE);
        assert_in_range(run->n_pages, 1, 64);
        for (uint64_t i = 0; i < run->n_pages; i++) {
                assert_true(was_left(first + i));
                write_page(pages + i * PAGE_BYTES, seed_of(first + i));
        }
        if (page_remote_take(remote, run, pages, &err) < 0)
                fail_msg("%s", err.text);
        page_remote_ring(remote);
}

/* False when nothing was wanted for a moment. */
static bool serve_one(struct page_remote *remote, uint64_t max)
{
        struct pollfd bell = {.fd = page_remote_bell(remote), .events = POLLIN};
        struct remote_run run;

        if (!page_remote_wanted(remote, max, &run)) {
                (void)poll(&bell, 1, 20);
                return false;
        }
        answer(remote, &run);
        return true;
}

static bool has_ended(const struct child *child)
{
        siginfo_t info = {0};

        return waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child->pid;
}

static void serve_until_end(struct page_remote *remote, struct child *child, uint64_t max)
{
        const uint64_t deadline = clock_ms() + LIMIT_MS;

        while (!has_ended(child) && clock_ms() < deadline)
                (void)serve_one(remote, max);
        assert_int_equal(end(child), 0);
}

static void test_a_task_waits_for_its_pages(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        assert_int_equal(page_remote_total_bytes(remote), left_pages() * PAGE_BYTES);
        assert_int_equal(page_remote_missing_bytes(remote), page_remote_total_bytes(remote));
        start(&child, read_all);
        serve_until_end(remote, &child, 1);
        assert_int_equal(page_remote_missing_bytes(remote), 0);
        assert_int_equal(page_remote_faults(remote), left_pages());
        assert_true(wait_for_end(&story));
        assert_true(look(&story).through);
        page_remote_free(remote);
        lazy_story_end(&story);
}

/* What lies behind a page is asked for with it, as far as it is missing. */
static void test_with_what_lies_behind(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        start(&child, read_early_and_fork);
        serve_until_end(remote, &child, 32);
        assert_in_range(page_remote_faults(remote), 10, left_pages() / 2);
        page_remote_free(remote);
        lazy_story_end(&story);
}

static void test_what_nobody_touches_is_fetched_by_itself(void **state)
{
        struct remote_run run;
        struct child child;
        uint64_t n = 0;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        start(&child, wait_and_read);
        while (page_remote_next(remote, 64, &run)) {
                answer(remote, &run);
                n += run.n_pages;
        }
        assert_int_equal(n, left_pages());
        assert_int_equal(end(&child), 0);
        assert_int_equal(page_remote_faults(remote), 0);
        page_remote_free(remote);
        lazy_story_end(&story);
}

/* Pieces that wait for a page are not given in part, or all of them would be in the store and with the task. */
static void test_memory_is_not_there_twice(void **state)
{
        const uint64_t size = 6 * (uint64_t)PAGES * PAGE_BYTES;
        struct remote_run run;
        struct child child;
        uint64_t most = 0;

        (void)state;
        lazy_story_begin_left(&story, 6 * PAGES);
        struct page_remote *remote = open_remote();
        start(&child, wait_and_read);
        const uint64_t own = bytes_resident(child.pid);
        while (page_remote_next(remote, 64, &run)) {
                answer(remote, &run);
                (void)usleep(1000); /* so that there is time to give it */
                const uint64_t all = bytes_stored(&story) + bytes_resident(child.pid) - own;
                most = all > most ? all : most;
        }
        assert_int_equal(end(&child), 0);
        print_message("at most %llu %% of it\n", (unsigned long long)(most * 100 / size));
        assert_true(most >= size / 2 && most <= size + size * 15 / 100);
        page_remote_free(remote);
        lazy_story_end(&story);
}

/* What was on its way is asked for again: by the same session after a loss of its link, and by the next one. */
static void test_what_was_asked_and_never_came(void **state)
{
        struct remote_run run, again;
        struct child child;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        start(&child, read_all);
        const uint64_t deadline = clock_ms() + LIMIT_MS;
        while (!page_remote_wanted(remote, 1, &run) && clock_ms() < deadline)
                (void)usleep(1000);
        assert_false(page_remote_wanted(remote, 1, &again));
        page_remote_again(remote);
        assert_true(page_remote_wanted(remote, 1, &again));
        assert_int_equal(again.vaddr, run.vaddr);
        page_remote_free(remote);
        remote = open_remote();
        assert_true(page_remote_wanted(remote, 1, &again));
        assert_int_equal(again.vaddr, run.vaddr);
        answer(remote, &again);
        answer(remote, &again); /* twice is once */
        serve_until_end(remote, &child, 1);
        page_remote_free(remote);
        lazy_story_end(&story);
}

/* The service dies with tasks that wait: the next one has them ask again. */
static void test_a_service_that_is_killed(void **state)
{
        struct child child;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        start(&child, read_all);
        for (unsigned i = 0; i < 6; i++) {
                for (unsigned served = 0; served < 20;)
                        served += serve_one(remote, 1);
                const int32_t worker = story.view->head->worker;
                assert_true(worker > 1);
                (void)kill(worker, SIGKILL);
                for (unsigned tries = 0; tries < 5000 && story.view->head->worker == worker; tries++)
                        (void)usleep(1000);
        }
        serve_until_end(remote, &child, 1);
        page_remote_free(remote);
        lazy_story_end(&story);
}

static void test_what_nobody_left(void **state)
{
        static const uint8_t page[2 * PAGE_BYTES];
        struct error err = {0};
        uint64_t n = 0;

        (void)state;
        lazy_story_begin_left(&story, PAGES);
        struct page_remote *remote = open_remote();
        while (!was_left(n) || was_left(n + 1))
                n++;
        const struct remote_run bad[] = {{IMAGE, BASE + (n + 1) * PAGE_BYTES, 1},
                                         {IMAGE, BASE + n * PAGE_BYTES, 2},
                                         {IMAGE + 256, BASE + n * PAGE_BYTES, 1},
                                         {IMAGE, BASE + n * PAGE_BYTES + 1, 1},
                                         {IMAGE, 0, 1}};
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                assert_int_equal(page_remote_take(remote, &bad[i], page, &err), -EBADMSG);
        page_remote_free(remote);
        lazy_story_end(&story);

        /* And where all is here there is nothing to bring. */
        lazy_story_begin(&story, 64, false);
        assert_int_equal(page_remote_open(story.ledger, story.images_fd, &remote, &err), 1);
        lazy_story_end(&story);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_task_waits_for_its_pages),
                cmocka_unit_test(test_with_what_lies_behind),
                cmocka_unit_test(test_what_nobody_touches_is_fetched_by_itself),
                cmocka_unit_test(test_memory_is_not_there_twice),
                cmocka_unit_test(test_what_was_asked_and_never_came),
                cmocka_unit_test(test_a_service_that_is_killed),
                cmocka_unit_test(test_what_nobody_left),
        };

        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
