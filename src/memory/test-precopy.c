/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Rounds of memory, from this very process into a directory of images. What the tracker would find out is said by each
 * story; the link in between has few slots and hands its frames to a receiver.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "memory/precopy.h"

/* ---- the link ---- */

#define SLOTS 2

struct bundle {
        struct image_receiver *receiver;
        struct bulk_frame frames[SLOTS];
        uint8_t *data[SLOTS];
        size_t n;
        uint8_t *reserved;
        size_t frames_in_all;
};

int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        if (bundle->n == SLOTS)
                return -EAGAIN;
        assert_null(bundle->reserved);
        bundle->reserved = malloc(BULK_MAX);
        assert_non_null(bundle->reserved);
        *ret_data = bundle->reserved;
        return 0;
}

int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame)
{
        assert_non_null(bundle->reserved);
        bundle->frames[bundle->n] = *frame;
        bundle->data[bundle->n++] = TAKE_PTR(bundle->reserved);
        bundle->frames_in_all++;
        return 0;
}

bool bundle_idle(const struct bundle *bundle)
{
        return bundle->n == 0;
}

/* ---- the tracker ---- */

struct page_list {
        uint64_t starts[8], ends[8];
        size_t n;
};

static struct {
        struct page_list written, unwritten;
        pid_t untrackable, gone, forgotten, new;
        int scan_fails, clean_fails;
        unsigned armed;
        uint64_t sent; /* pages */
} told;

const char *tracker_kind_name(enum tracker_kind kind)
{
        return kind == TRACKER_NONE ? "none" : "uffd-wp";
}

int tracker_new(enum tracker_kind kind, struct tracker **ret, struct error *err)
{
        (void)err;
        *ret = NULL;
        return kind == TRACKER_UFFD_WP ? 0 : -EOPNOTSUPP;
}

void tracker_free(struct tracker *t)
{
        assert_null(t);
}

int tracker_attach(struct tracker *t, pid_t pid, struct error *err)
{
        (void)t;
        if (pid == told.gone)
                return -ESRCH;
        return pid == told.untrackable ? error_set(err, EOPNOTSUPP, "process %d does not let us", (int)pid) : 0;
}

bool tracker_is_new(struct tracker *t, pid_t pid)
{
        assert_null(t);
        return pid == told.new;
}

void tracker_forget(struct tracker *t, pid_t pid)
{
        assert_null(t);
        told.forgotten = pid;
}

void tracker_sweep(struct tracker *t)
{
        assert_null(t);
}

bool tracker_needs_stop(const struct tracker *t)
{
        assert_null(t);
        return true;
}

void tracker_arm(struct tracker *t)
{
        assert_null(t);
        told.armed++;
}

/* Of this very process: the bytes can be compared. */
void tracker_sent(struct tracker *t, pid_t pid, uint64_t vaddr, size_t n_pages, const void *data)
{
        assert_null(t);
        assert_int_equal(pid, getpid());
        /* NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are numbers to a tracker */
        assert_memory_equal(data, (const void *)(uintptr_t)vaddr, n_pages * PAGE_BYTES);
        told.sent += n_pages;
}

static int say(const struct page_list *list, pid_t pid, tracker_range_fn found, void *context)
{
        for (size_t i = 0; i < list->n; i++) {
                int r = found(pid, list->starts[i], list->ends[i], context);
                if (r < 0)
                        return r;
        }
        return 0;
}

int tracker_scan(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        (void)t;
        (void)err;
        if (pid == told.gone)
                return -ESRCH;
        int r = say(&told.written, pid, found, context);
        return r < 0 ? r : told.scan_fails;
}

int tracker_clean(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        (void)t;
        (void)err;
        int r = say(&told.unwritten, pid, found, context);
        return r < 0 ? r : told.clean_fails;
}

/* ---- the story ---- */

#define PAGES 600U

struct story {
        struct bundle bundle;
        struct image_sender *sender;
        struct precopy *precopy;
        struct clean_pages *clean;
        char to[32];
        int to_fd;
        uint8_t *memory;
        uint64_t image;
        struct error err, reason;
};

static void deliver_all(struct story *s)
{
        for (size_t i = 0; i < s->bundle.n; i++) {
                int r = image_receiver_frame(s->bundle.receiver, &s->bundle.frames[i], s->bundle.data[i], &s->err);
                if (r < 0)
                        fail_msg("%s", s->err.text);
                free(s->bundle.data[i]);
        }
        s->bundle.n = 0;
}

static void fill(struct story *s, unsigned first, unsigned end, int turn)
{
        for (unsigned i = first; i < end; i++) {
                memset(s->memory + (size_t)i * PAGE_BYTES, (int)i, PAGE_BYTES);
                s->memory[(size_t)i * PAGE_BYTES] = (uint8_t)turn;
        }
}

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        memset(&told, 0, sizeof(told));
        (void)snprintf(s->to, sizeof(s->to), "/tmp/precopy-XXXXXX");
        if (!mkdtemp(s->to))
                return -1;
        s->to_fd = open(s->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        s->memory = mmap(NULL, (size_t)PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        s->image = PAGE_IMAGE(PAGE_IMAGE_TASK, (uint64_t)getpid());
        *state = s;
        fill(s, 0, PAGES, 1);
        if (image_sender_new(&s->bundle, true, &s->sender) < 0 || clean_pages_new(&s->clean) < 0 ||
            image_receiver_new(s->to_fd, 64U << 20, &s->bundle.receiver) < 0)
                return -1;
        return precopy_new(s->sender, TRACKER_UFFD_WP, PRECOPY_TRY, getpid(), &s->precopy, &s->err);
}

static int teardown(void **state)
{
        struct story *s = *state;

        precopy_free(s->precopy);
        clean_pages_free(s->clean);
        image_sender_free(s->sender);
        image_receiver_free(s->bundle.receiver);
        free(s->bundle.reserved);
        (void)munmap(s->memory, (size_t)PAGES * PAGE_BYTES);
        (void)close(s->to_fd);
        (void)fd_remove_tree(AT_FDCWD, s->to, NULL);
        free(s);
        return 0;
}

static uint64_t at(const struct story *s, unsigned page)
{
        return (uint64_t)(uintptr_t)s->memory + (uint64_t)page * PAGE_BYTES;
}

static void add(const struct story *s, struct page_list *list, unsigned first, unsigned end)
{
        list->starts[list->n] = at(s, first);
        list->ends[list->n++] = at(s, end);
}

static void until_done(struct story *s, int (*step)(struct story *s))
{
        int r;

        while ((r = step(s)) == -EAGAIN)
                deliver_all(s);
        if (r < 0)
                fail_msg("%s", s->err.text);
        deliver_all(s);
}

static int step_send(struct story *s)
{
        return precopy_send(s->precopy, &s->err);
}

static int step_last(struct story *s)
{
        return precopy_last(s->precopy, &s->err);
}

static int step_open(struct story *s)
{
        return image_sender_open(s->image, s->sender);
}

static int step_kept(struct story *s)
{
        return precopy_kept(s->precopy, s->clean, &s->err);
}

static void do_round(struct story *s)
{
        pid_t pids[] = {getpid(), getpid()};

        assert_int_equal(precopy_watch(s->precopy, pids, 2, &s->reason, &s->err), 0);
        assert_int_equal(precopy_scan(s->precopy, &s->err), 0);
        until_done(s, step_send);
        told.written.n = 0;
}

/* The dump: `left_out` is what the library would have marked. */
static void do_dump(struct story *s, unsigned first, unsigned end)
{
        until_done(s, step_last);
        assert_int_equal(precopy_clean(s->precopy, false, s->clean, &s->err), 0);
        struct clean_header *h = mmap(NULL, sizeof(*h) + 8 * sizeof(h->windows[0]), PROT_READ | PROT_WRITE, MAP_SHARED,
                                      clean_pages_fd(s->clean), 0);
        assert_ptr_not_equal(h, MAP_FAILED);
        for (uint64_t a = at(s, first); a < at(s, end); a += PAGE_BYTES)
                for (uint32_t i = 0; i < h->n_windows; i++) {
                        struct clean_window *w = &h->windows[i];
                        if (a < w->start || a >= w->start + CLEAN_WINDOW_BYTES)
                                continue;
                        const uint64_t page = (a - w->start) / PAGE_BYTES;
                        w->removed[page / 64] |= w->clean[page / 64] & UINT64_C(1) << page % 64;
                }
        (void)munmap(h, sizeof(*h) + 8 * sizeof(h->windows[0]));
        until_done(s, step_open);
        until_done(s, step_kept);
}

static void expect_pages(const struct story *s, unsigned position, unsigned n, unsigned first, int turn)
{
        AUTO_FD int fd = openat(s->to_fd, "round-1/pages-1.img", O_RDONLY | O_CLOEXEC);
        uint8_t page[PAGE_BYTES];

        assert_true(fd >= 0);
        for (unsigned i = 0; i < n; i++) {
                assert_int_equal(pread(fd, page, sizeof(page), (off_t)(position + i) * PAGE_BYTES), PAGE_BYTES);
                assert_int_equal(page[0], turn);
                assert_int_equal(page[PAGE_BYTES - 1], (first + i) & 0xff);
        }
}

static void test_rounds_and_what_is_kept(void **state)
{
        struct story *s = *state;

        told.new = getpid();
        add(s, &told.written, 0, 300);
        add(s, &told.written, 301, 302);
        add(s, &told.written, 310, PAGES);
        do_round(s);
        assert_int_equal(precopy_written_bytes(s->precopy), 0);
        told.new = 0;
        assert_int_equal(precopy_round_bytes(s->precopy), (300 + 1 + PAGES - 310) * PAGE_BYTES);
        assert_int_equal(told.armed, 1);
        assert_int_equal(told.sent, 300 + 1 + PAGES - 310);
        expect_pages(s, 0, 300, 0, 1);
        expect_pages(s, 300, 1, 301, 1);
        expect_pages(s, 301, PAGES - 310, 310, 1);

        fill(s, 100, 102, 2);
        add(s, &told.written, 100, 102);
        do_round(s);
        assert_int_equal(precopy_written_bytes(s->precopy), 2 * PAGE_BYTES);
        expect_pages(s, 99, 1, 99, 1);
        expect_pages(s, 100, 2, 100, 2);
        expect_pages(s, 102, 1, 102, 1);

        add(s, &told.unwritten, 0, 300);
        add(s, &told.unwritten, 320, 400);
        do_dump(s, 0, 330); /* CRIU never looked at the rest */
        assert_int_equal(precopy_kept_bytes(s->precopy), (300 + 10) * PAGE_BYTES);
        assert_int_equal(s->reason.kind, ERROR_NONE);
}

/* One frame holds pages from all over the place, as far as they are one process's. */
static void test_scattered_pages_travel_together(void **state)
{
        struct story *s = *state;

        for (unsigned i = 0; i < 8; i++)
                add(s, &told.written, 20 * i, 20 * i + 2);
        do_round(s);
        assert_int_equal(s->bundle.frames_in_all, 2); /* the round's beginning, and all of it */
        for (unsigned i = 0; i < 8; i++)
                expect_pages(s, 2 * i, 2, 20 * i, 1);
}

/* The target never gets these; it would be told to keep what it does not have. */
static void test_what_cannot_be_read_is_left_to_the_dump(void **state)
{
        struct story *s = *state;

        (void)munmap(s->memory + 10 * PAGE_BYTES, PAGE_BYTES);
        (void)munmap(s->memory + 12 * PAGE_BYTES, 2 * PAGE_BYTES);
        add(s, &told.written, 0, 20);
        do_round(s);
        expect_pages(s, 0, 10, 0, 1);
        expect_pages(s, 10, 1, 11, 1);
        expect_pages(s, 11, 6, 14, 1);
        /* More of it in a later round, before, behind and where it was. */
        (void)munmap(s->memory + 9 * PAGE_BYTES, 2 * PAGE_BYTES);
        (void)munmap(s->memory + 2 * PAGE_BYTES, PAGE_BYTES);
        add(s, &told.written, 9, 11);
        add(s, &told.written, 2, 3);
        add(s, &told.written, 13, 14);
        do_round(s);
        add(s, &told.unwritten, 0, 5);
        add(s, &told.unwritten, 6, 13);
        add(s, &told.unwritten, 13, 20);
        do_dump(s, 0, 20);
        assert_int_equal(precopy_kept_bytes(s->precopy), (20 - 5 - 1) * PAGE_BYTES);
}

/* Rounds may bring the same pages as often as they like: they are stored once. */
static void test_pages_that_come_again_take_no_room(void **state)
{
        struct story *s = *state;

        image_receiver_free(TAKE_PTR(s->bundle.receiver));
        assert_int_equal(image_receiver_new(s->to_fd, 20 * PAGE_BYTES, &s->bundle.receiver), 0);
        for (int i = 0; i < 4; i++) {
                add(s, &told.written, 0, 20);
                do_round(s);
        }
        assert_int_equal(image_receiver_pages(s->bundle.receiver), 4 * 20);
}

/* Then all of that process is dumped. Only memory must not run out, and nobody may have insisted. */
static void test_a_tracker_that_fails(void **state)
{
        struct story *s = *state;
        pid_t pids[] = {getpid()};

        add(s, &told.written, 0, 20);
        add(s, &told.unwritten, 0, 20);
        told.scan_fails = -EIO;
        told.forgotten = 0;
        do_round(s);
        assert_int_equal(told.forgotten, getpid()); /* some of it may be protected anew and never told */
        do_dump(s, 0, 20);
        assert_int_equal(precopy_kept_bytes(s->precopy), 0);

        told.scan_fails = -ENOMEM;
        assert_int_equal(precopy_watch(s->precopy, pids, 1, &s->reason, &s->err), 0);
        assert_int_equal(precopy_scan(s->precopy, &s->err), -ENOMEM);

        precopy_free(TAKE_PTR(s->precopy));
        told.scan_fails = -EIO;
        assert_int_equal(precopy_new(s->sender, TRACKER_UFFD_WP, PRECOPY_INSIST, getpid(), &s->precopy, &s->err), 0);
        assert_int_equal(precopy_watch(s->precopy, pids, 1, &s->reason, &s->err), 0);
        assert_int_equal(precopy_scan(s->precopy, &s->err), -EIO);
        assert_non_null(strstr(s->err.text, "has written"));
}

/* Less of it is clean then, and what was told is. */
static void test_what_is_clean_cannot_all_be_told(void **state)
{
        struct story *s = *state;

        add(s, &told.written, 0, 20);
        do_round(s);
        add(s, &told.unwritten, 0, 20);
        told.clean_fails = -E2BIG;
        do_dump(s, 0, 20);
        assert_int_equal(precopy_kept_bytes(s->precopy), 20 * PAGE_BYTES);
}

/* No mark of an end without a beginning. */
static void test_no_round_at_all(void **state)
{
        struct story *s = *state;

        do_dump(s, 0, 20);
        assert_int_equal(s->bundle.frames_in_all, 1);
}

/* What the target never got is no reason to leave anything out, whatever the tracker believes. */
static void test_a_round_that_is_left(void **state)
{
        struct story *s = *state;
        pid_t pids[] = {getpid()};

        add(s, &told.written, 0, PAGES);
        assert_int_equal(precopy_watch(s->precopy, pids, 1, &s->reason, &s->err), 0);
        assert_int_equal(precopy_scan(s->precopy, &s->err), 0);
        assert_int_equal(precopy_send(s->precopy, &s->err), -EAGAIN);
        deliver_all(s);
        assert_int_equal(told.forgotten, 0);
        add(s, &told.unwritten, 0, PAGES);
        do_dump(s, 0, PAGES);
        assert_int_equal(told.forgotten, getpid());
        assert_int_equal(precopy_kept_bytes(s->precopy), 0);
}

static void test_processes_that_go_or_cannot_be_tracked(void **state)
{
        struct story *s = *state;
        pid_t child = fork();

        if (child == 0)
                for (;;)
                        (void)pause();
        pid_t pids[] = {child, getpid(), 4194303};
        told.untrackable = getpid();
        told.gone = 4194303;
        assert_int_equal(precopy_watch(s->precopy, pids, 3, &s->reason, &s->err), 0);
        assert_int_equal(s->reason.kind, ERROR_FAILED);
        add(s, &told.written, 0, 500);
        assert_int_equal(precopy_scan(s->precopy, &s->err), 0);
        assert_int_equal(precopy_round_bytes(s->precopy), 500 * PAGE_BYTES);
        size_t scanned, all;
        precopy_coverage(s->precopy, &scanned, &all);
        assert_int_equal(scanned, 1);
        assert_int_equal(all, 2);
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
        until_done(s, step_send); /* of a process that is gone */
        assert_int_equal(told.forgotten, child);
        add(s, &told.unwritten, 0, 500);
        do_dump(s, 0, 500);
        assert_int_equal(precopy_kept_bytes(s->precopy), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_rounds_and_what_is_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_scattered_pages_travel_together, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_left_to_the_dump, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pages_that_come_again_take_no_room, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_tracker_that_fails, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_clean_cannot_all_be_told, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_round_at_all, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_round_that_is_left, setup, teardown),
                cmocka_unit_test_setup_teardown(test_processes_that_go_or_cannot_be_tracked, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
