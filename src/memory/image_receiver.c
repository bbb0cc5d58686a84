/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/name.h"
#include "criu/lazy_areas.h"
#include "memory/image_stream.h"

struct image_receiver {
        int images_fd;
        struct pagemap_writer *writer;
        struct lazy_areas *areas;
        struct error lazy_failure;
        bool lazy, unshare;        /* memory may come late; also what tasks share by copy on write */
        uint64_t max_bytes, bytes; /* the limit on what is stored; all that came */
        uint64_t file_bytes;
        bool checked; /* pages bear a digest */
        uint64_t rounds;
        uint64_t frames, pages;
        struct page_hash *hash; /* of pieces; made with the first, as is the room for what is copied */
        uint8_t *copied;
        uint64_t n_files;
        int file;                /* the one being received, or -1 */
        uint64_t size, position; /* of it */
        bool over;
        int failed; /* sticky */
};

int image_receiver_new(int images_fd, uint64_t max_bytes, struct image_receiver **ret)
{
        CLEANUP(image_receiver_free_ptr) struct image_receiver *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        *r = (struct image_receiver){.images_fd = images_fd, .max_bytes = max_bytes, .file = -1};
        int result = pagemap_writer_new(images_fd, &r->writer);
        if (result < 0)
                return result;
        *ret = TAKE_PTR(r);
        return 0;
}

void image_receiver_free(struct image_receiver *receiver)
{
        if (!receiver)
                return;
        if (receiver->file >= 0)
                (void)close(receiver->file);
        pagemap_writer_free(receiver->writer);
        lazy_areas_free(receiver->areas);
        page_hash_free(receiver->hash);
        free(receiver->copied);
        free(receiver);
}

void image_receiver_lazy(struct image_receiver *receiver, bool unshare)
{
        receiver->lazy = true;
        receiver->unshare = unshare;
}

void image_receiver_expect_checked(struct image_receiver *receiver)
{
        receiver->checked = true;
}

void image_receiver_expect_left(struct image_receiver *receiver)
{
        pagemap_writer_expect_left(receiver->writer);
}

const struct error *image_receiver_lazy_failure(const struct image_receiver *receiver)
{
        return &receiver->lazy_failure;
}

const struct pagemap_writer *image_receiver_writer(const struct image_receiver *receiver)
{
        return receiver->writer;
}

uint64_t image_receiver_pages(const struct image_receiver *receiver)
{
        return receiver->pages;
}

uint64_t image_receiver_bytes(const struct image_receiver *receiver)
{
        return receiver->bytes;
}

static uint64_t used(const struct image_receiver *r)
{
        return r->file_bytes + pagemap_writer_stored(r->writer) * PAGE_BYTES;
}

static bool is_beyond(const struct image_receiver *r)
{
        return used(r) > r->max_bytes;
}

/* What may still be stored. */
static uint64_t room(const struct image_receiver *r)
{
        return is_beyond(r) ? 0 : r->max_bytes - used(r);
}

static int on_round(struct image_receiver *r, const struct bulk_frame *f, struct error *err)
{
        if (f->size || f->flags || f->offset || f->count || f->object != r->rounds + 1)
                return error_set(err, EBADMSG, "round %" PRIu64 " of memory is out of order", f->object);
        int result = pagemap_writer_round(r->writer, err);
        if (result == 0)
                r->rounds++;
        return result;
}

static int on_last(struct image_receiver *r, const struct bulk_frame *f, struct error *err)
{
        if (f->size || f->flags || f->object || f->offset || f->count)
                return error_set(err, EBADMSG, "the end of the rounds with fields that do not belong there");
        return pagemap_writer_last(r->writer, err);
}

/* One run after the other, each copied before it is looked at. */
static int get_run(const uint8_t *table, uint64_t i, struct page_span *ret, struct error *err)
{
        uint8_t copy[RUN_BYTES];

        memcpy(copy, table + i * RUN_BYTES, sizeof(copy));
        return page_span_get(copy, ret) ? 0 : error_set(err, EBADMSG, "a run of pages that is none");
}

static int check_digest(const struct image_receiver *r, const struct bulk_frame *f, const uint8_t *data,
                        struct error *err)
{
        uint8_t digest[DIGEST_BYTES];

        if (!(f->flags & BULK_CHECKED))
                return r->checked ? error_set(err, EBADMSG, "pages without a digest") : 0;
        page_digest(data, (uint32_t)f->count, digest);
        if (memcmp(digest, data + DIGEST_AT, sizeof(digest)) != 0)
                return error_set(err, EBADMSG, "pages were changed on their way: their digest is another one");
        return 0;
}

static int too_large(const struct image_receiver *r, struct error *err)
{
        return error_set(err, EFBIG, "the state is larger than the %" PRIu64 " bytes allowed", r->max_bytes);
}

/* What is there already takes no room when it comes again. */
static bool cannot_fit(const struct image_receiver *r, const struct bulk_frame *f)
{
        return f->count * PAGE_BYTES > room(r) + pagemap_writer_stored(r->writer) * PAGE_BYTES;
}

static int on_pages(struct image_receiver *r, const struct bulk_frame *f, const uint8_t *data, struct error *err)
{
        const uint32_t flags = f->flags & ~BULK_CHECKED;
        uint64_t done = 0;

        if (f->count == 0 || f->count > PAGE_BATCH_MAX || f->offset == 0 || f->offset > RUNS_PER_TABLE ||
            f->size != RUN_TABLE_BYTES + f->count * PAGE_BYTES || !(flags & PE_PRESENT))
                return error_set(err, EBADMSG, "%" PRIu64 " pages in %" PRIu64 " runs and %" PRIu32 " bytes", f->count,
                                 f->offset, f->size);
        int checked = check_digest(r, f, data, err);
        if (checked < 0)
                return checked;
        if (cannot_fit(r, f))
                return too_large(r, err);
        for (uint64_t i = 0; i < f->offset; i++) {
                struct page_span span;
                int result = get_run(data, i, &span, err);
                if (result < 0)
                        return result;
                if (span.n_pages > f->count - done)
                        return error_set(err, EBADMSG, "runs of more pages than came");
                const struct page_batch batch = {
                        .image = f->object, .vaddr = span.vaddr, .n_pages = span.n_pages, .flags = flags};
                result = pagemap_writer_add(r->writer, &batch, data + RUN_TABLE_BYTES + done * PAGE_BYTES, err);
                if (result < 0)
                        return result;
                done += span.n_pages;
        }
        if (done != f->count)
                return error_set(err, EBADMSG, "runs of fewer pages than came");
        r->pages += f->count;
        /* By at most a frame too late: only the writer knows what of it was new. */
        return is_beyond(r) ? too_large(r, err) : 0;
}

/* -- pieces: pages of which not all have contents --------------------------------------------------------------------
 */

static int begin_pieces(struct image_receiver *r, struct error *err)
{
        int result = r->hash ? 0 : page_hash_new(&r->hash);

        if (result == 0 && !r->copied)
                r->copied = malloc((size_t)PAGE_BATCH_MAX * PAGE_BYTES);
        if (result < 0 || !r->copied)
                return error_set(err, ENOMEM, "out of memory");
        page_hash_begin(r->hash);
        return 0;
}

/* `contents`: what has not been used of the frame's, *left of them. */
static int take_piece(struct image_receiver *r, const struct page_batch *batch, const struct page_piece *piece,
                      const uint8_t *contents, uint64_t *left, struct error *err)
{
        const uint8_t *pages = r->copied;

        if (piece->kind == PIECE_ZEROS)
                return pagemap_writer_zeros(r->writer, batch, err);
        if (piece->kind == PIECE_SAME) {
                int result = pagemap_writer_read(r->writer, piece->from_image, piece->from_vaddr, piece->n_pages,
                                                 r->copied, err);
                if (result < 0)
                        return result;
        } else if (piece->n_pages > *left) {
                return error_set(err, EBADMSG, "pieces with more contents than came");
        } else {
                pages = contents;
                *left -= piece->n_pages;
        }
        page_hash_add(r->hash, pages, piece->n_pages);
        return pagemap_writer_add(r->writer, batch, pages, err);
}

/* All pieces. `left`: pages with contents behind the table. */
static int take_pieces(struct image_receiver *r, const struct bulk_frame *f, const uint8_t *data, uint64_t left,
                       struct error *err)
{
        const uint8_t *const end = data + f->size;
        uint64_t done = 0;
        int result = 0;

        for (uint64_t i = 0; result == 0 && i < f->offset; i++) {
                uint8_t copy[PIECE_BYTES];
                struct page_piece piece;
                memcpy(copy, data + i * PIECE_BYTES, sizeof(copy));
                if (!page_piece_get(copy, &piece))
                        return error_set(err, EBADMSG, "a piece of memory that is none");
                if (piece.n_pages > f->count - done)
                        return error_set(err, EBADMSG, "pieces of more pages than were told");
                const struct page_batch batch = {.image = f->object,
                                                 .vaddr = piece.vaddr,
                                                 .n_pages = piece.n_pages,
                                                 .flags = f->flags & ~BULK_CHECKED};
                result = take_piece(r, &batch, &piece, end - left * PAGE_BYTES, &left, err);
                done += piece.n_pages;
        }
        if (result == 0 && (done != f->count || left))
                return error_set(err, EBADMSG, "pieces of fewer pages than came");
        return result;
}

/*
 * The digest is that of the pages as the source has them: it is found out here, and not in the workload, if what is
 * here is not what it thinks. Pages are written before: after a failure nothing of it is used.
 */
static int on_pieces(struct image_receiver *r, const struct bulk_frame *f, const uint8_t *data, struct error *err)
{
        uint8_t digest[DIGEST_BYTES];

        if (f->count == 0 || f->count > PAGE_BATCH_MAX || f->offset == 0 || f->offset > f->count ||
            !(f->flags & PE_PRESENT) || !(f->flags & BULK_CHECKED))
                return error_set(err, EBADMSG, "%" PRIu64 " pages in %" PRIu64 " pieces", f->count, f->offset);
        const size_t table = PIECE_TABLE_BYTES(f->offset), start = PIECE_TABLE_ROOM(f->offset);
        if (f->size != table && (f->size <= start || (f->size - start) % PAGE_BYTES))
                return error_set(err, EBADMSG, "%" PRIu64 " pieces in %" PRIu32 " bytes", f->offset, f->size);
        if (cannot_fit(r, f))
                return too_large(r, err);
        int result = begin_pieces(r, err);
        if (result == 0)
                result = take_pieces(r, f, data, f->size == table ? 0 : (f->size - start) / PAGE_BYTES, err);
        if (result < 0)
                return result;
        page_hash_end(r->hash, data, table - DIGEST_BYTES, digest);
        if (memcmp(digest, data + table - DIGEST_BYTES, sizeof(digest)) != 0)
                return error_set(err, EBADMSG, "pages were changed on their way: their digest is another one");
        r->pages += f->count;
        return is_beyond(r) ? too_large(r, err) : 0;
}

/* -- the other frames ------------------------------------------------------------------------------------------------
 */

/* Kept, or left. */
static int on_pages_left_out(struct image_receiver *r, const struct bulk_frame *f, const uint8_t *data,
                             struct error *err)
{
        if (f->flags || f->count || f->offset == 0 || f->offset > RUNS_PER_FRAME || f->size != f->offset * RUN_BYTES)
                return error_set(err, EBADMSG, "%" PRIu64 " runs in %" PRIu32 " bytes", f->offset, f->size);
        for (uint64_t i = 0; i < f->offset; i++) {
                struct page_span span;
                int result = get_run(data, i, &span, err);
                if (result == 0 && f->type == BULK_PAGES_KEPT)
                        result = pagemap_writer_keep(r->writer, f->object, span.vaddr, span.n_pages, err);
                else if (result == 0)
                        result = pagemap_writer_leave(r->writer, f->object, span.vaddr, span.n_pages, err);
                if (result < 0)
                        return result;
        }
        return 0;
}

static int on_pages_open(struct image_receiver *r, const struct bulk_frame *f, struct error *err)
{
        if (f->size || f->flags || f->offset || f->count)
                return error_set(err, EBADMSG, "page image opened with fields that do not belong there");
        return pagemap_writer_open(r->writer, f->object, err);
}

static int finish_file(struct image_receiver *r, struct error *err)
{
        if (r->file < 0)
                return 0;
        if (r->position != r->size)
                return error_set(err, EBADMSG, "image file %" PRIu64 " ended after %" PRIu64 " of %" PRIu64 " bytes",
                                 r->n_files, r->position, r->size);
        (void)close(TAKE_FD(r->file));
        return 0;
}

static int on_file_name(struct image_receiver *r, const struct bulk_frame *f, const void *data, struct error *err)
{
        char name[IMAGE_NAME_MAX + 1], quoted[4 * sizeof(name) + 8];
        int result = finish_file(r, err);

        if (result < 0)
                return result;
        if (f->object != r->n_files + 1 || f->object > IMAGE_FILES_MAX || f->offset || f->flags)
                return error_set(err, EBADMSG, "image file %" PRIu64 " is out of order", f->object);
        if (f->size == 0 || f->size > IMAGE_NAME_MAX)
                return error_set(err, EBADMSG, "name of an image file has %" PRIu32 " bytes", f->size);
        memcpy(name, data, f->size);
        name[f->size] = '\0';
        if (strlen(name) != f->size || !image_name_is_valid(name))
                return error_set(err, EBADMSG, "%s is no name of an image file",
                                 name_quote(name, quoted, sizeof(quoted)));
        if (image_name_is_pages(name))
                return error_set(err, EBADMSG, "page image %s came as a file", name);
        if (f->count > room(r))
                return error_set(err, EFBIG, "image file %s has %" PRIu64 " bytes, more than what is left of %" PRIu64,
                                 name, f->count, r->max_bytes);

        r->file = openat(r->images_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (r->file < 0 && errno == EEXIST)
                return error_set(err, EBADMSG, "image file %s came twice", name);
        if (r->file < 0)
                return error_errno(err, errno, "cannot write image file %s", name);
        r->n_files++;
        r->file_bytes += f->count;
        r->size = f->count;
        r->position = 0;
        return 0;
}

static int on_file_data(struct image_receiver *r, const struct bulk_frame *f, const void *data, struct error *err)
{
        if (r->file < 0 || f->object != r->n_files || f->offset != r->position || f->flags || f->count)
                return error_set(err, EBADMSG, "a part of image file %" PRIu64 " is out of order", f->object);
        if (f->size == 0 || f->size > r->size - r->position)
                return error_set(err, EBADMSG, "image file %" PRIu64 " is longer than announced", f->object);
        int result = fd_write_all(r->file, data, f->size);
        if (result < 0)
                return error_errno(err, -result, "cannot write an image file");
        r->position += f->size;
        return 0;
}

static int on_end(struct image_receiver *r, const struct bulk_frame *f, struct error *err)
{
        uint64_t written = 0;
        int result = finish_file(r, err);

        if (result < 0)
                return result;
        if (f->size || f->flags || f->object)
                return error_set(err, EBADMSG, "end mark with fields that do not belong there");
        if (f->offset != r->frames || f->count != r->pages)
                return error_set(err, EBADMSG,
                                 "%" PRIu64 " frames and %" PRIu64 " pages came, %" PRIu64 " and %" PRIu64 " were sent",
                                 r->frames, r->pages, f->offset, f->count);
        if (r->lazy && lazy_areas_read(r->images_fd, r->unshare, &r->areas, &r->lazy_failure) == 0)
                pagemap_writer_lazy(r->writer, r->areas);
        if (pagemap_writer_left(r->writer) && !r->areas) {
                *err = r->lazy_failure;
                return err->kind == ERROR_NONE ? error_set(err, EBADMSG, "memory was left on the source, unasked")
                                               : -err->code;
        }
        result = pagemap_writer_finish(r->writer, &written, err);
        if (result < 0)
                return result;
        if (written != r->pages)
                return error_set(err, EIO, "%" PRIu64 " of %" PRIu64 " pages were written", written, r->pages);
        r->over = true;
        return 1;
}

static int dispatch(struct image_receiver *r, const struct bulk_frame *f, const void *data, struct error *err)
{
        if (r->over)
                return error_set(err, EBADMSG, "a frame after the end of the state");
        if (f->size > BULK_MAX)
                return error_set(err, EBADMSG, "a frame of %" PRIu32 " bytes", f->size);
        switch (f->type) {
        case BULK_PAGES_OPEN:
                return on_pages_open(r, f, err);
        case BULK_PAGES:
                return on_pages(r, f, data, err);
        case BULK_PIECES:
                return on_pieces(r, f, data, err);
        case BULK_ROUND:
                return on_round(r, f, err);
        case BULK_LAST:
                return on_last(r, f, err);
        case BULK_PAGES_KEPT:
        case BULK_PAGES_LEFT:
                return on_pages_left_out(r, f, data, err);
        case BULK_FILE_NAME:
                return on_file_name(r, f, data, err);
        case BULK_FILE_DATA:
                return on_file_data(r, f, data, err);
        case BULK_END:
                return on_end(r, f, err);
        default:
                return error_set(err, EBADMSG, "a frame of unknown type %" PRIu16, f->type);
        }
}

int image_receiver_frame(struct image_receiver *receiver, const struct bulk_frame *frame, const void *data,
                         struct error *err)
{
        const struct bulk_frame f = *frame;

        if (receiver->failed)
                return error_set(err, -receiver->failed, "the state was broken already");
        int result = dispatch(receiver, &f, data, err);
        if (result < 0) {
                receiver->failed = result;
                return result;
        }
        receiver->frames++;
        receiver->bytes += f.size;
        return result;
}
