/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Pages bear a digest of themselves and of where they belong; the target takes none that was changed on its way. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "memory/image_stream.h"

#define TASK PAGE_IMAGE(PAGE_IMAGE_TASK, 7)
#define PAGES 3U
#define SIZE (RUN_TABLE_BYTES + PAGES * PAGE_BYTES)

struct place {
        char directory[32];
        int fd;
        struct image_receiver *receiver;
        uint8_t data[SIZE];
};

/* A receiver that waits for the pages of a task, and a frame of three that is as it should be. */
static int set_up(void **state)
{
        struct place *p = calloc(1, sizeof(*p));
        struct error err = {0};

        *state = p;
        if (!p)
                return -1;
        (void)snprintf(p->directory, sizeof(p->directory), "/tmp/phaul-digest-XXXXXX");
        if (!mkdtemp(p->directory))
                return -1;
        p->fd = open(p->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->fd < 0 || image_receiver_new(p->fd, 1 << 20, &p->receiver) < 0)
                return -1;
        for (size_t i = RUN_TABLE_BYTES; i < SIZE; i++)
                p->data[i] = (uint8_t)(i * 7 + i / 4096);
        page_span_put(p->data, &(struct page_span){.vaddr = 0x10000, .n_pages = 1});
        page_span_put(p->data + RUN_BYTES, &(struct page_span){.vaddr = 0x20000, .n_pages = 2});
        page_digest(p->data, PAGES, p->data + DIGEST_AT);
        return image_receiver_frame(p->receiver, &(struct bulk_frame){.type = BULK_PAGES_OPEN, .object = TASK}, NULL,
                                    &err);
}

static int tear_down(void **state)
{
        struct place *p = *state;

        image_receiver_free(p->receiver);
        (void)close(p->fd);
        (void)fd_remove_tree(AT_FDCWD, p->directory, NULL);
        free(p);
        return 0;
}

static int receive(struct place *p, uint16_t flags, struct error *err)
{
        const struct bulk_frame frame = {.type = BULK_PAGES,
                                         .flags = (uint16_t)(PE_PRESENT | flags),
                                         .size = SIZE,
                                         .object = TASK,
                                         .offset = 2,
                                         .count = PAGES};

        return image_receiver_frame(p->receiver, &frame, p->data, err);
}

static void test_whole(void **state)
{
        struct error err = {0};

        assert_int_equal(receive(*state, BULK_CHECKED, &err), 0);
        assert_int_equal(image_receiver_pages(((struct place *)*state)->receiver), PAGES);
}

/* Of a source that does not make them none is asked for. */
static void test_without(void **state)
{
        struct place *p = *state;
        struct error err = {0};

        memset(p->data + DIGEST_AT, 0, DIGEST_BYTES);
        assert_int_equal(receive(p, 0, &err), 0);
}

static void expect_refusal(struct place *p)
{
        struct error err = {0};

        assert_int_equal(receive(p, BULK_CHECKED, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "changed on their way"));
        assert_int_equal(image_receiver_pages(p->receiver), 0);
}

static void test_a_bit_of_a_page(void **state)
{
        struct place *p = *state;

        p->data[SIZE - 1] ^= 0x10;
        expect_refusal(p);
}

static void test_where_they_belong(void **state)
{
        struct place *p = *state;

        page_span_put(p->data, &(struct page_span){.vaddr = 0x11000, .n_pages = 1});
        expect_refusal(p);
}

static void test_exchanged_pages(void **state)
{
        struct place *p = *state;
        uint8_t page[PAGE_BYTES];

        memcpy(page, p->data + RUN_TABLE_BYTES, sizeof(page));
        memcpy(p->data + RUN_TABLE_BYTES, p->data + RUN_TABLE_BYTES + PAGE_BYTES, sizeof(page));
        memcpy(p->data + RUN_TABLE_BYTES + PAGE_BYTES, page, sizeof(page));
        expect_refusal(p);
}

static void test_the_digest_itself(void **state)
{
        struct place *p = *state;

        p->data[DIGEST_AT] ^= 1;
        expect_refusal(p);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        const struct CMUnitTest tests[] = {
                T(test_whole),           T(test_without),           T(test_a_bit_of_a_page), T(test_where_they_belong),
                T(test_exchanged_pages), T(test_the_digest_itself),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
