/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/address_space.h"

/*
 * What /proc/PID/pagemap says of each page, 64 bits (Documentation/admin-guide/mm/pagemap.rst). Frames are shown to
 * CAP_SYS_ADMIN only, and are 0 for others.
 */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61) /* of a file, or shared, or the huge page of zeros */
#define ENTRY_SOFT_DIRTY (UINT64_C(1) << 55)
#define ENTRY_FRAME                                                                                                    \
        ((UINT64_C(1) << 55) - 1) /* present: page frame; swapped: type in the lowest 5 bits, and offset               \
                                   */

/* The frame of the one page of zeros that is mapped where memory was only read; 0: there is none, or it is not shown to
 * us. */
uint64_t page_table_zero_frame(void);

/*
 * Does a page of private memory without a file have contents of its own? Not what was only read; nor what is called
 * swapped but is a marker of something else (a guard page, write protection), whose types come after those of swap.
 */
bool page_entry_has_contents(uint64_t entry, uint64_t zero_frame);

/* Entries of pages from `vaddr` on, one after the other; a negative return ends the walk with it. */
typedef int (*page_entries_fn)(uint64_t vaddr, const uint64_t *entries, size_t n, void *context);

/* Larger areas are reservations: before Linux 6.7 (PAGEMAP_SCAN) it takes too long to look for what is used of them. */
#define PAGE_TABLE_AREA_MAX (UINT64_C(1) << 40)

/*
 * The pages of all areas that are present or swapped, by rising address, in portions; others may be among them. Where
 * the kernel does not help, those of more than PAGE_TABLE_AREA_MAX are passed over. -EIO for page tables that end
 * before their areas do.
 */
int page_table_walk(int pagemap, const struct address_space *space, page_entries_fn found, void *context);
