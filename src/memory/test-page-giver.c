/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Pages of this very process, given to whoever asks: those first that a task waits for, and nothing that was asked on
 * another link.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "memory/late_memory.h"
#include "memory/page_giver.h"

#define PAGES 600U
#define SLOTS 4

/* ---- the link ---- */

struct bundle {
        struct bulk_frame frames[SLOTS];
        uint8_t *data[SLOTS];
        size_t n;
        uint8_t *reserved;
};

int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        if (bundle->n == SLOTS)
                return -EAGAIN;
        if (!bundle->reserved)
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
        return 0;
}

bool bundle_idle(const struct bundle *bundle)
{
        return bundle->n == 0;
}

/* ---- a story ---- */

struct story {
        struct bundle bundle;
        struct late_memory *late;
        struct page_giver *giver;
        uint8_t *memory;
        uint64_t image;
};

static uint64_t at(const struct story *s, unsigned page)
{
        return (uint64_t)(uintptr_t)s->memory + (uint64_t)page * PAGE_BYTES;
}

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));
        const pid_t self = getpid();
        struct error err = {0};

        assert_non_null(s);
        s->memory = mmap(NULL, (size_t)PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(s->memory, MAP_FAILED);
        for (unsigned i = 0; i < PAGES; i++)
                memset(s->memory + (size_t)i * PAGE_BYTES, (int)(i % 251), PAGE_BYTES);
        s->image = PAGE_IMAGE(PAGE_IMAGE_TASK, self);
        if (late_memory_new(self, &s->late, &err) < 0 || late_memory_watch(s->late, &self, 1, &err) < 0 ||
            page_giver_new(late_memory_read, s->late, &s->giver) < 0)
                return -1;
        page_giver_link(s->giver, &s->bundle);
        *state = s;
        return 0;
}

static void forget_frames(struct story *s)
{
        while (s->bundle.n)
                free(s->bundle.data[--s->bundle.n]);
}

static int teardown(void **state)
{
        struct story *s = *state;

        forget_frames(s);
        free(s->bundle.reserved);
        page_giver_free(s->giver);
        late_memory_free(s->late);
        (void)munmap(s->memory, (size_t)PAGES * PAGE_BYTES);
        free(s);
        return 0;
}

static int want(struct story *s, unsigned first, unsigned n, unsigned flags)
{
        uint8_t run[RUN_BYTES];
        struct error err = {0};
        const struct bulk_frame frame = {
                .type = BULK_WANTED, .flags = (uint16_t)flags, .size = RUN_BYTES, .object = s->image, .offset = 1};

        page_span_put(run, &(struct page_span){.vaddr = at(s, first), .n_pages = n});
        return page_giver_wanted(s->giver, &frame, run, &err);
}

static void give(struct story *s)
{
        struct error err = {0};

        assert_int_equal(page_giver_give(s->giver, &err), 0);
}

/* The frame holds these pages, as they are, in one run. */
static void expect(const struct story *s, size_t number, unsigned first, unsigned n, bool urgent)
{
        const struct bulk_frame *f = &s->bundle.frames[number];
        const uint8_t *data = s->bundle.data[number];
        uint8_t digest[DIGEST_BYTES];
        struct page_span span;

        assert_true(number < s->bundle.n);
        assert_int_equal(f->type, BULK_PAGES);
        assert_int_equal(f->count, n);
        assert_int_equal(f->offset, 1);
        assert_int_equal(f->object, s->image);
        assert_int_equal((f->flags & BULK_URGENT) != 0, urgent);
        assert_true(page_span_get(data, &span));
        assert_int_equal(span.vaddr, at(s, first));
        assert_int_equal(span.n_pages, n);
        assert_memory_equal(data + RUN_TABLE_BYTES, s->memory + (size_t)first * PAGE_BYTES, (size_t)n * PAGE_BYTES);
        page_digest(data, n, digest);
        assert_memory_equal(digest, data + DIGEST_AT, sizeof(digest));
}

static void test_who_waits_comes_first(void **state)
{
        struct story *s = *state;

        assert_int_equal(want(s, 0, 300, 0), 0);
        assert_int_equal(want(s, 500, 1, BULK_URGENT), 0);
        give(s);
        assert_int_equal(s->bundle.n, 3);
        expect(s, 0, 500, 1, true);
        expect(s, 1, 0, PAGE_BATCH_MAX, false);
        expect(s, 2, PAGE_BATCH_MAX, 300 - PAGE_BATCH_MAX, false);
        assert_int_equal(page_giver_urgent_bytes(s->giver), PAGE_BYTES);
        assert_int_equal(page_giver_other_bytes(s->giver), 300 * PAGE_BYTES);
}

/* Also when much was asked before, and the link has no room for it. */
static void test_a_full_link(void **state)
{
        struct story *s = *state;

        for (unsigned i = 0; i < 5; i++)
                assert_int_equal(want(s, i * 2, 1, i == 0 ? BULK_URGENT : 0), 0);
        s->bundle.n = 0;
        give(s);
        /* What is asked for separately goes together. */
        assert_int_equal(s->bundle.n, 2);
        assert_int_equal(s->bundle.frames[1].count, 4);
        assert_int_equal(s->bundle.frames[1].offset, 4);
        forget_frames(s);
        assert_int_equal(want(s, 0, 255 * SLOTS > PAGES ? PAGES : 1, 0), 0);
        assert_int_equal(want(s, 0, PAGES, 0), 0);
        assert_int_equal(want(s, 0, PAGES, 0), 0);
        give(s);
        assert_int_equal(s->bundle.n, SLOTS);
        assert_int_equal(want(s, 7, 1, BULK_URGENT), 0);
        forget_frames(s);
        give(s);
        expect(s, 0, 7, 1, true);
}

static void test_another_link(void **state)
{
        struct story *s = *state;

        assert_int_equal(want(s, 0, 10, 0), 0);
        page_giver_link(s->giver, NULL);
        /* The next one's first words may be heard before it is handed over. */
        assert_int_equal(want(s, 3, 1, 0), 0);
        give(s);
        assert_int_equal(s->bundle.n, 0);
        page_giver_link(s->giver, &s->bundle);
        give(s);
        assert_int_equal(s->bundle.n, 1);
        expect(s, 0, 3, 1, false);
}

/* A process, or a page, that is not there: said, so that nobody waits for it in vain. */
static void test_what_is_gone(void **state)
{
        struct story *s = *state;
        struct page_span span;

        assert_int_equal(munmap(s->memory + (size_t)10 * PAGE_BYTES, PAGE_BYTES), 0);
        assert_int_equal(want(s, 9, 3, 0), 0);
        give(s);
        assert_int_equal(s->bundle.n, 3);
        expect(s, 0, 9, 1, false);
        assert_int_equal(s->bundle.frames[1].type, BULK_PAGES_GONE);
        assert_true(page_span_get(s->bundle.data[1], &span));
        assert_int_equal(span.vaddr, at(s, 10));
        assert_int_equal(span.n_pages, 1);
        expect(s, 2, 11, 1, false);
        forget_frames(s);
        s->image = PAGE_IMAGE(PAGE_IMAGE_TASK, 4000000);
        assert_int_equal(want(s, 0, 5, BULK_URGENT), 0);
        give(s);
        assert_int_equal(s->bundle.n, 1);
        assert_int_equal(s->bundle.frames[0].type, BULK_PAGES_GONE);
        assert_true(page_span_get(s->bundle.data[0], &span));
        assert_int_equal(span.n_pages, 5);
}

static void test_what_cannot_be_wanted(void **state)
{
        struct story *s = *state;
        uint8_t run[RUN_BYTES] = {0};
        struct error err = {0};
        const struct bulk_frame good = {.type = BULK_WANTED, .size = RUN_BYTES, .object = s->image, .offset = 1};
        struct bulk_frame bad[6] = {good, good, good, good, good, good};

        bad[0].type = BULK_PAGES;
        bad[1].offset = 2;
        bad[2].object = 0xff;
        bad[3].flags = 1;
        bad[4].count = 1;
        for (size_t i = 0; i < 6; i++) /* the last one has a run of no pages */
                assert_int_equal(page_giver_wanted(s->giver, &bad[i], run, &err), -EBADMSG);
        page_span_put(run, &(struct page_span){.vaddr = at(s, 0) + 1, .n_pages = 1});
        assert_int_equal(page_giver_wanted(s->giver, &good, run, &err), -EBADMSG);
        page_span_put(run, &(struct page_span){.vaddr = (UINT64_C(1) << 56) - PAGE_BYTES, .n_pages = 2});
        assert_int_equal(page_giver_wanted(s->giver, &good, run, &err), -EBADMSG);
        give(s);
        assert_int_equal(s->bundle.n, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_who_waits_comes_first, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_full_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_another_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_gone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_cannot_be_wanted, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
