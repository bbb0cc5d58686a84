/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/name.h"
#include "memory/image_stream.h"

struct image_receiver {
        int images_fd;
        struct pagemap_writer *writer;
        uint64_t max_bytes, bytes;
        uint64_t frames, pages;
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
        free(receiver);
}

uint64_t image_receiver_pages(const struct image_receiver *receiver)
{
        return receiver->pages;
}

uint64_t image_receiver_bytes(const struct image_receiver *receiver)
{
        return receiver->bytes;
}

static int on_pages_open(struct image_receiver *r, const struct bulk_frame *f, struct error *err)
{
        if (f->size || f->flags || f->offset || f->count)
                return error_set(err, EBADMSG, "page image opened with fields that do not belong there");
        return pagemap_writer_open(r->writer, f->object, err);
}

static int on_pages(struct image_receiver *r, const struct bulk_frame *f, const void *data, struct error *err)
{
        bool present = f->flags & PE_PRESENT;

        if (f->count == 0 || f->count > PAGE_BATCH_MAX || f->size != (present ? f->count * PAGE_BYTES : 0))
                return error_set(err, EBADMSG, "%" PRIu64 " pages in %" PRIu32 " bytes", f->count, f->size);
        const struct page_batch batch = {
                .image = f->object, .vaddr = f->offset, .n_pages = (uint32_t)f->count, .flags = f->flags};
        int result = pagemap_writer_add(r->writer, &batch, present ? data : NULL, err);
        if (result == 0 && present)
                r->pages += f->count;
        return result;
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
        if (f->count > r->max_bytes - r->bytes)
                return error_set(err, EFBIG, "image file %s has %" PRIu64 " bytes, more than what is left of %" PRIu64,
                                 name, f->count, r->max_bytes);

        r->file = openat(r->images_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (r->file < 0 && errno == EEXIST)
                return error_set(err, EBADMSG, "image file %s came twice", name);
        if (r->file < 0)
                return error_errno(err, errno, "cannot write image file %s", name);
        r->n_files++;
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
        if (f->size > r->max_bytes - r->bytes)
                return error_set(err, EFBIG, "the state is larger than the %" PRIu64 " bytes allowed", r->max_bytes);
        switch (f->type) {
        case BULK_PAGES_OPEN:
                return on_pages_open(r, f, err);
        case BULK_PAGES:
                return on_pages(r, f, data, err);
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
