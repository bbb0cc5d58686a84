/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/pagemap_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

/* criu/include/magic.h: every image but the inventory begins with the first, then its own. Little-endian words. */
#define MAGIC_COMMON 0x54564319U
#define MAGIC_PAGEMAP 0x56084025U

/*
 * images/pagemap.proto. nr_pages was field 2 as u32 until 4.1.1; 4.2 writes 64 bits as field 5 and still reads field 2,
 * so field 2 alone suits both, as long as an entry is kept below ENTRY_PAGES_MAX (4 TiB).
 */
enum { HEAD_PAGES_ID = 1 };
enum { ENTRY_VADDR = 1, ENTRY_NR_PAGES = 2, ENTRY_FLAGS = 4 };
#define ENTRY_PAGES_MAX (1U << 30)

/* One entry: size word, three fields of one byte tag and varints of at most 10, 5 and 5 bytes. */
#define ENTRY_BYTES_MAX (4 + 3 + 10 + 5 + 5)
#define BUFFER_BYTES (64U * 1024)
#define GROWTH_BYTES ((off_t)64 << 20)

/* End of user space with five-level page tables; offsets in shared memory are below as well. */
#define ADDRESS_END (UINT64_C(1) << 56)

struct image {
        uint64_t image;
        uint32_t pages_id;
        uint64_t end;             /* first address not yet covered */
        uint64_t pages;           /* stored in pages-N.img */
        struct page_batch latest; /* entry still growing; n_pages 0: none */
        struct image *next;
};

struct pagemap_writer {
        int images_fd;
        void *tree;          /* struct image by number */
        struct image *first; /* list of all of them */
        uint32_t n_images;
        struct image *current; /* whose files are open: */
        int pagemap_fd, pages_fd;
        off_t room;      /* size of the file of pages, when it is ahead of what is in it; else 0 */
        uint8_t *buffer; /* entries of `current` that were not written yet */
        size_t used;
        uint64_t pages;
        bool finished;
        int failed; /* sticky: negative errno of a write that failed */
};

static int compare_images(const void *a, const void *b)
{
        uint64_t x = ((const struct image *)a)->image, y = ((const struct image *)b)->image;

        return x < y ? -1 : x > y;
}

static void keep_node(void *node)
{
        (void)node; /* freed with the list */
}

static void close_files(struct pagemap_writer *w)
{
        if (w->pagemap_fd >= 0)
                (void)close(TAKE_FD(w->pagemap_fd));
        if (w->pages_fd >= 0)
                (void)close(TAKE_FD(w->pages_fd));
        w->current = NULL;
}

void pagemap_writer_free(struct pagemap_writer *writer)
{
        if (!writer)
                return;
        close_files(writer);
        tdestroy(writer->tree, keep_node);
        for (struct image *i = writer->first, *next; i; i = next) {
                next = i->next;
                free(i);
        }
        free(writer->buffer);
        free(writer);
}

int pagemap_writer_new(int images_fd, struct pagemap_writer **ret)
{
        CLEANUP(pagemap_writer_free_ptr) struct pagemap_writer *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->images_fd = images_fd;
        w->pagemap_fd = w->pages_fd = -1;
        w->buffer = malloc(BUFFER_BYTES);
        if (!w->buffer)
                return -ENOMEM;
        *ret = TAKE_PTR(w);
        return 0;
}

static void put_word(struct pagemap_writer *w, uint32_t v)
{
        for (int shift = 0; shift < 32; shift += 8)
                w->buffer[w->used++] = (uint8_t)(v >> shift);
}

/* A protobuf field of wire type 0. */
static size_t put_field(uint8_t *to, unsigned number, uint64_t value)
{
        size_t n = 0;

        to[n++] = (uint8_t)(number << 3);
        for (; value >= 0x80; value >>= 7)
                to[n++] = (uint8_t)(value | 0x80);
        to[n++] = (uint8_t)value;
        return n;
}

static int flush_buffer(struct pagemap_writer *w)
{
        int r = w->used ? fd_write_all(w->pagemap_fd, w->buffer, w->used) : 0;

        w->used = 0;
        return r;
}

/* Moves the growing entry of the current image into the buffer. */
static int flush_entry(struct pagemap_writer *w, struct page_batch *e)
{
        uint8_t body[ENTRY_BYTES_MAX];
        size_t n = 0;

        if (e->n_pages == 0)
                return 0;
        if (w->used + ENTRY_BYTES_MAX > BUFFER_BYTES) {
                int r = flush_buffer(w);
                if (r < 0)
                        return r;
        }
        n += put_field(body + n, ENTRY_VADDR, e->vaddr);
        n += put_field(body + n, ENTRY_NR_PAGES, e->n_pages);
        n += put_field(body + n, ENTRY_FLAGS, e->flags);
        put_word(w, (uint32_t)n);
        memcpy(w->buffer + w->used, body, n);
        w->used += n;
        e->n_pages = 0;
        return 0;
}

static int leave_current(struct pagemap_writer *w)
{
        int r = 0;

        if (w->current) {
                r = flush_entry(w, &w->current->latest);
                if (r == 0)
                        r = flush_buffer(w);
                if (r == 0 && w->room && ftruncate(w->pages_fd, (off_t)(w->current->pages * PAGE_BYTES)) < 0)
                        r = -errno;
        }
        w->room = 0;
        close_files(w);
        return r;
}

static int open_files(struct pagemap_writer *w, struct image *image, bool new)
{
        int flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW | (new ? O_CREAT | O_EXCL : 0);
        const char *kind = (image->image & 0xff) == PAGE_IMAGE_SHMEM ? "shmem-" : "";
        char name[64];

        int r = leave_current(w);
        if (r < 0)
                return r;
        (void)snprintf(name, sizeof(name), "pagemap-%s%" PRIu64 ".img", kind, image->image >> 8);
        w->pagemap_fd = openat(w->images_fd, name, flags | O_APPEND, 0600);
        if (w->pagemap_fd < 0)
                return -errno;
        (void)snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", image->pages_id);
        w->pages_fd = openat(w->images_fd, name, flags, 0600);
        if (w->pages_fd < 0) {
                r = -errno;
                close_files(w);
                return r;
        }
        w->current = image;
        return 0;
}

static int image_new(struct pagemap_writer *w, uint64_t number, struct image **ret)
{
        struct image *image = calloc(1, sizeof(*image));

        if (!image)
                return -ENOMEM;
        image->image = number;
        if (!tsearch(image, &w->tree, compare_images)) {
                free(image);
                return -ENOMEM;
        }
        image->next = w->first;
        w->first = image;
        image->pages_id = ++w->n_images;
        *ret = image;
        return 0;
}

static struct image *image_find(struct pagemap_writer *w, uint64_t number)
{
        const struct image key = {.image = number};
        struct image **node = tfind(&key, &w->tree, compare_images);

        return node ? *node : NULL;
}

static int check_state(const struct pagemap_writer *w, struct error *err)
{
        if (w->failed)
                return error_errno(err, -w->failed, "cannot write page images");
        if (w->finished)
                return error_set(err, EBADMSG, "pages after their end");
        return 0;
}

static int write_failed(struct pagemap_writer *w, int r, struct error *err)
{
        w->failed = r;
        return error_errno(err, -r, "cannot write page images");
}

int pagemap_writer_open(struct pagemap_writer *writer, uint64_t image, struct error *err)
{
        struct image *new = NULL;
        uint8_t head[16];

        int r = check_state(writer, err);
        if (r < 0)
                return r;
        if (!page_image_is_valid(image))
                return error_set(err, EBADMSG, "page image 0x%" PRIx64 " is of no known type", image);
        if (image_find(writer, image))
                return error_set(err, EBADMSG, "page image 0x%" PRIx64 " came twice", image);
        if (writer->n_images >= PAGEMAP_IMAGES_MAX)
                return error_set(err, EBADMSG, "more than %u page images", PAGEMAP_IMAGES_MAX);

        r = image_new(writer, image, &new);
        if (r == 0)
                r = open_files(writer, new, true);
        if (r < 0)
                return write_failed(writer, r, err);
        put_word(writer, MAGIC_COMMON);
        put_word(writer, MAGIC_PAGEMAP);
        size_t n = put_field(head, HEAD_PAGES_ID, new->pages_id);
        put_word(writer, (uint32_t)n);
        memcpy(writer->buffer + writer->used, head, n);
        writer->used += n;
        return 0;
}

static int check_batch(const struct image *image, const struct page_batch *b, const void *pages, struct error *err)
{
        bool present = b->flags & PE_PRESENT;

        if (!image)
                return error_set(err, EBADMSG, "pages of image 0x%" PRIx64 ", which was not opened", b->image);
        if (b->n_pages == 0 || b->n_pages > PAGE_BATCH_MAX)
                return error_set(err, EBADMSG, "a batch of %" PRIu32 " pages", b->n_pages);
        if (b->vaddr % PAGE_BYTES || b->vaddr > ADDRESS_END - (uint64_t)b->n_pages * PAGE_BYTES)
                return error_set(err, EBADMSG, "pages of an impossible address 0x%" PRIx64, b->vaddr);
        if (b->flags & PE_PARENT)
                return error_set(err, EBADMSG, "pages of a parent image, and there is none");
        if (b->flags == 0 || b->flags & ~(uint32_t)(PE_LAZY | PE_PRESENT))
                return error_set(err, EBADMSG, "pages with flags 0x%" PRIx32 ", which are not known", b->flags);
        if (present != !!pages)
                return error_set(err, EBADMSG, "pages without their contents");
        if (b->vaddr < image->end)
                return error_set(err, EBADMSG, "pages at 0x%" PRIx64 " behind what was there already", b->vaddr);
        return 0;
}

static int append_pages(struct pagemap_writer *w, const struct image *image, const void *pages, size_t size)
{
        off_t offset = (off_t)(image->pages * PAGE_BYTES);

        /* A tmpfs takes huge pages only within the size of a file. Where much is coming, the size goes ahead of it. */
        if (size == (size_t)PAGE_BATCH_MAX * PAGE_BYTES && offset + (off_t)size > w->room) {
                if (ftruncate(w->pages_fd, offset + GROWTH_BYTES) < 0)
                        return -errno;
                w->room = offset + GROWTH_BYTES;
        }
        for (size_t done = 0; done < size;) {
                ssize_t n = pwrite(w->pages_fd, (const uint8_t *)pages + done, size - done, offset + (off_t)done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                done += (size_t)n;
        }
        return 0;
}

static int append_entry(struct pagemap_writer *w, struct image *image, const struct page_batch *b)
{
        struct page_batch *e = &image->latest;
        bool continues = e->n_pages > 0 && e->flags == b->flags &&
                         e->vaddr + (uint64_t)e->n_pages * PAGE_BYTES == b->vaddr &&
                         e->n_pages <= ENTRY_PAGES_MAX - b->n_pages;

        if (continues) {
                e->n_pages += b->n_pages;
                return 0;
        }
        int r = flush_entry(w, e);
        if (r < 0)
                return r;
        *e = *b;
        return 0;
}

int pagemap_writer_add(struct pagemap_writer *writer, const struct page_batch *batch, const void *pages,
                       struct error *err)
{
        const struct page_batch b = *batch;
        int r = check_state(writer, err);

        if (r < 0)
                return r;
        struct image *image =
                writer->current && writer->current->image == b.image ? writer->current : image_find(writer, b.image);
        r = check_batch(image, &b, pages, err);
        if (r < 0)
                return r;
        if (image != writer->current)
                r = open_files(writer, image, false);
        if (r == 0 && b.flags & PE_PRESENT)
                r = append_pages(writer, image, pages, (size_t)b.n_pages * PAGE_BYTES);
        if (r == 0)
                r = append_entry(writer, image, &b);
        if (r < 0)
                return write_failed(writer, r, err);
        if (b.flags & PE_PRESENT) {
                image->pages += b.n_pages;
                writer->pages += b.n_pages;
        }
        image->end = b.vaddr + (uint64_t)b.n_pages * PAGE_BYTES;
        return 0;
}

int pagemap_writer_finish(struct pagemap_writer *writer, uint64_t *ret_pages, struct error *err)
{
        int r = check_state(writer, err);

        if (r < 0)
                return r;
        r = leave_current(writer);
        if (r < 0)
                return write_failed(writer, r, err);
        writer->finished = true;
        *ret_pages = writer->pages;
        return 0;
}
