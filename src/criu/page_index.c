/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/page_index.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "criu/page_server.h"

void page_index_done(struct page_index *index)
{
        free(index->known);
        free(index->fresh);
        *index = (struct page_index){0};
}

uint64_t page_run_end(const struct page_run *run)
{
        return run->vaddr + run->n_pages * PAGE_BYTES;
}

static bool continues(const struct page_run *run, const struct page_run *next)
{
        return run->level == next->level && page_run_end(run) == next->vaddr &&
               run->position + run->n_pages == next->position;
}

int page_index_add(struct page_index *index, const struct page_run *run)
{
        struct page_run *last = index->n_fresh ? &index->fresh[index->n_fresh - 1] : NULL;

        if (last && continues(last, run)) {
                last->n_pages += run->n_pages;
                return 0;
        }
        if (!index->fresh || index->n_fresh == index->room) {
                size_t room = index->room ? 2 * index->room : 64;
                struct page_run *grown = reallocarray(index->fresh, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                index->fresh = grown;
                index->room = room;
        }
        index->fresh[index->n_fresh++] = *run;
        return 0;
}

int page_index_settle(struct page_index *index)
{
        size_t a = 0, b = 0, n = 0;

        if (index->n_fresh == 0)
                return 0;
        struct page_run *merged = calloc(index->n_known + index->n_fresh, sizeof(*merged));
        if (!merged)
                return -ENOMEM;
        while (a < index->n_known || b < index->n_fresh) {
                const bool old =
                        b == index->n_fresh || (a < index->n_known && index->known[a].vaddr < index->fresh[b].vaddr);
                merged[n++] = old ? index->known[a++] : index->fresh[b++];
        }
        free(index->known);
        index->known = merged;
        index->n_known = n;
        free(TAKE_PTR(index->fresh));
        index->n_fresh = index->room = 0;
        return 0;
}

/* The first that ends behind `vaddr`. */
static const struct page_run *find_in(const struct page_run *list, size_t n, uint64_t vaddr)
{
        size_t low = 0, high = n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;
                if (page_run_end(&list[middle]) <= vaddr)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < n ? &list[low] : NULL;
}

const struct page_run *page_index_find(const struct page_index *index, uint64_t vaddr)
{
        return find_in(index->known, index->n_known, vaddr);
}

const struct page_run *page_index_lookup(const struct page_index *index, uint64_t vaddr)
{
        const struct page_run *run = page_index_find(index, vaddr);

        if (!run || run->vaddr > vaddr)
                run = find_in(index->fresh, index->n_fresh, vaddr);
        return run && run->vaddr <= vaddr ? run : NULL;
}
