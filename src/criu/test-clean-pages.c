/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a dump leaves out, told by one process and done by a library in another: the library is in here by its source,
 * with a kernel that answers what each story wants. That CRIU leaves pages out is shown by
 * tests/scenario/test_memory.py.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static long kernel_answers(long number, ...);
#define ioctl filtered_ioctl
#define pread64 filtered_pread64
#define syscall kernel_answers
#include "criu/clean-pages-filter.c" /* NOLINT(bugprone-suspicious-include): with a kernel of ours */
#undef syscall
#undef pread64
#undef ioctl

#define BASE UINT64_C(0x7f0000000000)
#define PID 4711

/* What the kernel knows: regions that it gives when asked. */
static struct {
        struct scan_region regions[64];
        size_t n;
        char pagemap[64];
} kernel;

static long scan(struct scan_request *arg)
{
        struct scan_region *to =
                (struct scan_region *)(uintptr_t)arg->regions; /* NOLINT(performance-no-int-to-ptr): as the kernel */
        long n = 0;

        arg->walk_end = arg->end;
        for (size_t i = 0; i < kernel.n; i++) {
                struct scan_region r = kernel.regions[i];
                if (r.end <= arg->start || r.start >= arg->end)
                        continue;
                if ((uint64_t)n == arg->regions_size) {
                        arg->walk_end = r.start;
                        break;
                }
                r.start = r.start > arg->start ? r.start : arg->start;
                r.end = r.end < arg->end ? r.end : arg->end;
                to[n++] = r;
        }
        return n;
}

/* The frame of each page that is there is its number. */
static long read_entries(uint64_t *to, size_t size, off64_t offset)
{
        for (size_t i = 0; i < size / sizeof(*to); i++) {
                const uint64_t page = (uint64_t)offset / sizeof(*to) + i;
                to[i] = UINT64_C(1) << 55;
                for (size_t k = 0; k < kernel.n; k++)
                        if (page >= kernel.regions[k].start / 4096 && page < kernel.regions[k].end / 4096)
                                to[i] |= UINT64_C(1) << 63 | page;
        }
        return (long)size;
}

static long kernel_answers(long number, ...)
{
        va_list list;
        long n;

        va_start(list, number);
        (void)va_arg(list, int);
        if (number == SYS_ioctl) {
                assert_int_equal(va_arg(list, unsigned long), SCAN_IOCTL);
                n = scan(va_arg(list, void *));
        } else {
                assert_int_equal(number, SYS_pread64);
                uint64_t *to = va_arg(list, void *);
                size_t size = va_arg(list, size_t);
                n = read_entries(to, size, va_arg(list, off64_t));
        }
        va_end(list);
        return n;
}

struct story {
        struct clean_pages *clean, *late;
        int pagemap;
};

/* A file with the name that a process's page tables have. */
static int setup(void **state)
{
        static struct story s;

        kernel.n = 0;
        assert_int_equal(clean_pages_new(&s.clean), 0);
        (void)snprintf(kernel.pagemap, sizeof(kernel.pagemap), "/tmp/clean-pages-%d", (int)getpid());
        char path[160];
        assert_int_equal(mkdir(kernel.pagemap, 0700), 0);
        (void)snprintf(path, sizeof(path), "%s/%d", kernel.pagemap, PID);
        assert_int_equal(mkdir(path, 0700), 0);
        (void)snprintf(path, sizeof(path), "%s/%d/pagemap", kernel.pagemap, PID);
        s.pagemap = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(s.pagemap >= 0);
        char number[16];
        (void)snprintf(number, sizeof(number), "%d", clean_pages_fd(s.clean));
        (void)setenv(CLEAN_PAGES_ENV, number, 1);
        assert_int_equal(clean_pages_new(&s.late), 0);
        (void)snprintf(number, sizeof(number), "%d", clean_pages_fd(s.late));
        (void)setenv(LATE_PAGES_ENV, number, 1);
        attach_both();
        assert_non_null(kept);
        assert_non_null(late);
        *state = &s;
        return 0;
}

static int teardown(void **state)
{
        struct story *s = *state;
        char path[160];

        struct stat st;
        assert_int_equal(fstat(clean_pages_fd(s->clean), &st), 0);
        (void)munmap(TAKE_PTR(kept), (size_t)st.st_size);
        (void)munmap(TAKE_PTR(late), (size_t)st.st_size);
        clean_pages_free(s->clean);
        clean_pages_free(s->late);
        (void)close(s->pagemap);
        (void)snprintf(path, sizeof(path), "%s/%d/pagemap", kernel.pagemap, PID);
        (void)unlink(path);
        (void)snprintf(path, sizeof(path), "%s/%d", kernel.pagemap, PID);
        (void)rmdir(path);
        return rmdir(kernel.pagemap);
}

static uint64_t at(uint64_t page)
{
        return BASE + page * 4096;
}

static void kernel_has(uint64_t first, uint64_t end)
{
        kernel.regions[kernel.n++] = (struct scan_region){at(first), at(end), PAGE_PRESENT};
}

/* As CRIU asks: until the whole range was walked. What it hears, as text. */
static const char *ask(const struct story *s, uint64_t first, uint64_t end, size_t room)
{
        static char text[512];
        struct scan_region regions[64];
        uint64_t from = at(first);
        size_t n = 0;

        text[0] = '\0';
        while (from < at(end)) {
                struct scan_request arg = {.size = sizeof(arg),
                                           .start = from,
                                           .end = at(end),
                                           .regions = (uintptr_t)regions,
                                           .regions_size = room,
                                           .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                                           .returned = PAGE_PRESENT | PAGE_SWAPPED};
                int got = filtered_ioctl(s->pagemap, SCAN_IOCTL, &arg);
                assert_in_range(got, 0, room);
                for (int i = 0; i < got; i++)
                        n += (size_t)snprintf(text + n, sizeof(text) - n, "%u-%u ",
                                              (unsigned)((regions[i].start - BASE) / 4096),
                                              (unsigned)((regions[i].end - BASE) / 4096));
                assert_true(arg.walk_end > from);
                from = arg.walk_end;
        }
        return text;
}

static int to_text(pid_t pid, uint64_t vaddr, uint64_t n_pages, void *context)
{
        char *text = context;

        (void)snprintf(text + strlen(text), 512 - strlen(text), "%d:%d-%d ", (int)pid, (int)((vaddr - BASE) / 4096),
                       (int)((vaddr - BASE) / 4096 + n_pages));
        return 0;
}

static const char *removed_of(const struct clean_pages *pages)
{
        static char text[512];
        struct clean_cursor cursor = {0};

        text[0] = '\0';
        assert_int_equal(clean_pages_removed(pages, &cursor, to_text, text), 0);
        return text;
}

static const char *removed(const struct story *s)
{
        return removed_of(s->clean);
}

static void clean(const struct story *s, pid_t pid, uint64_t first, uint64_t end)
{
        assert_int_equal(clean_pages_add(s->clean, pid, at(first), at(end)), 0);
}

static void test_clean_pages_are_not_heard_of(void **state)
{
        const struct story *s = *state;

        clean(s, PID - 1, 0, 100); /* somebody else's */
        clean(s, PID, 3, 5);
        clean(s, PID, 20, 30);
        clean(s, PID + 1, 0, 100);
        kernel_has(0, 10);
        kernel_has(15, 25);
        assert_string_equal(ask(s, 0, 100, 64), "0-3 5-10 15-20 ");
        assert_string_equal(removed(s), "4711:3-5 4711:20-25 "); /* 25 to 29 were not there to be removed */
        assert_int_equal(clean_pages_scans(s->clean), 1);
}

/* What is there already is not also left for later; what is neither is heard of. */
static void test_late_pages_are_not_heard_of_either(void **state)
{
        const struct story *s = *state;

        clean(s, PID, 3, 5);
        clean(s, PID, 8, 20);
        assert_int_equal(clean_pages_add(s->late, PID, at(4), at(12)), 0);
        assert_int_equal(clean_pages_add(s->late, PID, at(22), at(23)), 0);
        kernel_has(0, 10);
        kernel_has(15, 25);
        assert_string_equal(ask(s, 0, 100, 2), "0-3 20-22 23-25 ");
        assert_string_equal(removed(s), "4711:3-5 4711:8-10 4711:15-20 ");
        assert_string_equal(removed_of(s->late), "4711:5-8 4711:22-23 ");
}

/* One region may become many: the asker comes back for what did not fit. */
static void test_more_regions_than_fit(void **state)
{
        const struct story *s = *state;

        for (uint64_t i = 1; i < 20; i += 2)
                clean(s, PID, i, i + 1);
        kernel_has(0, 20);
        assert_string_equal(ask(s, 0, 20, 3), "0-1 2-3 4-5 6-7 8-9 10-11 12-13 14-15 16-17 18-19 ");
        assert_string_equal(removed(s), "4711:1-2 4711:3-4 4711:5-6 4711:7-8 4711:9-10 4711:11-12 4711:13-14 "
                                        "4711:15-16 4711:17-18 4711:19-20 ");
}

static void test_all_of_it_and_over_the_borders_of_windows(void **state)
{
        const struct story *s = *state;
        const uint64_t w = CLEAN_WINDOW_PAGES;

        clean(s, PID, w - 2, 2 * w + 3);
        clean(s, PID, 4 * w, 4 * w + 1);
        kernel_has(w - 4, 4 * w + 2);
        assert_string_equal(ask(s, 0, 5 * w, 64), "4092-4094 8195-16384 16385-16386 ");
        assert_string_equal(removed(s), "4711:4094-4096 4711:4096-8192 4711:8192-8195 4711:16384-16385 ");
        kernel.n = 0;
        kernel_has(w, w + 5);
        assert_string_equal(ask(s, w, w + 5, 64), "");
}

static void test_other_questions_pass(void **state)
{
        const struct story *s = *state;
        struct scan_region region;
        struct scan_request arg = {.size = sizeof(arg),
                                   .start = at(0),
                                   .end = at(10),
                                   .regions = (uintptr_t)&region,
                                   .regions_size = 1,
                                   .all_of = UINT64_C(1) << 8,
                                   .returned = UINT64_C(1) << 8};

        clean(s, PID, 0, 10);
        kernel_has(0, 10);
        assert_int_equal(filtered_ioctl(s->pagemap, SCAN_IOCTL, &arg), 1); /* guard pages */
        arg.any_of = arg.returned = PAGE_PRESENT;
        assert_int_equal(filtered_ioctl(STDIN_FILENO, SCAN_IOCTL, &arg), 1); /* not page tables */
        assert_string_equal(removed(s), "");
        assert_int_equal(filtered_ioctl(s->pagemap, SCAN_IOCTL, &arg), 0);
        assert_string_equal(removed(s), "4711:0-10 ");
}

/* As CRIU asks before Linux 6.7. */
static void test_entries_of_clean_pages_are_empty(void **state)
{
        const struct story *s = *state;
        uint64_t entries[40];

        clean(s, PID, 3, 5);
        clean(s, PID, 20, 30);
        kernel_has(0, 10);
        kernel_has(15, 25);
        assert_int_equal(filtered_pread64(s->pagemap, entries, sizeof(entries), (off64_t)(at(0) / 4096 * 8)),
                         sizeof(entries));
        for (uint64_t i = 0; i < 40; i++) {
                const bool there = i < 10 || (i >= 15 && i < 25), left_out = (i >= 3 && i < 5) || (i >= 20 && i < 25);
                assert_int_equal(entries[i] >> 63, there && !left_out);
                assert_int_equal(entries[i] & 0xffff, there && !left_out ? at(i) / 4096 & 0xffff : 0);
        }
        assert_string_equal(removed(s), "4711:3-5 4711:20-25 ");
        assert_int_equal(clean_pages_scans(s->clean), 1);
        /* Not page tables, and not whole entries. */
        assert_int_equal(filtered_pread64(STDIN_FILENO, entries, 8, (off64_t)(at(3) / 4096 * 8)), 8);
        assert_int_equal(entries[0] >> 63, 1);
        assert_int_equal(filtered_pread64(s->pagemap, entries, 8, (off64_t)(at(3) / 4096 * 8 + 4)), 8);
        assert_int_equal(clean_pages_scans(s->clean), 1);
}

static void test_what_is_no_order_is_refused(void **state)
{
        const struct story *s = *state;

        clean(s, PID, 5, 10);
        assert_int_equal(clean_pages_add(s->clean, PID, at(9), at(11)), -EINVAL);
        assert_int_equal(clean_pages_add(s->clean, PID - 1, at(20), at(21)), -EINVAL);
        assert_int_equal(clean_pages_add(s->clean, PID, at(20), at(20)), -EINVAL);
        assert_int_equal(clean_pages_add(s->clean, PID, at(20) + 1, at(21)), -EINVAL);
        clean(s, PID + 1, 0, 1);
}

static void test_memory_of_another_build_is_not_touched(void **state)
{
        (void)state;
        kept->abi++;
        assert_null(attach(CLEAN_PAGES_ENV));
        kept->abi--;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_clean_pages_are_not_heard_of, setup, teardown),
                cmocka_unit_test_setup_teardown(test_late_pages_are_not_heard_of_either, setup, teardown),
                cmocka_unit_test_setup_teardown(test_more_regions_than_fit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_all_of_it_and_over_the_borders_of_windows, setup, teardown),
                cmocka_unit_test_setup_teardown(test_other_questions_pass, setup, teardown),
                cmocka_unit_test_setup_teardown(test_entries_of_clean_pages_are_empty, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_no_order_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_memory_of_another_build_is_not_touched, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
