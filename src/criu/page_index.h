/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * Where the pages of one address space lie that came in rounds: sorted runs of pages, each in the file of the round
 * that brought it first. Later rounds write over them in place, so that a page is stored once. One thread.
 */
struct page_run {
        uint64_t vaddr; /* page-aligned */
        uint64_t n_pages;
        uint64_t position; /* of its first page in the file, in pages */
        uint32_t level;    /* which file: the caller's number */
};

struct page_index {
        struct page_run *known; /* of earlier rounds, sorted */
        size_t n_known;
        struct page_run *fresh; /* of this round, sorted: not found by page_index_find() yet */
        size_t n_fresh, room;
};

/* A run of this round, behind all runs added in it before. 0 or -ENOMEM. */
int page_index_add(struct page_index *index, const struct page_run *run);

/* The round is over: its runs are known from now on. 0 or -ENOMEM. */
int page_index_settle(struct page_index *index);

/* The first known run that ends behind `vaddr`; it may begin behind it, too. NULL: none. */
const struct page_run *page_index_find(const struct page_index *index, uint64_t vaddr);

/* The run that has this page, also of this round. NULL: none. */
const struct page_run *page_index_lookup(const struct page_index *index, uint64_t vaddr);

uint64_t page_run_end(const struct page_run *run);

void page_index_done(struct page_index *index);
