/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "criu/page_server.h"
#include "criu/pagemap_image.h"
#include "wire/bundle.h"

/*
 * CRIU's state on its way between hosts: bulk frames on a bundle of bulk links, in one order (wire/bundle.h):
 * rounds of pages while the workload runs, each begun by BULK_ROUND, and BULK_LAST after them (neither, where there are
 * none); then, of the frozen workload, any mixture of page frames and image files; then BULK_END. The receiver writes
 * into an image directory (a private tmpfs).
 *
 *   BULK_ROUND       object = its number, from 1 without gaps. In it nothing but BULK_PAGES and BULK_PIECES of tasks,
 *                    whose images are not opened. A page that came before is replaced
 *   BULK_LAST        the rounds are over
 *   BULK_PAGES_OPEN  object = page image (criu/page_server.h)
 *   BULK_PAGES       object = page image, offset = number of runs, count = pages, flags = PE_* of all of them; data =
 *                    the runs, in a table of RUN_TABLE_BYTES, then the pages. With BULK_CHECKED among the flags the
 *                    last DIGEST_BYTES of the table are the XXH3-128 (canonical form) of what is before them, with
 *                    both halves of that of the pages (low ^ high) as the seed. It is made where they were read, so
 *                    that what the memory of either host changed on the way is noticed
 *   BULK_PAGES_KEPT  object = page image, offset = number of runs; data = the runs: pages that were left out of the
 *                    dump, as the rounds brought them
 *   BULK_PAGES_LEFT  the same of pages that are not here, nor in the dump: they stay with the frozen tasks on the
 *                    source until they are wanted (post-copy)
 *   BULK_PIECES      pages as BULK_PAGES, but not all with contents: object = page image, offset = number of pieces,
 *                    count = pages, flags = PE_* of all of them, and BULK_CHECKED; data = the pieces, the digest, and
 *                    from the next multiple of PAGE_BYTES on the pages of pieces that have contents, if there are any.
 *                    The digest is the XXH3-128 of the pieces, with both halves of that of all the pages but those of
 *                    zeros (low ^ high) as the seed: also of those that are copied, as the source has them
 *   BULK_FILE_NAME   object = number of the file, from 1 without gaps; count = its bytes; data = its name. A file is
 *                    sent whole before the next begins
 *   BULK_FILE_DATA   object = number of that file, offset = position, without gaps; data = contents, not empty
 *   BULK_END         offset = number of frames before this one, count = pages in all, of BULK_PAGES and BULK_PIECES
 *
 * A run is 16 bytes, big-endian: u64 vaddr, u32 pages, u32 0; by rising address. A piece is 32 bytes: u64 vaddr, u32
 * pages, u32 kind, and of PIECE_SAME u64 page image and u64 address of what it is equal to, page by page, as the target
 * has it before this piece. Fields that are not named are 0.
 * Nothing may follow the end, unless pages were left; then, on this link or on another after it was lost:
 *
 *   BULK_WANTED      from the target: object = page image, offset = number of runs, flags = BULK_URGENT when a task
 *                    waits for the first of them; data = the runs, of pages that were left
 *   BULK_PAGES       the answer, as above, always checked, with BULK_URGENT as it was asked for. Order is the source's
 *   BULK_PAGES_GONE  object = page image, offset = number of runs; data = the runs: wanted, and nobody can read them
 */
enum bulk_type {
        BULK_PAGES_OPEN = 1,
        BULK_PAGES,
        BULK_FILE_NAME,
        BULK_FILE_DATA,
        BULK_END,
        BULK_ROUND,
        BULK_LAST,
        BULK_PAGES_KEPT,
        BULK_PAGES_LEFT, /* these, from version 3 of the protocol on */
        BULK_WANTED,
        BULK_PAGES_GONE,
        BULK_PIECES, /* from version 4 on */
};

#define BULK_CHECKED 0x8000U /* flag; version 2 of the protocol */
#define BULK_URGENT 0x4000U  /* flag; version 3 */

/* Ceilings of one stream; the first of what the receiver stores, for so much memory as STATE_OPEN tells. */
#define STATE_MARGIN (UINT64_C(1) << 30)
#define STATE_CEILING(memory) ((memory) > UINT64_MAX / 4 ? UINT64_MAX / 2 : 2 * (memory) + STATE_MARGIN)
#define IMAGE_NAME_MAX 64
#define IMAGE_FILES_MAX (1U << 17)

/*
 * Which files of an image directory are moved: *.img of letters, digits, '.', '_' and '-', beginning with a letter, at
 * most IMAGE_NAME_MAX long; and liblxc's tty.info. Page images (pages-*, pagemap-*) travel as pages only.
 */
bool image_name_is_valid(const char *name);
bool image_name_is_pages(const char *name);

/* Sender: a page sink on a bundle, and image files after it. One bundle, one sender. One thread, that of its links. */
struct image_sender;
/* `checked`: pages bear a digest. */
int image_sender_new(struct bundle *bundle, bool checked, struct image_sender **ret);
/* Leave out what the target has already (dedup.h), which has to know BULK_PIECES; `places` as there. Needs `checked`,
 * before the first page. */
int image_sender_dedup(struct image_sender *sender, size_t places);
/* Bytes of pages that were not sent because of that. */
void image_sender_saved(const struct image_sender *sender, uint64_t *ret_zero, uint64_t *ret_same);
/* Before the bundle is freed or after, it does not matter: nothing is sent. */
void image_sender_free(struct image_sender *sender);
/* The bundle was lost and is freed: from now on all that would be sent is -ENOTCONN. on_sent does not come any more. */
void image_sender_detach(struct image_sender *sender);
DEFINE_CLEANUP(struct image_sender, image_sender_free)

/*
 * What page_server_new() asks of a sink, with the sender as the context; `done` is its owner's. Pages wait in the
 * sender as long as more of their kind may come: image_sender_flush() sends them, or says -EAGAIN. Whatever else is
 * sent does so first.
 */
int image_sender_batch_reserve(const struct page_batch *batch, void **ret_data, void *sender);
int image_sender_batch_commit(const struct page_batch *batch, void *sender);
int image_sender_open(uint64_t image, void *sender);
int image_sender_flush(struct image_sender *sender);

/* Pages that lie together. */
struct page_span {
        uint64_t vaddr;
        uint32_t n_pages;
};
#define RUN_BYTES 16U
#define RUN_TABLE_BYTES PAGE_BYTES
#define DIGEST_BYTES 16U
#define DIGEST_AT (RUN_TABLE_BYTES - DIGEST_BYTES)
#define RUNS_PER_TABLE (DIGEST_AT / RUN_BYTES)
/* What fits into a frame without pages. */
#define RUNS_PER_FRAME (BULK_MAX / RUN_BYTES)
void page_span_put(uint8_t to[static RUN_BYTES], const struct page_span *span);
/* False: not a run. */
bool page_span_get(const uint8_t from[static RUN_BYTES], struct page_span *ret);
/* Of a table and the pages behind it, as BULK_CHECKED says. */
void page_digest(const uint8_t *data, uint32_t n_pages, uint8_t ret[static DIGEST_BYTES]);

/* The same in parts, for pages that do not lie together: begin, add…, end with the table. */
struct page_hash;
int page_hash_new(struct page_hash **ret);
void page_hash_free(struct page_hash *hash);
DEFINE_CLEANUP(struct page_hash, page_hash_free)
void page_hash_begin(struct page_hash *hash);
void page_hash_add(struct page_hash *hash, const uint8_t *pages, uint32_t n_pages);
void page_hash_end(const struct page_hash *hash, const uint8_t *table, size_t size, uint8_t ret[static DIGEST_BYTES]);

enum piece_kind { PIECE_CONTENTS, PIECE_ZEROS, PIECE_SAME };
struct page_piece {
        uint64_t vaddr;
        uint32_t n_pages;
        enum piece_kind kind;
        uint64_t from_image, from_vaddr; /* PIECE_SAME */
};
#define PIECE_BYTES 32U
#define PIECE_TABLE_BYTES(n) ((n)*PIECE_BYTES + DIGEST_BYTES)
/* Where contents begin. */
#define PIECE_TABLE_ROOM(n) ((PIECE_TABLE_BYTES(n) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES)
void page_piece_put(uint8_t to[static PIECE_BYTES], const struct page_piece *piece);
/* False: not a piece. */
bool page_piece_get(const uint8_t from[static PIECE_BYTES], struct page_piece *ret);

/*
 * Rounds, and what was kept. Each call is one frame, or -EAGAIN when it has no room: its owner hears when it has.
 * image_sender_reserve() gives the BULK_MAX bytes that image_sender_pages() or _kept() then sends, filled by the
 * caller.
 */
int image_sender_round(struct image_sender *sender, unsigned number);
unsigned image_sender_rounds(const struct image_sender *sender); /* begun so far */
int image_sender_reserve(struct image_sender *sender, uint8_t **ret);
int image_sender_pages(struct image_sender *sender, uint64_t image, uint32_t n_runs, uint32_t n_pages);
int image_sender_last(struct image_sender *sender);
int image_sender_kept(struct image_sender *sender, uint64_t image, uint32_t n_runs);
int image_sender_left(struct image_sender *sender, uint64_t image, uint32_t n_runs);
/* Whether all that was sent is in the kernel's hands; false without a bundle. */
bool image_sender_idle(const struct image_sender *sender);

/*
 * Queue all image files of a directory (borrowed until on_sent), and the end mark; once, after the pages. `on_sent`
 * comes when everything left the ring and phaul-net too (0), or when something failed (negative errno); never from
 * within this call. Page images written as files are refused with -EEXIST: the pages went past the page server.
 */
int image_sender_files(struct image_sender *sender, int images_fd, void (*on_sent)(int result, void *context),
                       void *context);

/* To be called from the link's `writable`; page_server_resume() after it. on_sent may free the sender. */
void image_sender_writable(struct image_sender *sender);

/*
 * Receiver. Feed it every frame; returns 1 at the (valid) end, 0 when more is expected, -EBADMSG and the like on lies;
 * after an error every further frame fails. `data` may be memory that another process can change meanwhile: what is
 * checked is copied first. -EFBIG beyond max_bytes in the directory. images_fd (borrowed) should be empty: a name that
 * exists is refused.
 */
struct image_receiver;
int image_receiver_new(int images_fd, uint64_t max_bytes, struct image_receiver **ret);
int image_receiver_frame(struct image_receiver *receiver, const struct bulk_frame *frame, const void *data,
                         struct error *err);
/*
 * Before the end: memory of the tasks may come late, if the images that came say so (criu/lazy_areas.h has `unshare`).
 * Images that cannot be understood make nothing late; then image_receiver_lazy_failure() has the reason.
 */
void image_receiver_lazy(struct image_receiver *receiver, bool unshare);
/* Pages without a digest are refused. */
void image_receiver_expect_checked(struct image_receiver *receiver);
/* Post-copy: pages may be left on the source; before the rounds end. */
void image_receiver_expect_left(struct image_receiver *receiver);
const struct error *image_receiver_lazy_failure(const struct image_receiver *receiver);
/* What the pages were written with; borrowed. */
const struct pagemap_writer *image_receiver_writer(const struct image_receiver *receiver);
uint64_t image_receiver_pages(const struct image_receiver *receiver);
uint64_t image_receiver_bytes(const struct image_receiver *receiver);
void image_receiver_free(struct image_receiver *receiver);
DEFINE_CLEANUP(struct image_receiver, image_receiver_free)
