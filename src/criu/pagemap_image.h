/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/cleanup.h"
#include "criu/page_server.h"

/*
 * Writes pagemap-PID.img / pagemap-shmem-ID.img with their pages-N.img into an image directory from batches, in the
 * format CRIU 3.x and 4.x read (magic, then size-prefixed protobuf: pagemap_head, pagemap_entry…; criu's
 * images/pagemap.proto). Batches of one image come with rising addresses; images may interleave.
 */
struct pagemap_writer;

int pagemap_writer_new(int images_fd, struct pagemap_writer **ret);
/* Every value is checked (alignment, overlap, order, counts, id): it came from the other host. -EBADMSG. */
int pagemap_writer_open(struct pagemap_writer *writer, uint64_t image, struct error *err);
int pagemap_writer_add(struct pagemap_writer *writer, const struct page_batch *batch, const void *pages,
                       struct error *err);
int pagemap_writer_finish(struct pagemap_writer *writer, uint64_t *ret_pages, struct error *err);
void pagemap_writer_free(struct pagemap_writer *writer);
DEFINE_CLEANUP(struct pagemap_writer, pagemap_writer_free)
