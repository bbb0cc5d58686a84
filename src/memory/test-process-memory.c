/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Reading another process: what is got, and that it changes nothing there. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/test-process.h"
#include "memory/process_memory.h"

#define PAGE 4096UL
#define PAGES 16UL
#define MAPPED_ONCE (UINT64_C(1) << 56)

static char *memory;

static void wait_for_the_end(int out)
{
        say(out, "+");
        for (;;)
                (void)pause();
}

static int set_up(void **state)
{
        (void)state;
        memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
                return -1;
        memset(memory, 'x', PAGES * PAGE);
        return munmap(memory + 12 * PAGE, PAGE);
}

static int tear_down(void **state)
{
        (void)state;
        return munmap(memory, PAGES * PAGE);
}

static uint64_t address(size_t page)
{
        return (uintptr_t)memory + page * PAGE;
}

/* How many of the first pages are shared with another process. */
static size_t count_shared(pid_t pid, size_t pages)
{
        char path[64];
        size_t n = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        for (size_t i = 0; i < pages; i++) {
                uint64_t entry = 0;
                assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)(address(i) / PAGE * sizeof(entry))),
                                 sizeof(entry));
                n += !(entry & MAPPED_ONCE);
        }
        return n;
}

static void test_as_far_as_it_goes(void **state)
{
        static char to[PAGES * PAGE];
        struct child child;

        (void)state;
        start(&child, wait_for_the_end);
        AUTO_FD int fd = process_memory_open(child.pid);
        assert_true(fd >= 0);
        assert_int_equal(process_memory_read(fd, address(0), to, 4 * PAGE), 4 * PAGE);
        assert_memory_equal(to, memory, 4 * PAGE);
        assert_int_equal(process_memory_read(fd, address(10), to, 6 * PAGE), 2 * PAGE);
        assert_int_equal(process_memory_read(fd, address(12), to, PAGE), 0);
        kill_child(&child);
        assert_int_equal(process_memory_read(fd, address(0), to, PAGE), 0);
        assert_int_equal(process_memory_open(child.pid), -ESRCH);
}

static void test_what_is_shared_stays_shared(void **state)
{
        static char to[12 * PAGE];
        struct child child;

        (void)state;
        start(&child, wait_for_the_end);
        assert_int_equal(count_shared(child.pid, 12), 12);
        AUTO_FD int fd = process_memory_open(child.pid);
        assert_int_equal(process_memory_read(fd, address(0), to, sizeof(to)), sizeof(to));
        assert_int_equal(count_shared(child.pid, 12), 12);
        kill_child(&child);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_as_far_as_it_goes, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_what_is_shared_stays_shared, set_up, tear_down),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
