/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "pages/ledger.h"

/*
 * The files of the images that owed pages lie in, mapped; and how many of the pages in each piece of them somebody
 * still waits for, so that a piece of which nobody does is given back to the system. Built anew by every worker from
 * the ledger. page_store_settled() may be called by several threads at once.
 */
struct page_store;

/* Files that an earlier worker has opened are taken from the ledger, in which the others are noted. */
int page_store_new(struct page_ledger *ledger, int images_fd, struct page_store **ret, struct error *err);
void page_store_free(struct page_store *store);
DEFINE_CLEANUP(struct page_store, page_store_free)

/* The bytes of a page, readable as long as it is owed to anybody. */
void *page_store_at(const struct page_store *store, uint32_t file, uint64_t position);

/* A space more, or less, waits for those pages. The second matches ledger_settled_fn; pieces that are through go. */
void page_store_owe(struct page_store *store, uint32_t file, uint64_t position, uint64_t n_pages);
void page_store_settled(uint32_t file, uint64_t position, uint64_t n_pages, void *store);

/* The piece that a page lies in. */
struct ledger_part page_store_piece(uint32_t file, uint64_t position);
/* Pages that were given, and are still in the store because others of their piece are wanted. */
uint64_t page_store_twice(const struct page_store *store);

/* From now on pieces are given back; at once those in which nobody is owed anything. CRIU must have read its own. */
void page_store_release(struct page_store *store);
