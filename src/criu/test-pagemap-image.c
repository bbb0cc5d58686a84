/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Page images as CRIU writes them, byte by byte, and everything that must not become one. That CRIU reads them is shown
 * by tests/criu.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "criu/pagemap_image.h"

#define TASK(pid) PAGE_IMAGE(PAGE_IMAGE_TASK, pid)
#define SHMEM(id) PAGE_IMAGE(PAGE_IMAGE_SHMEM, id)

struct story {
        char directory[32];
        int directory_fd;
        struct pagemap_writer *writer;
        uint8_t pages[PAGE_BATCH_MAX * PAGE_BYTES];
        struct error err;
};

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/pagemap-test-XXXXXX");
        if (!mkdtemp(s->directory))
                return -1;
        s->directory_fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = s;
        return s->directory_fd < 0 ? -1 : pagemap_writer_new(s->directory_fd, &s->writer);
}

static int teardown(void **state)
{
        struct story *s = *state;

        pagemap_writer_free(s->writer);
        (void)close(s->directory_fd);
        (void)fd_remove_tree(AT_FDCWD, s->directory, NULL);
        free(s);
        return 0;
}

static int add(struct story *s, uint64_t image, uint64_t vaddr, uint32_t n, uint32_t flags)
{
        const struct page_batch batch = {image, vaddr, n, flags};

        error_clear(&s->err);
        for (uint32_t i = 0; i < n && i < PAGE_BATCH_MAX; i++)
                memset(s->pages + (size_t)i * PAGE_BYTES, (int)((vaddr / PAGE_BYTES + i) & 0xff), PAGE_BYTES);
        return pagemap_writer_add(s->writer, &batch, flags & PE_PRESENT ? s->pages : NULL, &s->err);
}

static void expect_file(const struct story *s, const char *name, const uint8_t *data, size_t size)
{
        AUTO_FREE char *text = NULL;
        size_t length;

        assert_int_equal(fd_read_file(s->directory_fd, name, 1 << 20, &text, &length), 0);
        assert_int_equal(length, size);
        assert_memory_equal(text, data, size);
}

static void test_two_images_that_interleave(void **state)
{
        struct story *s = *state;
        uint64_t pages;
        static const uint8_t task[] = {
                0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56,                      /* magics */
                2,    0,    0,    0,    0x08, 1,                                     /* head: pages-1.img */
                8,    0,    0,    0,    0x08, 0x80, 0x80, 0x04, 0x10, 3,    0x20, 4, /* 0x10000: joined from three
                                                                                        batches */
                8,    0,    0,    0,    0x08, 0x80, 0xe0, 0x04, 0x10, 1,    0x20, 6, /* 0x13000: other flags */
                8,    0,    0,    0,    0x08, 0x80, 0x80, 0x05, 0x10, 2,    0x20, 2, /* 0x14000: no contents */
                13,   0,    0,    0,    0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0xe0, 0x1f, 0x10,
                0xfe, 0x03, 0x20, 4, /* 510 pages */
        };
        static const uint8_t shmem[] = {0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2,    0, 0,    0,
                                        0x08, 2,    6,    0,    0,    0,    0x08, 0,    0x10, 1, 0x20, 4};

        assert_int_equal(pagemap_writer_open(s->writer, TASK(42), &s->err), 0);
        assert_int_equal(add(s, TASK(42), 0x10000, 1, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(42), 0x11000, 1, PE_PRESENT), 0);
        assert_int_equal(pagemap_writer_open(s->writer, SHMEM(UINT64_C(0xffffffffff)), &s->err), 0);
        assert_int_equal(add(s, SHMEM(UINT64_C(0xffffffffff)), 0, 1, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(42), 0x12000, 1, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(42), 0x13000, 1, PE_PRESENT | PE_LAZY), 0);
        assert_int_equal(add(s, TASK(42), 0x14000, 2, PE_LAZY), 0);
        assert_int_equal(add(s, TASK(42), 0x7f0000000000, 255, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(42), 0x7f00000ff000, 255, PE_PRESENT), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 5 + 510);
        expect_file(s, "pagemap-42.img", task, sizeof(task));
        expect_file(s, "pagemap-shmem-1099511627775.img", shmem, sizeof(shmem));

        AUTO_FREE char *data = NULL;
        size_t size;
        assert_int_equal(fd_read_file(s->directory_fd, "pages-1.img", 4 << 20, &data, &size), 0);
        assert_int_equal(size, (4 + 510) * PAGE_BYTES);
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal((uint8_t)data[i * PAGE_BYTES + 7], 0x10 + i);
        for (unsigned i = 0; i < 510; i++)
                assert_int_equal((uint8_t)data[(4 + i) * PAGE_BYTES + 4095], i & 0xff);
}

/* More entries than fit into the buffer at once. */
static void test_many_entries(void **state)
{
        struct story *s = *state;
        uint64_t pages;
        struct stat st;

        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), 0);
        for (uint64_t i = 0; i < 20000; i++)
                assert_int_equal(add(s, TASK(1), UINT64_C(0x7f0000000000) + i * 0x2000, 1, PE_LAZY), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 0);
        assert_int_equal(fstatat(s->directory_fd, "pagemap-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, 14 + 20000 * 16);
}

static void test_lies_are_refused(void **state)
{
        struct story *s = *state;
        const struct page_batch no_data = {TASK(1), 0x1000000, 1, PE_PRESENT};
        uint64_t pages;

        assert_int_equal(pagemap_writer_open(s->writer, 0, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(0), &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(1 << 23), &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_open(s->writer, PAGE_IMAGE(7, 1), &s->err), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, 1, PE_PRESENT), -EBADMSG); /* not opened */
        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), -EBADMSG); /* twice */
        assert_int_equal(add(s, TASK(1), 0x1000, 0, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, PAGE_BATCH_MAX + 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1001, 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), UINT64_C(1) << 56, 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), (UINT64_C(1) << 56) - 4096, 2, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, 1, 0), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, 1, PE_PRESENT | PE_PARENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, 1, PE_PRESENT | 8), -EBADMSG);
        assert_int_equal(pagemap_writer_add(s->writer, &no_data, NULL, &s->err), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x5000, 2, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(1), 0x6000, 1, PE_PRESENT), -EBADMSG); /* overlaps */
        assert_int_equal(add(s, TASK(1), 0x1000, 1, PE_PRESENT), -EBADMSG); /* goes back */
        /* None of it left a trace. */
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 2);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(2), &s->err), -EBADMSG); /* after the end */
}

/* A file's size goes ahead of what is written to it while much is coming; in the end it is what was written. */
static void test_large_images_end_where_their_pages_do(void **state)
{
        struct story *s = *state;
        struct stat st;
        uint64_t pages;
        uint8_t last[PAGE_BYTES];

        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), 0);
        for (uint64_t i = 0; i < 70; i++)
                assert_int_equal(add(s, TASK(1), i * PAGE_BATCH_MAX * PAGE_BYTES, PAGE_BATCH_MAX, PE_PRESENT), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(2), &s->err), 0);
        assert_int_equal(add(s, TASK(2), 0x1000, 1, PE_PRESENT), 0);
        assert_int_equal(fstatat(s->directory_fd, "pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, 70 * PAGE_BATCH_MAX * PAGE_BYTES);
        /* And on it goes. */
        assert_int_equal(add(s, TASK(1), UINT64_C(0x100000000), PAGE_BATCH_MAX, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(1), UINT64_C(0x200000000), 1, PE_PRESENT), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 71 * PAGE_BATCH_MAX + 2);
        assert_int_equal(fstatat(s->directory_fd, "pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, (71 * PAGE_BATCH_MAX + 1) * PAGE_BYTES);
        AUTO_FD int fd = openat(s->directory_fd, "pages-1.img", O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, last, sizeof(last), st.st_size - PAGE_BYTES), PAGE_BYTES);
        assert_int_equal(last[0], (0x200000000 / PAGE_BYTES) & 0xff);
        assert_int_equal(pread(fd, last, sizeof(last), (off_t)69 * PAGE_BATCH_MAX * PAGE_BYTES), PAGE_BYTES);
        assert_int_equal(last[0], (69 * PAGE_BATCH_MAX) & 0xff);
}

static void test_a_file_that_exists_is_never_written_to(void **state)
{
        struct story *s = *state;

        assert_int_equal(symlinkat("/etc/passwd", s->directory_fd, "pages-1.img"), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(9), &s->err), 0);
        assert_int_equal(add(s, TASK(9), 0x1000, 1, PE_PRESENT), -EEXIST);
        /* A writer that failed stays failed: its files have holes. */
        assert_int_equal(pagemap_writer_open(s->writer, TASK(10), &s->err), -EEXIST);
}

static void test_nor_is_a_pagemap(void **state)
{
        struct story *s = *state;
        uint64_t pages;

        assert_int_equal(symlinkat("/etc/passwd", s->directory_fd, "pagemap-9.img"), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(9), &s->err), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), -EEXIST);
}

/* -- rounds ------------------------------------------------------------------------------------------------------- */

/* The page at `vaddr` in a file of pages is the one that add() made of it, in its `turn`th edition. */
static void expect_page(const struct story *s, const char *name, unsigned position, uint64_t vaddr, int turn)
{
        AUTO_FD int fd = openat(s->directory_fd, name, O_RDONLY | O_CLOEXEC);
        uint8_t page[PAGE_BYTES];

        assert_true(fd >= 0);
        assert_int_equal(pread(fd, page, sizeof(page), (off_t)position * PAGE_BYTES), PAGE_BYTES);
        assert_int_equal(page[0], (vaddr / PAGE_BYTES) & 0xff);
        assert_int_equal(page[PAGE_BYTES - 1], turn ? turn : page[0]);
}

static int add_turn(struct story *s, uint64_t image, uint64_t vaddr, uint32_t n, int turn)
{
        const struct page_batch batch = {image, vaddr, n, PE_PRESENT};

        for (uint32_t i = 0; i < n; i++) {
                memset(s->pages + (size_t)i * PAGE_BYTES, (int)((vaddr / PAGE_BYTES + i) & 0xff), PAGE_BYTES);
                s->pages[(i + 1) * PAGE_BYTES - 1] = (uint8_t)turn;
        }
        return pagemap_writer_add(s->writer, &batch, s->pages, &s->err);
}

static void expect_link(const struct story *s, const char *name, const char *target)
{
        char text[64];
        ssize_t n = readlinkat(s->directory_fd, name, text, sizeof(text) - 1);

        assert_true(n > 0);
        text[n] = '\0';
        assert_string_equal(text, target);
}

static void test_rounds_write_in_place_and_are_parents(void **state)
{
        struct story *s = *state;
        uint64_t pages;
        struct stat st;
        static const uint8_t first[] = {0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2,    0, 0,    0,
                                        0x08, 1, /* four pages at 0x10000 */
                                        8,    0,    0,    0,    0x08, 0x80, 0x80, 0x04, 0x10, 4, 0x20, 4};
        static const uint8_t third[] = {
                0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2,    0, 0,    0, 0x08, 1, /* those are the parent's,
                                                                                              two more are here */
                8,    0,    0,    0,    0x08, 0x80, 0x80, 0x04, 0x10, 4, 0x20, 1, 8,    0, 0,
                0,    0x08, 0x80, 0x80, 0x05, 0x10, 2,    0x20, 4};
        static const uint8_t last[] = {0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2,    0, 0,    0,
                                       0x08, 1, /* 0x10000 was unmapped; 0x11000 to 0x13fff, 0x15000, and a new one */
                                       8,    0,    0,    0,    0x08, 0x80, 0xa0, 0x04, 0x10, 3, 0x20, 1,
                                       8,    0,    0,    0,    0x08, 0x80, 0xa0, 0x05, 0x10, 1, 0x20, 1,
                                       8,    0,    0,    0,    0x08, 0x80, 0xc0, 0x05, 0x10, 1, 0x20, 4};

        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x10000, 4, 1), 0);
        assert_int_equal(add_turn(s, TASK(43), 0x10000, 1, 1), 0); /* ends before the freeze */
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x11000, 2, 2), 0);
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x12000, 4, 3), 0); /* half of it is new */
        assert_int_equal(pagemap_writer_last(s->writer, &s->err), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(42), &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x12000, 1, 4), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x16000, 1, 4), 0);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(42), 0x11000, 1, &s->err), 0);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(42), 0x13000, 1, &s->err), 0);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(42), 0x15000, 1, &s->err), 0);
        assert_int_equal(pagemap_writer_stored(s->writer), 4 + 1 + 2 + 1);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 5 + 2 + 4 + 2);
        assert_int_equal(pagemap_writer_stored(s->writer), 4 + 2 + 1);

        expect_file(s, "round-1/pagemap-42.img", first, sizeof(first));
        expect_file(s, "round-3/pagemap-42.img", third, sizeof(third));
        expect_file(s, "pagemap-42.img", last, sizeof(last));
        expect_link(s, "parent", "round-3");
        expect_link(s, "round-3/parent", "../round-1");
        assert_int_equal(fstatat(s->directory_fd, "round-2", &st, 0), -1); /* it brought nothing new */
        assert_int_equal(fstatat(s->directory_fd, "pagemap-43.img", &st, 0), -1);
        assert_int_equal(fstatat(s->directory_fd, "round-1/pages-2.img", &st, 0), -1); /* nor what there was of it */
        expect_page(s, "round-1/pages-1.img", 0, 0x10000, 1);
        expect_page(s, "round-1/pages-1.img", 1, 0x11000, 2);
        expect_page(s, "round-1/pages-1.img", 2, 0x12000, 4);
        expect_page(s, "round-1/pages-1.img", 3, 0x13000, 3);
        expect_page(s, "round-3/pages-1.img", 1, 0x15000, 3);
        expect_page(s, "pages-1.img", 0, 0x16000, 4);
}

/* A page that is kept without ever having come would be restored as whatever lies there. */
static void test_lies_about_rounds_are_refused(void **state)
{
        struct story *s = *state;
        uint64_t pages;

        assert_int_equal(pagemap_writer_last(s->writer, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x1000, 1, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), -EBADMSG);
        assert_int_equal(add(s, SHMEM(1), 0x1000, 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x1000, 1, PE_PRESENT | PE_LAZY), -EBADMSG);
        assert_int_equal(add(s, TASK(0), 0x1000, 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(add(s, TASK(1), 0x5000, 2, PE_PRESENT), 0);
        assert_int_equal(add(s, TASK(1), 0x6000, 1, PE_PRESENT), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5000, 1, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_last(s->writer, &s->err), 0);
        assert_int_equal(pagemap_writer_last(s->writer, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5000, 1, &s->err), -EBADMSG); /* not opened */
        assert_int_equal(pagemap_writer_open(s->writer, TASK(1), &s->err), 0);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x4000, 1, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x6000, 2, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5001, 1, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5000, 0, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5000, UINT64_MAX, &s->err), -EBADMSG);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x6000, 1, &s->err), 0);
        assert_int_equal(pagemap_writer_keep(s->writer, TASK(1), 0x5000, 1, &s->err), -EBADMSG);
        /* Dumped and left out. */
        assert_int_equal(add(s, TASK(1), 0x6000, 1, PE_PRESENT), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), -EBADMSG);
}

/* -- zeros, and what is read again -------------------------------------------------------------------------------- */

static int add_zeros(struct story *s, uint64_t image, uint64_t vaddr, uint32_t n)
{
        return pagemap_writer_zeros(s->writer, &(struct page_batch){image, vaddr, n, PE_PRESENT}, &s->err);
}

static void expect_zeros(const struct story *s, const char *name, unsigned position)
{
        static const uint8_t zeros[PAGE_BYTES];
        AUTO_FD int fd = openat(s->directory_fd, name, O_RDONLY | O_CLOEXEC);
        uint8_t page[PAGE_BYTES];

        assert_int_equal(pread(fd, page, sizeof(page), (off_t)position * PAGE_BYTES), PAGE_BYTES);
        assert_memory_equal(page, zeros, sizeof(page));
}

static void test_zeros_before_between_over_and_behind_others(void **state)
{
        struct story *s = *state;
        uint64_t pages;
        struct stat st;

        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_zeros(s, TASK(42), 0x10000, 2), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x12000, 3, 1), 0);
        assert_int_equal(add_zeros(s, TASK(42), 0x15000, PAGE_BATCH_MAX), 0); /* beyond it a file's size goes ahead */
        assert_int_equal(add_zeros(s, TASK(42), 0x20000000, 1), 0);
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x11000, 1, 2), 0);
        assert_int_equal(add_zeros(s, TASK(42), 0x13000, 1), 0);
        assert_int_equal(pagemap_writer_last(s->writer, &s->err), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(42), &s->err), 0);
        assert_int_equal(add_zeros(s, TASK(42), 0x14000, 1), 0);
        assert_int_equal(add_zeros(s, TASK(42), 0x30000000, 1), 0);
        assert_int_equal(pagemap_writer_finish(s->writer, &pages, &s->err), 0);
        assert_int_equal(pages, 6 + PAGE_BATCH_MAX + 4);
        assert_int_equal(fstatat(s->directory_fd, "round-1/pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, (6 + PAGE_BATCH_MAX) * PAGE_BYTES);
        assert_int_equal(fstatat(s->directory_fd, "pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, PAGE_BYTES);
        expect_zeros(s, "round-1/pages-1.img", 0);
        expect_page(s, "round-1/pages-1.img", 1, 0x11000, 2);
        expect_page(s, "round-1/pages-1.img", 2, 0x12000, 1);
        for (unsigned i = 3; i < 6 + PAGE_BATCH_MAX; i++)
                expect_zeros(s, "round-1/pages-1.img", i);
        expect_zeros(s, "pages-1.img", 0);
}

static int read_page(struct story *s, uint64_t image, uint64_t vaddr, uint32_t n)
{
        return pagemap_writer_read(s->writer, image, vaddr, n, s->pages, &s->err);
}

static void expect_read(struct story *s, uint64_t vaddr, int turn)
{
        if (read_page(s, TASK(42), vaddr, 1) < 0)
                fail_msg("%s", s->err.text);
        assert_int_equal(s->pages[0], (vaddr / PAGE_BYTES) & 0xff);
        assert_int_equal(s->pages[PAGE_BYTES - 1], turn);
}

/* What is there now: of this round, of one before, written over, dumped. */
static void test_what_was_written_can_be_read(void **state)
{
        struct story *s = *state;

        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x10000, 4, 1), 0);
        expect_read(s, 0x13000, 1);
        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x11000, 1, 2), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x14000, 1, 2), 0);
        assert_int_equal(add_turn(s, TASK(43), 0x10000, 1, 9), 0);
        expect_read(s, 0x10000, 1);
        expect_read(s, 0x11000, 2);
        assert_int_equal(read_page(s, TASK(42), 0x10000, 5), 0); /* out of two files */
        assert_int_equal(s->pages[5 * PAGE_BYTES - 1], 2);
        assert_int_equal(s->pages[3 * PAGE_BYTES - 1], 1);
        pagemap_writer_expect_left(s->writer);
        assert_int_equal(pagemap_writer_last(s->writer, &s->err), 0);
        assert_int_equal(pagemap_writer_open(s->writer, TASK(42), &s->err), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x12000, 1, 3), 0);
        assert_int_equal(add_turn(s, TASK(42), 0x20000, 1, 3), 0);
        expect_read(s, 0x12000, 3);
        expect_read(s, 0x20000, 3);
        expect_read(s, 0x13000, 1);
        /* A place for what stayed on the source has nothing in it. */
        assert_int_equal(pagemap_writer_leave(s->writer, TASK(42), 0x30000, 1, &s->err), 0);
        assert_int_equal(read_page(s, TASK(42), 0x30000, 1), -EBADMSG);
}

static void test_what_never_came_cannot_be_read(void **state)
{
        struct story *s = *state;

        assert_int_equal(pagemap_writer_round(s->writer, &s->err), 0);
        assert_int_equal(read_page(s, TASK(42), 0x10000, 1), -EBADMSG);
        assert_int_equal(add_turn(s, TASK(42), 0x10000, 4, 1), 0);
        assert_int_equal(read_page(s, TASK(42), 0x14000, 1), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), 0x12000, 3), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), 0xf000, 2), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), 0x10001, 1), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), 0x10000, 0), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), 0x10000, PAGE_BATCH_MAX + 1), -EBADMSG);
        assert_int_equal(read_page(s, TASK(42), UINT64_MAX - PAGE_BYTES + 1, 2), -EBADMSG);
        assert_int_equal(read_page(s, TASK(43), 0x10000, 1), -EBADMSG);
        assert_int_equal(read_page(s, SHMEM(42), 0x10000, 1), -EBADMSG);
        /* Nothing of that has broken anything. */
        expect_read(s, 0x10000, 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_two_images_that_interleave, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_entries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_are_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_large_images_end_where_their_pages_do, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_file_that_exists_is_never_written_to, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nor_is_a_pagemap, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rounds_write_in_place_and_are_parents, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_about_rounds_are_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_zeros_before_between_over_and_behind_others, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_was_written_can_be_read, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_never_came_cannot_be_read, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
