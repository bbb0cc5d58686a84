/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What /proc/PID/maps tells, and that a process may change while it is read. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "base/test-process.h"
#include "memory/address_space.h"

#define PAGE 4096UL
#define PAGES 400UL /* some hundred mappings: the kernel tells them in several pieces */
#define READINGS 1000

static void test_what_a_line_tells(void **state)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        (void)state;
        assert_int_equal(address_space_parse("1000-3000 r-xp 00002000 fd:01 77   /usr/bin/it\n"
                                             "3000-4000 rw-s 00000000 00:00 0 \n"
                                             "7000-9000 rw-p 00000000 00:00 0                [stack]\n"
                                             "a000-b000 r--p 00000000 00:00 0                [vvar]\n",
                                             &space),
                         0);
        assert_int_equal(space.n, 4);
        assert_null(space.obstacle);
        const struct area *a = &space.areas[0];
        assert_int_equal(a->start, 0x1000);
        assert_int_equal(a->end, 0x3000);
        assert_int_equal(a->device, makedev(0xfd, 1));
        assert_int_equal(a->inode, 77);
        assert_true(a->readable && !a->writable && a->executable && a->private && area_is_file(a));
        assert_true(!space.areas[1].private && space.areas[1].writable && !area_is_file(&space.areas[1]));
        assert_true(space.areas[2].stack && !space.areas[2].special);
        assert_true(space.areas[3].special);
}

static void test_an_obstacle_has_a_reason(void **state)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        (void)state;
        assert_int_equal(address_space_parse("1000-2000 rw-s 00000000 00:0f 5    /[aio] (deleted)\n", &space), 0);
        assert_non_null(space.obstacle);
}

static void test_what_grew_together_is_told_once(void **state)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        (void)state;
        assert_int_equal(address_space_parse("1000-3000 r--p 00000000 00:00 0 \n"
                                             "1000-6000 rw-p 00000000 00:00 0 \n"
                                             "2000-5000 rw-p 00000000 00:00 0 \n"
                                             "6000-7000 r--p 00000000 00:00 0 \n",
                                             &space),
                         0);
        assert_int_equal(space.n, 3);
        assert_int_equal(space.areas[0].end, 0x3000);
        assert_false(space.areas[0].writable);
        assert_int_equal(space.areas[1].start, 0x3000);
        assert_int_equal(space.areas[1].end, 0x6000);
        assert_true(space.areas[1].writable);
        assert_int_equal(space.areas[2].start, 0x6000);
}

static void test_what_is_no_line_is_refused(void **state)
{
        static const char *const texts[] = {
                "1000-2000 rw-p 00000000 00:00 0", /* cut off */
                "2000-1000 rw-p 00000000 00:00 0 \n",
                "1000-1000 rw-p 00000000 00:00 0 \n",
                "+1000-2000 rw-p 00000000 00:00 0 \n",
                "1000-2000 rw-\n",
                "1000-2000 rw-p x 00:00 0 \n",
                "\n",
                "10000000000000000-20000000000000000 rw-p 00000000 00:00 0 \n",
        };

        (void)state;
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                struct address_space space = {0};
                assert_int_equal(address_space_parse(texts[i], &space), -EBADMSG);
                assert_null(space.areas);
        }
}

/* Mappings that come apart and together again, all the time. */
static void change_mappings(int out)
{
        char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (memory == MAP_FAILED)
                _exit(1);
        for (size_t i = 0; i < PAGES; i += 2)
                (void)mprotect(memory + i * PAGE, PAGE, PROT_READ);
        say(out, "+");
        for (;;) {
                size_t i = (size_t)random() % PAGES;
                (void)mprotect(memory + i * PAGE, PAGE, random() % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        }
}

static void test_a_process_that_changes_meanwhile(void **state)
{
        struct child child;

        (void)state;
        start(&child, change_mappings);
        for (int i = 0; i < READINGS; i++) {
                CLEANUP(address_space_done) struct address_space space = {0};
                struct error err = {0};
                if (address_space_read(child.pid, &space, &err) < 0)
                        fail_msg("%s", err.text);
                for (size_t at = 1; at < space.n; at++)
                        assert_true(space.areas[at].start >= space.areas[at - 1].end);
        }
        kill_child(&child);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_what_a_line_tells),
                cmocka_unit_test(test_an_obstacle_has_a_reason),
                cmocka_unit_test(test_what_grew_together_is_told_once),
                cmocka_unit_test(test_what_is_no_line_is_refused),
                cmocka_unit_test(test_a_process_that_changes_meanwhile),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
