/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/pagemap_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "criu/page_index.h"
#include "criu/pagemap_writer.h"

#define GROWTH_BYTES ((off_t)64 << 20)
#define MUCH_PAGES 512U /* where so many came more will, also in smaller pieces */

/* End of user space with five-level page tables; offsets in shared memory are below as well. */
#define ADDRESS_END (UINT64_C(1) << 56)

/* -- small parts -----------------------------------------------------------------------------------------------------
 */

static int compare_images(const void *a, const void *b)
{
        uint64_t x = ((const struct image *)a)->image, y = ((const struct image *)b)->image;

        return x < y ? -1 : x > y;
}

static void keep_node(void *node)
{
        (void)node; /* freed with the list */
}

static int entries_add(struct map_entries *e, uint64_t vaddr, uint64_t n_pages, uint32_t flags)
{
        struct map_entry *latest = e->n ? &e->list[e->n - 1] : NULL;

        if (latest && latest->flags == flags && latest->vaddr + latest->n_pages * PAGE_BYTES == vaddr) {
                latest->n_pages += n_pages;
                return 0;
        }
        if (!e->list || e->n == e->room) {
                size_t room = e->room ? 2 * e->room : 16;
                struct map_entry *grown = reallocarray(e->list, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                e->list = grown;
                e->room = room;
        }
        e->list[e->n++] = (struct map_entry){.vaddr = vaddr, .n_pages = n_pages, .flags = flags};
        return 0;
}

static void close_files(struct pagemap_writer *w)
{
        for (size_t i = 0; i < LEVELS_MAX; i++)
                if (w->files[i] >= 0)
                        (void)close(TAKE_FD(w->files[i]));
        w->current = NULL;
}

void pagemap_writer_free(struct pagemap_writer *writer)
{
        if (!writer)
                return;
        close_files(writer);
        pagemap_writer_stop_reading(writer);
        for (size_t i = 0; i < writer->n_levels; i++)
                if (writer->levels[i].round)
                        (void)close(writer->levels[i].dir_fd);
        tdestroy(writer->tree, keep_node);
        for (struct image *i = writer->first, *next; i; i = next) {
                next = i->next;
                page_index_done(&i->index);
                page_index_done(&i->dumped);
                free(i->last.list);
                free(i->kept.list);
                free(i->left.list);
                free(i);
        }
        free(writer);
}

int pagemap_writer_new(int images_fd, struct pagemap_writer **ret)
{
        struct pagemap_writer *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->images_fd = images_fd;
        for (size_t i = 0; i < LEVELS_MAX; i++)
                w->files[i] = w->read_files[i] = -1;
        *ret = w;
        return 0;
}

uint64_t pagemap_writer_stored(const struct pagemap_writer *writer)
{
        return writer->stored;
}

int pagemap_writer_check(const struct pagemap_writer *w, struct error *err)
{
        if (w->failed)
                return error_errno(err, -w->failed, "cannot write page images");
        if (w->finished)
                return error_set(err, EBADMSG, "pages after their end");
        return 0;
}

int pagemap_writer_failed(struct pagemap_writer *w, int r, struct error *err)
{
        w->failed = r;
        return error_errno(err, -r, "cannot write page images");
}

/* -- levels: the image directory, and before it one for each round that brought something new ------------------------
 */

int pagemap_writer_level(struct pagemap_writer *w)
{
        const unsigned before = w->n_levels ? w->levels[w->n_levels - 1].round : 0;
        struct level level = {.dir_fd = w->images_fd, .round = w->last ? 0 : w->round};
        char name[32], parent[48];

        if (w->n_levels == LEVELS_MAX - (w->last ? 0 : 1))
                return -E2BIG;
        if (level.round) {
                (void)snprintf(name, sizeof(name), "round-%u", level.round);
                if (mkdirat(w->images_fd, name, 0700) < 0)
                        return -errno;
                level.dir_fd = openat(w->images_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (level.dir_fd < 0)
                        return -errno;
        }
        w->levels[w->n_levels++] = level;
        w->level_open = true;
        /* CRIU looks for an image's parent by this name. */
        (void)snprintf(parent, sizeof(parent), "%sround-%u", level.round ? "../" : "", before);
        return before && symlinkat(parent, level.dir_fd, "parent") < 0 ? -errno : 0;
}

static int begin_round(struct pagemap_writer *w)
{
        if (w->room &&
            ftruncate(w->files[w->n_levels - 1], (off_t)(w->current->stored[w->n_levels - 1] * PAGE_BYTES)) < 0)
                return -errno;
        w->room = 0;
        for (struct image *i = w->first; i; i = i->next) {
                int r = page_index_settle(&i->index);
                if (r < 0)
                        return r;
                i->end = 0;
        }
        w->level_open = false;
        return 0;
}

int pagemap_writer_round(struct pagemap_writer *writer, struct error *err)
{
        int r = pagemap_writer_check(writer, err);

        if (r < 0)
                return r;
        if (writer->last || (writer->n_images && !writer->round))
                return error_set(err, EBADMSG, "a round of pages after the rounds");
        writer->round++;
        r = begin_round(writer);
        return r < 0 ? pagemap_writer_failed(writer, r, err) : 0;
}

/* As a round whose pages come when all others are in use. */
static int begin_left(struct pagemap_writer *w)
{
        w->round++;
        int r = pagemap_writer_level(w);
        w->left_level = w->n_levels - (r < 0 ? 0 : 1);
        w->level_open = false;
        return r;
}

void pagemap_writer_expect_left(struct pagemap_writer *writer)
{
        writer->expect_left = true;
}

uint64_t pagemap_writer_left(const struct pagemap_writer *writer)
{
        return writer->n_left;
}

int pagemap_writer_last(struct pagemap_writer *writer, struct error *err)
{
        int r = pagemap_writer_check(writer, err);

        if (r < 0)
                return r;
        if (writer->last || !writer->round)
                return error_set(err, EBADMSG, "the rounds of pages end twice");
        r = begin_round(writer);
        if (r == 0 && writer->expect_left)
                r = begin_left(writer);
        writer->last = true;
        return r < 0 ? pagemap_writer_failed(writer, r, err) : 0;
}

/* -- files -----------------------------------------------------------------------------------------------------------
 */

int pagemap_writer_open_pages(const struct pagemap_writer *w, const struct image *image, uint32_t level, int flags)
{
        char name[32];

        (void)snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", image->pages_id);
        int fd = openat(w->levels[level].dir_fd, name, O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        return fd < 0 ? -errno : fd;
}

int pagemap_writer_close(struct pagemap_writer *w)
{
        const uint32_t level = w->n_levels - 1;
        int r = 0;

        if (w->current && w->room && ftruncate(w->files[level], (off_t)(w->current->stored[level] * PAGE_BYTES)) < 0)
                r = -errno;
        w->room = 0;
        close_files(w);
        return r;
}

static int make_current(struct pagemap_writer *w, struct image *image)
{
        int r = w->current == image ? 0 : pagemap_writer_close(w);

        w->current = image;
        return r;
}

/* The file of the current image in a level, open. */
static int file_of(struct pagemap_writer *w, uint32_t level)
{
        if (w->files[level] < 0) {
                int r = pagemap_writer_open_pages(w, w->current, level,
                                                  O_WRONLY | (w->current->stored[level] ? 0 : O_CREAT | O_EXCL));
                if (r < 0)
                        return r;
                w->files[level] = r;
        }
        return w->files[level];
}

static int write_at(int fd, const uint8_t *data, size_t size, off_t offset)
{
        for (size_t done = 0; done < size;) {
                ssize_t n = pwrite(fd, data + done, size - done, offset + (off_t)done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                done += (size_t)n;
        }
        return 0;
}

/* A hole, where there can be one. Within the file. */
static int write_zeros(int fd, size_t size, off_t offset)
{
        static const uint8_t zeros[PAGE_BYTES];
        int r = 0;

        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)size) == 0)
                return 0;
        for (size_t done = 0; r == 0 && done < size; done += PAGE_BYTES)
                r = write_at(fd, zeros, PAGE_BYTES, offset + (off_t)done);
        return r;
}

/* -- pages -----------------------------------------------------------------------------------------------------------
 */

/* What is here already. Pages: NULL for zeros, here and below. */
static int overwrite(struct pagemap_writer *w, const struct page_run *run, uint64_t vaddr, const uint8_t *pages,
                     uint64_t n)
{
        const uint64_t position = run->position + (vaddr - run->vaddr) / PAGE_BYTES;
        const off_t offset = (off_t)(position * PAGE_BYTES);
        int fd = file_of(w, run->level);

        if (fd < 0)
                return fd;
        return pages ? write_at(fd, pages, n * PAGE_BYTES, offset) : write_zeros(fd, n * PAGE_BYTES, offset);
}

static int append(struct pagemap_writer *w, uint64_t vaddr, const uint8_t *pages, uint64_t n)
{
        int r = w->level_open ? 0 : pagemap_writer_level(w);
        if (r < 0)
                return r;
        const uint32_t level = w->n_levels - 1;
        const struct page_run run = {
                .vaddr = vaddr, .n_pages = n, .position = w->current->stored[level], .level = level};
        const off_t offset = (off_t)(run.position * PAGE_BYTES), size = (off_t)(n * PAGE_BYTES);

        const int fd = file_of(w, level);
        if (fd < 0)
                return fd;
        /* A tmpfs takes huge pages only within the size of a file. Where much is coming, the size goes ahead of it. */
        if ((n == PAGE_BATCH_MAX || run.position >= MUCH_PAGES) && offset + size > w->room) {
                if (ftruncate(fd, offset + GROWTH_BYTES) < 0)
                        return -errno;
                w->room = offset + GROWTH_BYTES;
        }
        if (pages)
                r = write_at(fd, pages, (size_t)size, offset);
        else if (offset + size > w->room && ftruncate(fd, offset + size) < 0) /* behind what there was: a hole */
                r = -errno;
        if (r == 0)
                r = page_index_add(w->round && !w->last ? &w->current->index : &w->current->dumped, &run);
        if (r < 0)
                return r;
        w->current->stored[level] += n;
        w->stored += n;
        return 0;
}

/* Each part of the batch to where it belongs: over what the rounds brought, or behind it. */
static int store(struct pagemap_writer *w, const struct page_batch *b, const uint8_t *pages)
{
        struct image *image = w->current;

        for (uint64_t done = 0, n; done < b->n_pages; done += n) {
                const uint64_t vaddr = b->vaddr + done * PAGE_BYTES;
                const uint8_t *from = pages ? pages + done * PAGE_BYTES : NULL;
                const struct page_run *run = page_index_find(&image->index, vaddr);
                const bool known = run && run->vaddr <= vaddr;
                const uint64_t until = !run ? UINT64_MAX : known ? page_run_end(run) : run->vaddr;
                uint32_t flags = b->flags;

                n = (until - vaddr) / PAGE_BYTES;
                if (n > b->n_pages - done)
                        n = b->n_pages - done;
                int r = known ? overwrite(w, run, vaddr, from, n) : append(w, vaddr, from, n);
                if (known)
                        flags = (flags & ~(uint32_t)PE_PRESENT) | PE_PARENT;
                if (r == 0 && (w->last || !w->round))
                        r = entries_add(&image->last, vaddr, n, flags);
                if (r < 0)
                        return r;
        }
        w->pages += b->n_pages;
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

struct image *pagemap_writer_find(struct pagemap_writer *w, uint64_t number)
{
        const struct image key = {.image = number};
        struct image **node = tfind(&key, &w->tree, compare_images);

        return node ? *node : NULL;
}

/* Found, or made. */
static int image_get(struct pagemap_writer *w, uint64_t number, struct image **ret, struct error *err)
{
        *ret = pagemap_writer_find(w, number);
        if (*ret)
                return 0;
        if (!page_image_is_valid(number))
                return error_set(err, EBADMSG, "page image 0x%" PRIx64 " is of no known type", number);
        if (w->n_images >= PAGEMAP_IMAGES_MAX)
                return error_set(err, EBADMSG, "more than %u page images", PAGEMAP_IMAGES_MAX);
        int r = image_new(w, number, ret);
        return r < 0 ? pagemap_writer_failed(w, r, err) : 0;
}

int pagemap_writer_open(struct pagemap_writer *writer, uint64_t image, struct error *err)
{
        struct image *found;

        int r = pagemap_writer_check(writer, err);
        if (r < 0)
                return r;
        if (writer->round && !writer->last)
                return error_set(err, EBADMSG, "page image 0x%" PRIx64 " opened within a round", image);
        r = image_get(writer, image, &found, err);
        if (r < 0)
                return r;
        if (found->opened)
                return error_set(err, EBADMSG, "page image 0x%" PRIx64 " came twice", image);
        found->opened = true;
        return 0;
}

static int not_opened(const struct page_batch *b, struct error *err)
{
        return error_set(err, EBADMSG, "pages of image 0x%" PRIx64 ", which was not opened", b->image);
}

static int check_batch(const struct pagemap_writer *w, const struct image *image, const struct page_batch *b,
                       bool contents, struct error *err)
{
        const bool present = b->flags & PE_PRESENT, in_round = w->round && !w->last;

        if (!in_round && !image->opened)
                return not_opened(b, err);
        if (in_round && ((image->image & 0xff) != PAGE_IMAGE_TASK || b->flags != PE_PRESENT))
                return error_set(err, EBADMSG, "pages in a round that are not those of a task");
        if (b->n_pages == 0 || b->n_pages > PAGE_BATCH_MAX)
                return error_set(err, EBADMSG, "a batch of %" PRIu32 " pages", b->n_pages);
        if (b->vaddr % PAGE_BYTES || b->vaddr > ADDRESS_END - (uint64_t)b->n_pages * PAGE_BYTES)
                return error_set(err, EBADMSG, "pages of an impossible address 0x%" PRIx64, b->vaddr);
        if (b->flags & PE_PARENT)
                return error_set(err, EBADMSG, "pages of a parent image, and there is none");
        if (b->flags == 0 || b->flags & ~(uint32_t)(PE_LAZY | PE_PRESENT))
                return error_set(err, EBADMSG, "pages with flags 0x%" PRIx32 ", which are not known", b->flags);
        if (present != contents)
                return error_set(err, EBADMSG, "pages without their contents");
        if (b->vaddr < image->end)
                return error_set(err, EBADMSG, "pages at 0x%" PRIx64 " behind what was there already", b->vaddr);
        return 0;
}

static int add(struct pagemap_writer *writer, const struct page_batch *batch, bool contents, const void *pages,
               struct error *err)
{
        const struct page_batch b = *batch;
        struct image *image = writer->current;
        int r = pagemap_writer_check(writer, err);

        if (r < 0)
                return r;
        if (!image || image->image != b.image)
                image = pagemap_writer_find(writer, b.image);
        if (!image && writer->round && !writer->last)
                r = image_get(writer, b.image, &image, err);
        if (r == 0)
                r = image ? check_batch(writer, image, &b, contents, err) : not_opened(&b, err);
        if (r < 0)
                return r;
        r = make_current(writer, image);
        if (r == 0)
                r = contents ? store(writer, &b, pages) : entries_add(&image->last, b.vaddr, b.n_pages, b.flags);
        if (r < 0)
                return pagemap_writer_failed(writer, r, err);
        image->end = b.vaddr + (uint64_t)b.n_pages * PAGE_BYTES;
        return 0;
}

int pagemap_writer_add(struct pagemap_writer *writer, const struct page_batch *batch, const void *pages,
                       struct error *err)
{
        return add(writer, batch, pages != NULL, pages, err);
}

int pagemap_writer_zeros(struct pagemap_writer *writer, const struct page_batch *batch, struct error *err)
{
        return add(writer, batch, true, NULL, err);
}

/* All of it has to be here. */
static bool is_known(const struct image *image, uint64_t vaddr, uint64_t end)
{
        while (vaddr < end) {
                const struct page_run *run = page_index_find(&image->index, vaddr);
                if (!run || run->vaddr > vaddr)
                        return false;
                vaddr = page_run_end(run);
        }
        return true;
}

/* What was left out of the dump of an opened image, by rising address. */
static int check_left_out(struct pagemap_writer *w, uint64_t number, uint64_t vaddr, uint64_t n_pages, bool left,
                          struct image **ret, struct error *err)
{
        int r = pagemap_writer_check(w, err);

        if (r < 0)
                return r;
        struct image *found = pagemap_writer_find(w, number);
        if (!w->last || !found || !found->opened)
                return error_set(err, EBADMSG, "pages left out of image 0x%" PRIx64 ", which is not there", number);
        if (n_pages == 0 || vaddr % PAGE_BYTES || vaddr >= ADDRESS_END || n_pages > (ADDRESS_END - vaddr) / PAGE_BYTES)
                return error_set(err, EBADMSG, "%" PRIu64 " pages left out at 0x%" PRIx64, n_pages, vaddr);
        if (vaddr < (left ? found->left_end : found->kept_end))
                return error_set(err, EBADMSG, "pages left out at 0x%" PRIx64 " behind others", vaddr);
        *ret = found;
        return 0;
}

int pagemap_writer_keep(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint64_t n_pages,
                        struct error *err)
{
        const uint64_t end = vaddr + n_pages * PAGE_BYTES;
        struct image *found;

        int r = check_left_out(writer, image, vaddr, n_pages, false, &found, err);
        if (r < 0)
                return r;
        if (!is_known(found, vaddr, end))
                return error_set(err, EBADMSG, "pages to be kept at 0x%" PRIx64 " never came", vaddr);
        r = entries_add(&found->kept, vaddr, n_pages, PE_PARENT);
        if (r < 0)
                return pagemap_writer_failed(writer, r, err);
        found->kept_end = end;
        return 0;
}

/* Those that no round has brought get places of their own. */
static int make_places(struct pagemap_writer *w, struct image *image, uint64_t vaddr, uint64_t end)
{
        int r = 0;

        while (r == 0 && vaddr < end) {
                const struct page_run *run = page_index_find(&image->index, vaddr);
                const bool known = run && run->vaddr <= vaddr;
                uint64_t until = !run ? end : known ? page_run_end(run) : run->vaddr;
                until = until < end ? until : end;
                if (!known) {
                        const struct page_run new = {.vaddr = vaddr,
                                                     .n_pages = (until - vaddr) / PAGE_BYTES,
                                                     .position = image->stored[w->left_level],
                                                     .level = w->left_level};
                        r = page_index_add(&image->index, &new);
                        image->stored[w->left_level] += new.n_pages;
                        w->stored += new.n_pages;
                }
                vaddr = until;
        }
        return r;
}

int pagemap_writer_leave(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint64_t n_pages,
                         struct error *err)
{
        const uint64_t end = vaddr + n_pages * PAGE_BYTES;
        struct image *found;

        int r = check_left_out(writer, image, vaddr, n_pages, true, &found, err);
        if (r < 0)
                return r;
        if (!writer->expect_left || (image & 0xff) != PAGE_IMAGE_TASK)
                return error_set(err, EBADMSG, "pages at 0x%" PRIx64 " were left on the source, unasked", vaddr);
        r = make_places(writer, found, vaddr, end);
        if (r == 0)
                r = entries_add(&found->left, vaddr, n_pages, PE_PARENT | MAP_LEFT);
        if (r < 0)
                return pagemap_writer_failed(writer, r, err);
        found->left_end = end;
        writer->n_left += n_pages;
        return 0;
}
