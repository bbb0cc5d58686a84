/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "criu/page_index.h"
#include "criu/pagemap_image.h"

/* The inside of a pagemap writer (pagemap_image.h), for the two files that make it: pages come in, and the end. */

/* The last one is the image directory itself; before it may be one for what was left on the source. */
#define LEVELS_MAX (PAGEMAP_ROUNDS_MAX + 2)

/* Flag of an entry, ours alone: its pages are not here yet. */
#define MAP_LEFT (UINT32_C(1) << 16)

/* A line of the pagemap that CRIU reads first. */
struct map_entry {
        uint64_t vaddr, n_pages;
        uint32_t flags;
};

struct map_entries {
        struct map_entry *list;
        size_t n, room;
};

struct image {
        uint64_t image;
        uint32_t pages_id;
        bool opened;                   /* the frozen task has it */
        uint64_t end;                  /* first address this round has not covered yet */
        uint64_t kept_end;             /* the same of what is kept */
        struct page_index index;       /* of what the rounds brought */
        struct page_index dumped;      /* of what was dumped besides */
        uint64_t stored[LEVELS_MAX];   /* pages in the file of each level */
        uint64_t left_end;             /* and of what was left */
        struct map_entries last, kept; /* of the frozen task: what was dumped, what was left out and is here */
        struct map_entries left;       /* what was left out and comes later */
        struct image *next;
};

struct level {
        int dir_fd;
        unsigned round; /* 0: the image directory */
};

struct pagemap_writer {
        int images_fd;
        void *tree;          /* struct image by number */
        struct image *first; /* list of all of them */
        uint32_t n_images;
        struct level levels[LEVELS_MAX];
        uint32_t n_levels;
        bool level_open;       /* this round has brought something new: the last level is its own */
        unsigned round;        /* 0: there was none yet */
        bool last;             /* after the rounds */
        bool expect_left;      /* some will be */
        uint32_t left_level;   /* where those go that no round has brought */
        uint64_t n_left;       /* pages */
        struct image *current; /* whose files are open, as far as they were needed: */
        int files[LEVELS_MAX];
        off_t room; /* size of the last level's file, when it is ahead of what is in it; else 0 */
        uint64_t pages, stored;
        const struct image *reading; /* whose files are open to be read from, as far as they were needed: */
        int read_files[LEVELS_MAX];
        const struct lazy_areas *lazy; /* what may come late; NULL: nothing */
        bool finished;
        int failed; /* sticky: negative errno of a write that failed */
};

/* Forget what is open of the image that pages came for last; cuts its file to size. Negative errno. */
int pagemap_writer_close(struct pagemap_writer *writer);
/* Begin the directory of a round, or the last level. Negative errno. */
int pagemap_writer_level(struct pagemap_writer *writer);
/* May more be written? Else an error. */
int pagemap_writer_check(const struct pagemap_writer *writer, struct error *err);
/* From now on every call fails; returns `r`. */
int pagemap_writer_failed(struct pagemap_writer *writer, int r, struct error *err);
struct image *pagemap_writer_find(struct pagemap_writer *writer, uint64_t number);
void pagemap_writer_stop_reading(struct pagemap_writer *writer);
/* The file of an image in a level; `flags` are those of open(). Negative errno. */
int pagemap_writer_open_pages(const struct pagemap_writer *writer, const struct image *image, uint32_t level,
                              int flags);
