/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "criu/page_server.h"
#include "criu/pagemap_image.h"
#include "wire/link.h"

/*
 * CRIU's state on its way between hosts: bulk frames on one bulk link. Order: any mixture of page frames and image
 * files, then BULK_END. The receiver writes into an image directory (a private tmpfs).
 *
 *   BULK_PAGES_OPEN  object = page image
 *   BULK_PAGES       object = page image, offset = vaddr, count = pages, flags = PE_*; data = the pages
 *   BULK_FILE        object = number of the file, offset = 0: data = its name; later offset-1 … : data = contents
 *   BULK_END         offset = number of frames before this one, count = pages in all
 */
enum bulk_type { BULK_PAGES_OPEN = 1, BULK_PAGES, BULK_FILE_NAME, BULK_FILE_DATA, BULK_END };

/* Sender: a page sink on a link, and image files after it. One link, one sender. */
struct image_sender;
int image_sender_new(struct link *link, struct image_sender **ret);
void image_sender_free(struct image_sender *sender);
DEFINE_CLEANUP(struct image_sender, image_sender_free)

/* Sink for page_server_new() with the sender as its context (its `done` member is the caller's to set). */
extern const struct page_sink image_sender_sink;

/* Queue all regular files *.img of a directory plus tty.info, and the end mark; `on_sent` when everything left the
 * ring. */
int image_sender_files(struct image_sender *sender, int images_fd, void (*on_sent)(int result, void *context),
                       void *context);

/* To be called from the link's `writable`. */
void image_sender_writable(struct image_sender *sender);

uint64_t image_sender_bytes(const struct image_sender *sender);

/* Receiver. Feed it every frame; returns 1 at the (valid) end, 0 when more is expected, -EBADMSG and the like on lies.
 */
struct image_receiver;
int image_receiver_new(int images_fd, uint64_t max_bytes, struct image_receiver **ret);
int image_receiver_frame(struct image_receiver *receiver, const struct bulk_frame *frame, const void *data,
                         struct error *err);
uint64_t image_receiver_pages(const struct image_receiver *receiver);
uint64_t image_receiver_bytes(const struct image_receiver *receiver);
void image_receiver_free(struct image_receiver *receiver);
DEFINE_CLEANUP(struct image_receiver, image_receiver_free)
