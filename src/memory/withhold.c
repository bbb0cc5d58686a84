/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/withhold.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define SLOTS 65536U
#define PAGES_MAX (SLOTS / 2) /* beyond that no more are remembered */
#define WITHHELD_MAX 32U      /* of one load */

/* Pages that were sent: a set of hashes. */
struct withhold {
        uint64_t sent[SLOTS];
        uint32_t n;
};

int withhold_new(struct withhold **ret)
{
        *ret = calloc(1, sizeof(**ret));
        return *ret ? 0 : -ENOMEM;
}

void withhold_free(struct withhold *withhold)
{
        free(withhold);
}

/* Its place, or the free one where it belongs; *ret: what stands there then. */
static uint64_t *find(struct withhold *w, uint64_t image, uint64_t vaddr, uint64_t *ret)
{
        const uint64_t key = ((vaddr / PAGE_BYTES) ^ image << 40) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        uint32_t i = (uint32_t)(key >> 48) % SLOTS;

        while (w->sent[i] && w->sent[i] != key)
                i = (i + 1) % SLOTS;
        *ret = key;
        return &w->sent[i];
}

static bool was_sent(struct withhold *w, uint64_t image, uint64_t vaddr)
{
        uint64_t key;

        return *find(w, image, vaddr, &key) != 0;
}

static void note_sent(struct withhold *w, uint64_t image, uint64_t vaddr)
{
        uint64_t key, *place = find(w, image, vaddr, &key);

        if (!*place && w->n < PAGES_MAX) {
                *place = key;
                w->n++;
        }
}

uint32_t withhold_some(struct withhold *withhold, uint64_t image, const struct page_span *spans, uint32_t n_pages)
{
        uint32_t n = 0, left = n_pages;

        if (!withhold || n_pages == 0)
                return 0;
        for (; left > spans->n_pages; spans++) {
                left -= spans->n_pages;
                for (uint32_t i = 0; i < spans->n_pages; i++)
                        note_sent(withhold, image, spans->vaddr + (uint64_t)i * PAGE_BYTES);
        }
        /* The last of them; but a frame of nothing is none. */
        while (n < left && n < WITHHELD_MAX && n + 1 < n_pages &&
               was_sent(withhold, image, spans->vaddr + (uint64_t)(left - n - 1) * PAGE_BYTES))
                n++;
        for (uint32_t i = 0; i < left - n; i++)
                note_sent(withhold, image, spans->vaddr + (uint64_t)i * PAGE_BYTES);
        return n;
}
