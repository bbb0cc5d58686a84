/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A process that does everything at random with an arena of memory, and a copy of it that is kept by what a tracker
 * reports, as pre-copy does. At the end each page that the tracker calls clean must be in the copy, byte by byte. The
 * tracker is the one that the command line names.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/test-process.h"
#include "memory/test-tracker.h"
#include "memory/tracker.h"

#define ARENA UINT64_C(0x500000000000)
#define PAGES 4096U
#define ROUNDS 60
#define ROUND_US 4000
#define WRITERS 2

static enum tracker_kind kind;

static char *page_at(size_t i)
{
        return at(ARENA + i * PAGE);
}

/* -- the process -------------------------------------------------------------------------------------------------- */

static bool map_at(size_t first, size_t n)
{
        return mmap(page_at(first), n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
               MAP_FAILED;
}

/* Through the kernel, which says when the page is not there instead of killing us. */
static void scribble(int bytes, size_t i, unsigned *seed)
{
        if (rand_r(seed) % 2 == 0) {
                (void)!pread(bytes, page_at(i) + rand_r(seed) % 2048, (size_t)(rand_r(seed) % 2048), 0);
        } else {
                const int value = rand_r(seed);
                int ends[2];
                if (pipe2(ends, O_CLOEXEC) < 0)
                        _exit(2);
                if (write(ends[1], &value, sizeof(value)) == sizeof(value))
                        (void)!read(ends[0], page_at(i) + value % 1000 * 4, sizeof(value));
                (void)close(ends[0]);
                (void)close(ends[1]);
        }
}

static void *scribble_for_ever(void *context)
{
        unsigned seed = *(const unsigned *)context;
        int bytes = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

        for (;;) {
                if (bytes < 0)
                        return NULL;
                scribble(bytes, (size_t)rand_r(&seed) % PAGES, &seed);
        }
}

/* Some pages in a row. */
static void choose(unsigned *seed, size_t *first, size_t *n)
{
        *n = 1 + (size_t)rand_r(seed) % 64;
        *first = (size_t)rand_r(seed) % (PAGES - *n);
}

static void change_mappings(unsigned *seed)
{
        size_t first, to, n, other;

        choose(seed, &first, &n);
        choose(seed, &to, &other);
        switch (rand_r(seed) % 9) {
        case 0:
                (void)munmap(page_at(first), n * PAGE);
                break;
        case 1:
        case 2:
                if (!map_at(first, n))
                        _exit(3);
                break;
        case 3:
                if (to + n <= PAGES && (first + n <= to || to + n <= first))
                        (void)mremap(page_at(first), n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(to));
                break;
        case 4:
                (void)madvise(page_at(first), n * PAGE, MADV_DONTNEED);
                break;
        case 5:
                (void)mprotect(page_at(first), n * PAGE, PROT_READ);
                break;
        case 6:
                (void)mprotect(page_at(first), n * PAGE, PROT_NONE);
                break;
        case 7:
                (void)mprotect(page_at(first), n * PAGE, PROT_READ | PROT_WRITE);
                break;
        default: {
                /* A child shares the pages for a moment, so that a write copies them. */
                pid_t pid = fork();
                if (pid == 0)
                        _exit(0);
                (void)waitpid(pid, NULL, 0);
        }
        }
}

static void torture(int out)
{
        static unsigned seeds[WRITERS] = {1, 2};
        pthread_t thread;
        unsigned seed = 4711;

        if (!map_at(0, PAGES))
                _exit(1);
        (void)madvise(page_at(PAGES / 2), PAGES / 4 * PAGE, MADV_HUGEPAGE);
        memset(page_at(0), 1, PAGES * PAGE);
        for (int i = 0; i < WRITERS; i++)
                if (pthread_create(&thread, NULL, scribble_for_ever, &seeds[i]) != 0)
                        _exit(1);
        say(out, "+");
        for (;;) {
                change_mappings(&seed);
                (void)usleep(200);
        }
}

/* -- the copy ----------------------------------------------------------------------------------------------------- */

struct copy {
        char *pages;
        bool have[PAGES], clean[PAGES];
        bool reported[PAGES]; /* to be copied in this round */
        size_t n_reported, n_clean;
};

static int note(bool *set, size_t *n, uint64_t start, uint64_t end)
{
        for (uint64_t at = start; at < end; at += PAGE)
                if (at >= ARENA && at < ARENA + PAGES * PAGE) {
                        set[(at - ARENA) / PAGE] = true;
                        ++*n;
                }
        return 0;
}

static int on_written(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct copy *c = context;

        (void)pid;
        return note(c->reported, &c->n_reported, start, end);
}

static int on_clean(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct copy *c = context;

        (void)pid;
        return note(c->clean, &c->n_clean, start, end);
}

static bool read_page(pid_t pid, size_t i, char *to)
{
        const struct iovec here = {to, PAGE}, there = {page_at(i), PAGE};

        return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)PAGE;
}

/* While it runs on. What cannot be read counts as not copied. */
static void copy_reported(struct copy *c, struct tracker *tracker, pid_t pid)
{
        for (size_t i = 0; i < PAGES; i++)
                if (c->reported[i]) {
                        c->have[i] = read_page(pid, i, c->pages + i * PAGE);
                        if (c->have[i])
                                tracker_sent(tracker, pid, ARENA + i * PAGE, 1, c->pages + i * PAGE);
                }
        memset(c->reported, 0, sizeof(c->reported));
}

/* As a broken tracker would: some pages that were reported do not get into the copy. */
static void withhold_some(struct copy *c, struct tracker *tracker, pid_t pid)
{
        char page[PAGE];

        for (size_t i = 0, left = 20; i < PAGES && left; i++)
                if (c->reported[i] && c->have[i]) {
                        c->reported[i] = false;
                        if (read_page(pid, i, page))
                                tracker_sent(tracker, pid, ARENA + i * PAGE, 1, page);
                        left--;
                }
}

static void stand_still(pid_t pid)
{
        int status;

        assert_int_equal(kill(pid, SIGSTOP), 0);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        if (!WIFSTOPPED(status))
                fail_msg("it ended with %x", (unsigned)status);
}

/* Pages that are clean, and wrong in the copy. */
static size_t count_wrong(const struct copy *c, pid_t pid)
{
        char now[PAGE];
        size_t wrong = 0;

        for (size_t i = 0; i < PAGES; i++)
                if (c->clean[i] && c->have[i])
                        wrong += !read_page(pid, i, now) || memcmp(now, c->pages + i * PAGE, PAGE) != 0;
        return wrong;
}

static void run(bool withhold, size_t *ret_clean, size_t *ret_wrong)
{
        CLEANUP(tracker_free_ptr) struct tracker *tracker = NULL;
        struct copy *c = calloc(1, sizeof(*c));
        struct child child;
        struct error err = {0};

        assert_non_null(c);
        c->pages = calloc(PAGES, PAGE);
        assert_non_null(c->pages);
        start(&child, torture);
        assert_int_equal(tracker_new(kind, &tracker, &err), 0);
        for (int round = 0; round < ROUNDS; round++) {
                if (tracker_attach(tracker, child.pid, &err) < 0)
                        fail_msg("attach: %s", err.text);
                (void)usleep((useconds_t)(random() % ROUND_US));
                stand_still(child.pid);
                c->n_reported = 0;
                if (!tracker_needs_stop(tracker))
                        (void)kill(child.pid, SIGCONT);
                if (tracker_scan(tracker, child.pid, on_written, c, &err) < 0)
                        fail_msg("scan: %s", err.text);
                tracker_arm(tracker);
                (void)kill(child.pid, SIGCONT);
                if (withhold && round > 0)
                        withhold_some(c, tracker, child.pid);
                copy_reported(c, tracker, child.pid);
        }
        (void)usleep(ROUND_US);
        stand_still(child.pid);
        if (tracker_clean(tracker, child.pid, on_clean, c, &err) < 0)
                fail_msg("clean: %s", err.text);
        *ret_clean = c->n_clean;
        *ret_wrong = count_wrong(c, child.pid);
        print_message("%zu pages written in the last round, %zu clean at the end, %zu wrong\n", c->n_reported,
                      c->n_clean, *ret_wrong);
        kill_child(&child);
        free(c->pages);
        free(c);
}

static void test_what_is_clean_is_in_the_copy(void **state)
{
        size_t clean, wrong;

        (void)state;
        run(false, &clean, &wrong);
        assert_true(clean > 0);
        assert_int_equal(wrong, 0);
}

/* Else the test above would show nothing. */
static void test_a_withheld_page_is_found(void **state)
{
        size_t clean, wrong;

        (void)state;
        run(true, &clean, &wrong);
        assert_true(wrong > 0);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_what_is_clean_is_in_the_copy),
                cmocka_unit_test(test_a_withheld_page_is_found),
        };
        for (kind = TRACKER_UFFD_WP; kind <= TRACKER_HASH; kind++)
                if (argc == 2 && strcmp(argv[1], tracker_kind_name(kind)) == 0)
                        return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
        (void)fprintf(stderr, "usage: test-tracker-torture uffd-wp|soft-dirty|hash\n");
        return 2;
}
