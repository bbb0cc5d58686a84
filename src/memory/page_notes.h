/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * A value of fixed size for each page of an address space, 0 where none was noted. Memory is taken in pieces for 512
 * pages at a time, out of an allowance that several may share; what finds no room has no value. One thread.
 */
struct page_notes;

/* `allowance`, in bytes, is borrowed: less is left of it while notes are kept. `value_bytes`: at most 64. NULL: no
 * memory. */
struct page_notes *page_notes_new(size_t value_bytes, size_t *allowance);
void page_notes_free(struct page_notes *notes);
DEFINE_CLEANUP(struct page_notes, page_notes_free)

/* The value of the page at `vaddr`, to be read or changed, until the next call of page_notes_make(); NULL: none. */
void *page_notes_find(struct page_notes *notes, uint64_t vaddr);
/* The same, with room for one that has none; NULL: no memory, or nothing left of the allowance. */
void *page_notes_make(struct page_notes *notes, uint64_t vaddr);

/* Pages from `start` up to `end` have no value any more. */
void page_notes_erase(struct page_notes *notes, uint64_t start, uint64_t end);
