/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

#include "base/cleanup.h"
#include "criu/page_server.h"

struct lazy_areas;

/*
 * Writes pagemap-PID.img / pagemap-shmem-ID.img with their pages-N.img into an image directory from batches, in the
 * format CRIU 3.x and 4.x read. Batches of one image come with rising addresses within a round; images may interleave,
 * which costs a reopening of files at each change.
 *
 * Pages may come in rounds first, while their task runs, and what the frozen task has then says which of them count:
 *
 *      round()   add()…          as often as one likes
 *      last()    open() add()…   what was dumped of the frozen task
 *                keep()…         what was left out of that dump: as the latest round has it
 *                leave()…        and what comes after the end, into the places that finish() has made for it
 *      finish()
 *
 * A page that comes again is written over the one before, in place. What a round was the first to bring is in a
 * directory of its own, round-N, and is a parent (in CRIU's sense) of what came later: finish() only writes pagemaps,
 * no page moves. Without rounds the result is complete in itself.
 *
 * One thread. Blocking writes, meant for a tmpfs.
 */
struct pagemap_writer;

/* Ceiling of images in one writer; a host has at most 4 million tasks and nobody moves more than a fraction of them. */
#define PAGEMAP_IMAGES_MAX (1U << 17)

/* Rounds that bring pages which no round before them has. */
#define PAGEMAP_ROUNDS_MAX 31U

/* `images_fd` is borrowed for the writer's life. */
int pagemap_writer_new(int images_fd, struct pagemap_writer **ret);

/* Every value below is checked (alignment, overlap, order, counts, id): it came from the other host. -EBADMSG. */

/* Another round begins; in it images need no opening, and are those of tasks only. */
int pagemap_writer_round(struct pagemap_writer *writer, struct error *err);
/* The rounds are over (if there were any). */
int pagemap_writer_last(struct pagemap_writer *writer, struct error *err);
int pagemap_writer_open(struct pagemap_writer *writer, uint64_t image, struct error *err);
/* `pages` is read once and may be memory another process can write to; NULL without PE_PRESENT. */
int pagemap_writer_add(struct pagemap_writer *writer, const struct page_batch *batch, const void *pages,
                       struct error *err);
/* Of PE_PRESENT only: they are zeros, which take no room where the file system knows holes. */
int pagemap_writer_zeros(struct pagemap_writer *writer, const struct page_batch *batch, struct error *err);
/* What pages were written with last, of any image, in this round or before; as many as a batch may have. -EBADMSG when
 * they did not all come. */
int pagemap_writer_read(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint32_t n_pages, uint8_t *ret,
                        struct error *err);
/* Pages of an opened image whose contents a round has brought. Rising addresses within an image. */
int pagemap_writer_keep(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint64_t n_pages,
                        struct error *err);

/*
 * Post-copy: pages of an opened image that are not here. To be expected before the rounds end, of which there is at
 * least one (it may be empty). All of them must be among what may come late (below), or finish() fails.
 */
void pagemap_writer_expect_left(struct pagemap_writer *writer);
int pagemap_writer_leave(struct pagemap_writer *writer, uint64_t image, uint64_t vaddr, uint64_t n_pages,
                         struct error *err);
uint64_t pagemap_writer_left(const struct pagemap_writer *writer);

/* Pages on the disk, each counted once, with room for those that are to come. */
uint64_t pagemap_writer_stored(const struct pagemap_writer *writer);
/* Completes the files, and removes those of images that only rounds knew. *ret_pages: pages that came with contents,
 * rounds included. After a failure, or without this call, the files are of no use. */
int pagemap_writer_finish(struct pagemap_writer *writer, uint64_t *ret_pages, struct error *err);

/*
 * Before finish(): what of the tasks' memory may come late (criu/lazy_areas.h; borrowed for the writer's life, NULL:
 * nothing). CRIU finds it marked in the pagemaps, leaves it out when it restores lazily, and reads it all the same when
 * it does not.
 */
void pagemap_writer_lazy(struct pagemap_writer *writer, const struct lazy_areas *areas);

/* A run of pages that a lazily restored task has to be given, and where it lies. */
struct page_owed {
        uint32_t pid;   /* as the images have it */
        unsigned round; /* directory and number of the file: page_owed_file() */
        uint32_t pages_id;
        uint64_t file_pages; /* in the whole file */
        uint64_t vaddr;      /* bytes */
        uint64_t n_pages;
        uint64_t position; /* of the first page in the file, in pages */
        bool left;         /* what is there is not it: it has to come from the source first */
};
#define PAGE_OWED_FILE 48 /* bytes of a name, "round-3/pages-1.img" */
const char *page_owed_file(const struct page_owed *owed, char ret[static PAGE_OWED_FILE]);

/* After finish(): all of them, task by task, by rising address. What `each` returns below 0 ends it. */
int pagemap_writer_owed(const struct pagemap_writer *writer, int (*each)(const struct page_owed *owed, void *context),
                        void *context);

void pagemap_writer_free(struct pagemap_writer *writer);
DEFINE_CLEANUP(struct pagemap_writer, pagemap_writer_free)
