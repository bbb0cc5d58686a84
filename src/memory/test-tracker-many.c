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
#include <unistd.h>

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

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_more_than_the_limit_on_descriptors)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
