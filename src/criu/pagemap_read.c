/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/fd.h"
#include "criu/pagemap_image.h"
#include "criu/pagemap_writer.h"

/*
 * What was written already is read again, where other pages are equal to it. Through descriptors of its own: what is
 * read lies in another image, as a rule, than what is written at the time.
 */

void pagemap_writer_stop_reading(struct pagemap_writer *writer)
{
        for (size_t i = 0; i < LEVELS_MAX; i++)
                if (writer->read_files[i] >= 0)
                        (void)close(TAKE_FD(writer->read_files[i]));
        writer->reading = NULL;
}

static int file_of(struct pagemap_writer *w, const struct image *image, uint32_t level)
{
        if (w->reading != image)
                pagemap_writer_stop_reading(w);
        w->reading = image;
        if (w->read_files[level] < 0) {
                int fd = pagemap_writer_open_pages(w, image, level, O_RDONLY);
                if (fd < 0)
                        return fd;
                w->read_files[level] = fd;
        }
        return w->read_files[level];
}

static int read_at(int fd, uint8_t *to, size_t size, off_t offset)
{
        for (size_t done = 0; done < size;) {
                ssize_t n = pread(fd, to + done, size - done, offset + (off_t)done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t)n;
        }
        return 0;
}

/* Places that were made for pages which were left on the source are no pages: those are in the index of the rounds, but
 * not settled in it. */
static const struct page_run *find_run(const struct pagemap_writer *w, const struct image *image, uint64_t vaddr)
{
        if (w->round && !w->last)
                return page_index_lookup(&image->index, vaddr);
        const struct page_run *run = page_index_find(&image->index, vaddr);
        return run && run->vaddr <= vaddr ? run : page_index_lookup(&image->dumped, vaddr);
}

int pagemap_writer_read(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint32_t n_pages, uint8_t *ret,
                        struct error *err)
{
        int r = pagemap_writer_check(writer, err);

        if (r < 0)
                return r;
        const struct image *from = pagemap_writer_find(writer, image);
        if (!from || n_pages == 0 || n_pages > PAGE_BATCH_MAX || vaddr % PAGE_BYTES ||
            vaddr > UINT64_MAX - (uint64_t)n_pages * PAGE_BYTES)
                return error_set(err, EBADMSG, "%" PRIu32 " pages like those at 0x%" PRIx64 " of image 0x%" PRIx64,
                                 n_pages, vaddr, image);
        for (uint64_t done = 0, n; r == 0 && done < n_pages; done += n) {
                const uint64_t at = vaddr + done * PAGE_BYTES;
                const struct page_run *run = find_run(writer, from, at);
                if (!run)
                        return error_set(err, EBADMSG,
                                         "pages like one at 0x%" PRIx64 " of image 0x%" PRIx64 ", which never came", at,
                                         image);
                const uint64_t skipped = (at - run->vaddr) / PAGE_BYTES, left = n_pages - done;
                n = run->n_pages - skipped < left ? run->n_pages - skipped : left;
                int fd = file_of(writer, from, run->level);
                r = fd < 0 ? fd
                           : read_at(fd, ret + done * PAGE_BYTES, (size_t)n * PAGE_BYTES,
                                     (off_t)((run->position + skipped) * PAGE_BYTES));
        }
        return r < 0 ? pagemap_writer_failed(writer, r, err) : 0;
}
