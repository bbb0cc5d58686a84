/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "criu/page_server.h"
#include "criu/pagemap_image.h"
#include "wire/link.h"

/*
 * CRIU's state on its way between hosts: bulk frames on one bulk link. Order: any mixture of page frames and image
 * files, then BULK_END. The receiver writes into an image directory (a private tmpfs).
 *
 *   BULK_PAGES_OPEN  object = page image (criu/page_server.h)
 *   BULK_PAGES       object = page image, offset = vaddr, count = pages, flags = PE_*; data = the pages, none without
 *                    PE_PRESENT
 *   BULK_FILE_NAME   object = number of the file, from 1 without gaps; count = its bytes; data = its name. A file is
 *                    sent whole before the next begins
 *   BULK_FILE_DATA   object = number of that file, offset = position, without gaps; data = contents, not empty
 *   BULK_END         offset = number of frames before this one, count = pages with contents in all
 *
 * Fields that are not named are 0. Nothing may follow the end.
 */
enum bulk_type { BULK_PAGES_OPEN = 1, BULK_PAGES, BULK_FILE_NAME, BULK_FILE_DATA, BULK_END };

/* Ceilings of one stream. */
#define IMAGE_NAME_MAX 64
#define IMAGE_FILES_MAX (1U << 17)

/*
 * Which files of an image directory are moved: *.img of letters, digits, '.', '_' and '-', beginning with a letter, at
 * most IMAGE_NAME_MAX long; and liblxc's tty.info. Page images (pages-*, pagemap-*) travel as pages only.
 */
bool image_name_is_valid(const char *name);
bool image_name_is_pages(const char *name);

/* Sender: a page sink on a link, and image files after it. One link, one sender. One thread, that of the link. */
struct image_sender;
int image_sender_new(struct link *link, struct image_sender **ret);
/* Before the link is freed or after, it does not matter: nothing is sent. */
void image_sender_free(struct image_sender *sender);
DEFINE_CLEANUP(struct image_sender, image_sender_free)

/*
 * Sink for page_server_new() with the sender as its context. Its `done` does nothing but call what was set with
 * image_sender_on_pages(); a caller may also copy the table and put its own in.
 */
extern const struct page_sink image_sender_sink;
void image_sender_on_pages(struct image_sender *sender,
                           void (*done)(const struct error *err, uint64_t pages, void *context), void *context);

/*
 * Queue all image files of a directory (borrowed until on_sent), and the end mark; once, after the pages. `on_sent`
 * comes when everything left the ring and phaul-net too (0), or when something failed (negative errno); never from
 * within this call. Page images written as files are refused with -EEXIST: the pages went past the page server.
 */
int image_sender_files(struct image_sender *sender, int images_fd, void (*on_sent)(int result, void *context),
                       void *context);

/* To be called from the link's `writable`; page_server_resume() after it. on_sent may free the sender. */
void image_sender_writable(struct image_sender *sender);

/* Payload handed to the link so far. */
uint64_t image_sender_bytes(const struct image_sender *sender);

/*
 * Receiver. Feed it every frame; returns 1 at the (valid) end, 0 when more is expected, -EBADMSG and the like on lies;
 * after an error every further frame fails. `data` may be memory that another process can change meanwhile: what is
 * checked is copied first. -EFBIG beyond max_bytes of payload. images_fd (borrowed) should be empty: a name that exists
 * is refused.
 */
struct image_receiver;
int image_receiver_new(int images_fd, uint64_t max_bytes, struct image_receiver **ret);
int image_receiver_frame(struct image_receiver *receiver, const struct bulk_frame *frame, const void *data,
                         struct error *err);
uint64_t image_receiver_pages(const struct image_receiver *receiver);
uint64_t image_receiver_bytes(const struct image_receiver *receiver);
void image_receiver_free(struct image_receiver *receiver);
DEFINE_CLEANUP(struct image_receiver, image_receiver_free)
