/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A process does everything to its memory that can be done to it while that is being filled: reads, writes, gives back,
 * moves, unmaps, forks; and knows of every page what must be in it. The page service is killed at random meanwhile.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "pages/test-parts.h"
#include "base/test-process.h"

#define PAGES 24576U /* 96 MiB */
#define CHUNK 32U    /* pages that are moved as one */
#define ELSEWHERE UINT64_C(0x300000000000)
#define STEPS 3000U
#define CHILDREN 3U
#define KILLS 50U

static struct lazy_story story;
static unsigned seed;

/* What the process knows: where each page is (0: nowhere), and what is in it. */
static uint64_t where[PAGES], what[PAGES];
static uint64_t next_place = ELSEWHERE, next_seed = UINT64_C(1) << 32;
static unsigned children;

static uint64_t any(uint64_t below)
{
        return (uint64_t)random() % below;
}

static void *at(uint64_t n)
{
        return at_address(where[n]);
}

static void check(uint64_t n)
{
        if (!where[n] || check_page(at(n), what[n]))
                return;
        (void)fprintf(stderr, "page %llu at %llx: wanted %llx, first number %llx, seed %u\n", (unsigned long long)n,
                      (unsigned long long)where[n], (unsigned long long)what[n], *(unsigned long long *)at(n), seed);
        _exit(1);
}

static void check_some(unsigned count)
{
        for (unsigned i = 0; i < count; i++)
                check(any(PAGES));
}

/* By the kernel, as a system call does that reads memory. */
static void check_through_pipe(uint64_t n)
{
        uint64_t page[PAGE_BYTES / sizeof(uint64_t)];
        int ends[2];

        if (!where[n] || pipe(ends) < 0)
                return;
        if (write(ends[1], at(n), PAGE_BYTES) != PAGE_BYTES || read(ends[0], page, sizeof(page)) != PAGE_BYTES ||
            !check_page(page, what[n]))
                _exit(2);
        (void)close(ends[0]);
        (void)close(ends[1]);
}

static void change(uint64_t n)
{
        if (!where[n])
                return;
        what[n] = next_seed++;
        write_page(at(n), what[n]);
}

/* Neighbours in address. */
static unsigned span_of(uint64_t n, unsigned max)
{
        unsigned count = 0;

        while (count < max && n + count < PAGES && where[n + count] &&
               where[n + count] == where[n] + (uint64_t)count * PAGE_BYTES)
                count++;
        return count;
}

static void give_up(uint64_t n, bool unmap)
{
        const unsigned count = span_of(n, 1 + (unsigned)any(CHUNK));

        if (!count)
                return;
        if (unmap ? munmap(at(n), (size_t)count * PAGE_BYTES) < 0
                  : madvise(at(n), (size_t)count * PAGE_BYTES, MADV_DONTNEED) < 0)
                _exit(3);
        for (unsigned i = 0; i < count; i++) {
                what[n + i] = 0;
                if (unmap)
                        where[n + i] = 0;
        }
}

/* Somewhere new, or over a place where it or another was before. */
static void move(uint64_t n)
{
        const unsigned count = span_of(n, 1 + (unsigned)any(CHUNK));
        const size_t size = (size_t)count * PAGE_BYTES;

        if (!count)
                return;
        void *to = at_address(next_place);
        if (mremap(at(n), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
                _exit(4);
        for (unsigned i = 0; i < count; i++)
                where[n + i] = next_place + (uint64_t)i * PAGE_BYTES;
        next_place += size + any(2) * PAGE_BYTES;
}

static void reap(bool all)
{
        int status;

        while (children && waitpid(-1, &status, all ? 0 : WNOHANG) > 0) {
                children--;
                if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                        _exit(5);
        }
}

/* The child has what we had, and goes its own way. */
static void split(void)
{
        if (children == CHILDREN)
                return;
        pid_t pid = fork();
        if (pid < 0)
                _exit(6);
        if (pid > 0) {
                children++;
                return;
        }
        children = 0;
        srandom(seed + (unsigned)getpid());
        for (unsigned i = 0; i < 40; i++) {
                check_some(5);
                change(any(PAGES));
                give_up(any(PAGES), false);
                if (any(8) == 0)
                        move(any(PAGES));
        }
        check_some(200);
        _exit(0);
}

static void step(void)
{
        switch (any(16)) {
        case 0:
                give_up(any(PAGES), true);
                break;
        case 1:
        case 2:
                give_up(any(PAGES), false);
                break;
        case 3:
        case 4:
        case 5:
                move(any(PAGES));
                break;
        case 6:
                split();
                break;
        case 7:
                check_through_pipe(any(PAGES));
                break;
        case 8:
        case 9:
                change(any(PAGES));
                break;
        default:
                check(any(PAGES));
        }
}

static void live(int out)
{
        srandom(seed);
        for (uint64_t n = 0; n < PAGES; n++) {
                where[n] = BASE + n * PAGE_BYTES;
                what[n] = seed_of(n);
        }
        int connection = become_lazy(&story);
        check_some(20);
        say(out, "+");
        finish_restore(connection);
        for (unsigned i = 0; i < STEPS; i++) {
                step();
                reap(false);
        }
        reap(true);
        for (uint64_t n = 0; n < PAGES; n++)
                check(n);
}

/* Kills one or the other every few milliseconds, until the process is done. */
static void tell_the_story(unsigned every_us)
{
        unsigned turn = 0;
        struct child child;

        seed = (unsigned)time(NULL) ^ (unsigned)getpid() ^ every_us;
        lazy_story_begin(&story, PAGES, false);
        start(&child, live);
        while (every_us && turn < KILLS && look(&story).running) {
                (void)usleep(every_us / 2 + (unsigned)random() % every_us);
                const int32_t victim = turn++ % 3 == 2 ? story.view->head->keeper : story.view->head->worker;
                if (look(&story).running && victim > 1)
                        (void)kill(victim, SIGKILL);
                /* Both at once is not what this is about: the other has taken note of it by then. */
                for (unsigned i = 0; i < 2000 && look(&story).running; i++) {
                        if (kill(story.view->head->worker, 0) == 0 && kill(story.view->head->keeper, 0) == 0 &&
                            story.view->head->keeper != victim && story.view->head->worker != victim &&
                            story.view->head->worker != story.view->head->keeper)
                                break;
                        (void)usleep(500);
                }
        }
        assert_true(wait_for_end(&story));
        assert_true(look(&story).through);
        assert_int_equal(look(&story).trouble, 0);
        print_message("%u workers, seed %u\n", look(&story).workers, seed);
        assert_int_equal(end(&child), 0);
        lazy_story_end(&story);
}

static void test_whatever_it_does(void **state)
{
        (void)state;
        tell_the_story(0);
}

static void test_and_whoever_is_killed(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 4; i++)
                tell_the_story(3000 + 4000 * i);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_whatever_it_does),
                cmocka_unit_test(test_and_whoever_is_killed),
        };

        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
