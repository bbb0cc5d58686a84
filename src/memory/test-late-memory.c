/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which memory of a family may go to the target when it runs there already, judged from /proc. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/kernel_abi.h"
#include "memory/late_memory.h"

#define N 8U             /* pages of each area */
#define ADVICE_GUARD 102 /* MADV_GUARD_INSTALL, Linux 6.13 */

/* The link is not used. */
struct bundle;
int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        (void)bundle;
        (void)ret_data;
        return -ENOTCONN;
}

int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame)
{
        (void)bundle;
        (void)frame;
        return -ENOTCONN;
}

bool bundle_idle(const struct bundle *bundle)
{
        (void)bundle;
        return true;
}

struct story {
        struct late_memory *late;
        struct clean_pages *pages;
        uint8_t *plain, *locked, *wiped, *shared, *sparse, *guarded;
        pid_t child;
        int ready[2];
};

/* With pages that nobody may touch on either side: the kernel would make one area of two. */
static uint8_t *area(int flags)
{
        uint8_t *at =
                mmap(NULL, (size_t)(N + 2) * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        assert_ptr_not_equal(at, MAP_FAILED);
        void *within = mmap(at + PAGE_BYTES, (size_t)N * PAGE_BYTES, PROT_READ | PROT_WRITE,
                            flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        assert_ptr_not_equal(within, MAP_FAILED);
        return within;
}

/* PAGEMAP_SCAN knows their category since Linux 6.15. */
static bool tells_guards(void)
{
        struct scan_request q = {.size = sizeof(q),
                                 .start = (uintptr_t)&q / PAGE_BYTES * PAGE_BYTES,
                                 .all_of = PAGE_GUARD,
                                 .returned = PAGE_GUARD};
        struct scan_region region;

        q.end = q.start + PAGE_BYTES;
        q.regions = (uintptr_t)&region;
        q.regions_size = 1;
        AUTO_FD int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        return pagemap >= 0 && ioctl(pagemap, SCAN_IOCTL, &q) >= 0;
}

/* What the child has beside: an area of its own, and nothing else is told of it. */
static void be_a_child(const struct story *s)
{
        /* Of another size than its parent's: not what was inherited. */
        if (munmap(s->plain + (size_t)(N - 1) * PAGE_BYTES, PAGE_BYTES) < 0 || write(s->ready[1], "+", 1) != 1)
                _exit(1);
        for (;;)
                (void)pause();
}

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));
        struct error err = {0};
        char byte;

        assert_non_null(s);
        *state = s;
        s->plain = area(MAP_PRIVATE);
        s->locked = area(MAP_PRIVATE);
        s->wiped = area(MAP_PRIVATE);
        s->shared = area(MAP_SHARED);
        s->sparse = area(MAP_PRIVATE);
        s->guarded = area(MAP_PRIVATE);
        uint8_t *const all[] = {s->plain, s->locked, s->wiped, s->shared};
        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
                memset(all[i], 1, (size_t)N * PAGE_BYTES);
        s->sparse[2 * PAGE_BYTES] = s->sparse[5 * PAGE_BYTES] = 1;
        /* Before Linux 6.13 there are none: then it has no pages at all. */
        if (madvise(s->guarded + (size_t)(N - 1) * PAGE_BYTES, PAGE_BYTES, ADVICE_GUARD) == 0 && tells_guards())
                memset(s->guarded, 1, (size_t)(N - 1) * PAGE_BYTES);
        /* Sanitizers make nothing of mlock(). */
        assert_int_equal(syscall(SYS_mlock, s->locked, (size_t)N * PAGE_BYTES), 0);
        assert_int_equal(madvise(s->wiped, (size_t)N * PAGE_BYTES, MADV_WIPEONFORK), 0);
        assert_int_equal(pipe(s->ready), 0);
        s->child = fork();
        if (s->child == 0)
                be_a_child(s);
        assert_int_equal(read(s->ready[0], &byte, 1), 1);
        return late_memory_possible(&err) | late_memory_new(getpid(), &s->late, &err) | clean_pages_new(&s->pages);
}

static int teardown(void **state)
{
        struct story *s = *state;
        uint8_t *const all[] = {s->plain, s->locked, s->wiped, s->shared, s->sparse, s->guarded};

        (void)kill(s->child, SIGKILL);
        (void)waitpid(s->child, NULL, 0);
        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
                (void)munmap(all[i] - PAGE_BYTES, (size_t)(N + 2) * PAGE_BYTES);
        (void)close(s->ready[0]);
        (void)close(s->ready[1]);
        late_memory_free(s->late);
        clean_pages_free(s->pages);
        free(s);
        return 0;
}

/* Which of the pages were marked, a letter for each. */
static const char *marks(const struct story *s, pid_t pid, const void *at)
{
        static char text[N + 1];
        const size_t size = sizeof(struct clean_header) + 65536 * sizeof(struct clean_window);
        struct clean_header *h = mmap(NULL, size, PROT_READ, MAP_SHARED, clean_pages_fd(s->pages), 0);

        assert_ptr_not_equal(h, MAP_FAILED);
        for (unsigned i = 0; i < N; i++) {
                const uint64_t address = (uint64_t)(uintptr_t)at + (uint64_t)i * PAGE_BYTES;
                text[i] = '-';
                for (uint32_t w = 0; w < h->n_windows; w++) {
                        const struct clean_window *window = &h->windows[w];
                        if (window->pid != pid || address - window->start >= CLEAN_WINDOW_BYTES)
                                continue;
                        const uint64_t page = (address - window->start) / PAGE_BYTES;
                        text[i] = window->clean[page / 64] >> page % 64 & 1 ? '+' : '-';
                }
        }
        (void)munmap(h, size);
        return text;
}

static void mark(struct story *s, const pid_t *pids, size_t n, bool unshare)
{
        struct error err = {0};

        assert_int_equal(late_memory_watch(s->late, pids, n, &err), 0);
        if (late_memory_mark(s->late, false, unshare, s->pages, &err) < 0)
                fail_msg("%s", err.text);
}

static void test_what_may_come_late(void **state)
{
        struct story *s = *state;
        const pid_t self = getpid();

        mark(s, &self, 1, false);
        assert_string_equal(marks(s, self, s->plain), "++++++++");
        assert_string_equal(marks(s, self, s->locked), "--------");
        assert_string_equal(marks(s, self, s->wiped), "--------");
        assert_string_equal(marks(s, self, s->shared), "--------");
        assert_string_equal(marks(s, self, s->sparse), "--+--+--");  /* what was never written is zeros there, too */
        assert_string_equal(marks(s, self, s->guarded), "--------"); /* though it has pages */
        assert_int_equal(late_memory_left_bytes(s->late), 0);        /* criu has left nothing out */
}

/* What a child has with the same bounds as its parent stays shared on the target: it is there before. */
static void test_what_a_family_shares(void **state)
{
        struct story *s = *state;
        const pid_t pids[] = {s->child, getpid()};

        mark(s, pids, 2, false);
        assert_string_equal(marks(s, getpid(), s->sparse), "--------");
        assert_string_equal(marks(s, s->child, s->sparse), "--------");
        assert_string_equal(marks(s, getpid(), s->plain), "++++++++");
        assert_string_equal(marks(s, s->child, s->plain), "+++++++-");
}

static void test_unless_it_is_to_be_shared_no_more(void **state)
{
        struct story *s = *state;
        const pid_t pids[] = {s->child, getpid(), 0x3fffff}; /* and one that is not there */

        mark(s, pids, 3, true);
        assert_string_equal(marks(s, getpid(), s->sparse), "--+--+--");
        assert_string_equal(marks(s, s->child, s->sparse), "--+--+--");
        assert_string_equal(marks(s, s->child, s->locked), "++++++++"); /* locks are not inherited */
        assert_string_equal(marks(s, s->child, s->wiped), "--------");
}

static void test_reading(void **state)
{
        struct story *s = *state;
        const pid_t self = getpid();
        const uint64_t image = PAGE_IMAGE(PAGE_IMAGE_TASK, self), plain = (uint64_t)(uintptr_t)s->plain,
                       sparse = (uint64_t)(uintptr_t)s->sparse;
        const struct page_span spans[] = {{plain + PAGE_BYTES, 2}, {sparse + 2 * PAGE_BYTES, 1}, {PAGE_BYTES, 1}};
        static uint8_t pages[4 * PAGE_BYTES];
        struct error err = {0};

        assert_int_equal(late_memory_watch(s->late, &self, 1, &err), 0);
        assert_int_equal(late_memory_read(image, spans, 2, pages, s->late), 3);
        assert_int_equal(pages[0], 1);
        assert_int_equal(pages[2 * PAGE_BYTES], 1);
        assert_int_equal(pages[2 * PAGE_BYTES + 1], 0);
        assert_int_equal(late_memory_read(image, spans, 3, pages, s->late), 3); /* up to what is not there */
        assert_int_equal(late_memory_read(image, spans + 2, 1, pages, s->late), 0);
        assert_int_equal(late_memory_read(image + 256, spans, 1, pages, s->late), -ESRCH);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_what_may_come_late, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_a_family_shares, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unless_it_is_to_be_shared_no_more, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reading, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
