/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A tracker of many processes. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/test-process.h"
#include "memory/tracker.h"

#define MANY 24

static void wait_for_the_end(int out)
{
        say(out, "+");
        for (;;)
                (void)pause();
}

/* However many are tracked, nobody else runs short of descriptors, and no limit is another one afterwards. */
static void test_more_than_the_limit_on_descriptors(void **state)
{
        CLEANUP(tracker_free_ptr) struct tracker *tracker = NULL;
        struct child children[MANY], last;
        struct rlimit standard, before, after;

        (void)state;
        assert_int_equal(tracker_new(TRACKER_UFFD_WP, &tracker, NULL), 0);
        for (size_t i = 0; i < MANY; i++)
                start(&children[i], wait_for_the_end);
        start(&last, wait_for_the_end);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &standard), 0);
        const int first_free = fcntl(0, F_DUPFD_CLOEXEC, 3);
        before = (struct rlimit){.rlim_cur = (rlim_t)first_free + MANY, .rlim_max = standard.rlim_max};
        assert_int_equal(close(first_free), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        for (size_t i = 0; i < MANY; i++) {
                struct error err = {0};
                if (tracker_attach(tracker, children[i].pid, &err) < 0)
                        fail_msg("number %zu: %s", i, err.text);
        }
        assert_int_equal(fcntl(0, F_DUPFD_CLOEXEC, 3), first_free);
        assert_int_equal(close(first_free), 0);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
        assert_memory_equal(&after, &before, sizeof(after));

        /* Without a single one left it is not said that a process is gone. */
        before.rlim_cur = (rlim_t)first_free;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        assert_int_equal(tracker_attach(tracker, last.pid, NULL), -EMFILE);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &standard), 0);
        for (size_t i = 0; i < MANY; i++)
                kill_child(&children[i]);
        kill_child(&last);
}

/* Under a hard limit the first few are tracked, and the reserve is left. In a process of its own: it cannot go back. */
static int track_under_a_hard_limit(const struct child *children, size_t n)
{
        CLEANUP(tracker_free_ptr) struct tracker *tracker = NULL;
        size_t tracked = 0;

        if (tracker_new(TRACKER_UFFD_WP, &tracker, NULL) < 0)
                return 1;
        const int first_free = fcntl(0, F_DUPFD_CLOEXEC, 3);
        const rlim_t hard = (rlim_t)first_free + (rlim_t)n + FD_RESERVE; /* for half of them, with two each */
        (void)close(first_free);
        if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = hard, .rlim_max = hard}) < 0)
                return 2;
        for (size_t i = 0; i < n; i++) {
                const int r = tracker_attach(tracker, children[i].pid, NULL);
                if (r != 0 && r != -EMFILE)
                        return 3;
                tracked += r == 0;
        }
        if (tracked < n / 2 - 1 || tracked > n / 2 + 1)
                return 4;
        for (int i = 0; i < FD_RESERVE - 2; i++)
                if (fcntl(0, F_DUPFD_CLOEXEC, 3) < 0)
                        return 5;
        return 0;
}

static void test_others_are_left_descriptors(void **state)
{
        struct child children[MANY];
        int status;

        (void)state;
        for (size_t i = 0; i < MANY; i++)
                start(&children[i], wait_for_the_end);
        const pid_t pid = fork();
        if (pid == 0)
                _exit(track_under_a_hard_limit(children, MANY));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        for (size_t i = 0; i < MANY; i++)
                kill_child(&children[i]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_more_than_the_limit_on_descriptors),
                                           cmocka_unit_test(test_others_are_left_descriptors)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
