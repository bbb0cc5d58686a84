/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/cleanup.h"
#include "criu/page_server.h"

/*
 * Writes pagemap-PID.img / pagemap-shmem-ID.img with their pages-N.img into an image directory from batches, in the
 * format CRIU 3.x and 4.x read (magic, then size-prefixed protobuf: pagemap_head, pagemap_entry…; criu's
 * images/pagemap.proto). Batches of one image come with rising addresses; images may interleave, which costs a
 * reopening of two files at each change. Batches that continue each other with equal flags share one entry. The result
 * is complete in itself: batches that refer to a parent image are refused.
 *
 * One thread. Blocking writes, meant for a tmpfs.
 */
struct pagemap_writer;

/* Ceiling of images in one writer; a host has at most 4 million tasks and nobody moves more than a fraction of them. */
#define PAGEMAP_IMAGES_MAX (1U << 17)

/* `images_fd` is borrowed for the writer's life. */
int pagemap_writer_new(int images_fd, struct pagemap_writer **ret);
/* Every value is checked (alignment, overlap, order, counts, id): it came from the other host. -EBADMSG. */
int pagemap_writer_open(struct pagemap_writer *writer, uint64_t image, struct error *err);
/* `pages` is read once and may be memory another process can write to; NULL without PE_PRESENT. */
int pagemap_writer_add(struct pagemap_writer *writer, const struct page_batch *batch, const void *pages,
                       struct error *err);
/* Completes the files. *ret_pages: pages stored. After a failure, or without this call, the files are of no use. */
int pagemap_writer_finish(struct pagemap_writer *writer, uint64_t *ret_pages, struct error *err);
void pagemap_writer_free(struct pagemap_writer *writer);
DEFINE_CLEANUP(struct pagemap_writer, pagemap_writer_free)
