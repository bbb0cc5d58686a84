/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/page_notes.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_SHIFT 12
#define PIECE_SHIFT (PAGE_SHIFT + 9)
#define PIECE_PAGES 512U

struct piece {
        uint64_t number; /* address >> PIECE_SHIFT */
        uint8_t *values;
};

struct page_notes {
        size_t value_bytes, *allowance;
        struct piece *pieces; /* by rising number */
        size_t n, room, latest;
};

struct page_notes *page_notes_new(size_t value_bytes, size_t *allowance)
{
        struct page_notes *notes = calloc(1, sizeof(*notes));

        if (notes)
                *notes = (struct page_notes){.value_bytes = value_bytes, .allowance = allowance};
        return notes;
}

void page_notes_free(struct page_notes *notes)
{
        if (!notes)
                return;
        for (size_t i = 0; i < notes->n; i++)
                free(notes->pieces[i].values);
        *notes->allowance += notes->n * notes->value_bytes * PIECE_PAGES;
        free(notes->pieces);
        free(notes);
}

/* The first piece that is not before `number`; the one of the call before is the usual answer. */
static size_t search(struct page_notes *notes, uint64_t number)
{
        size_t low = 0, high = notes->n;

        if (notes->latest < notes->n && notes->pieces[notes->latest].number == number)
                return notes->latest;
        while (low < high) {
                const size_t middle = low + (high - low) / 2;
                if (notes->pieces[middle].number < number)
                        low = middle + 1;
                else
                        high = middle;
        }
        return notes->latest = low;
}

static void *value_at(const struct page_notes *notes, size_t piece, uint64_t vaddr)
{
        return notes->pieces[piece].values + (vaddr >> PAGE_SHIFT) % PIECE_PAGES * notes->value_bytes;
}

static bool has(const struct page_notes *notes, size_t piece, uint64_t number)
{
        return piece < notes->n && notes->pieces[piece].number == number;
}

void *page_notes_find(struct page_notes *notes, uint64_t vaddr)
{
        const uint64_t number = vaddr >> PIECE_SHIFT;
        const size_t i = search(notes, number);

        return has(notes, i, number) ? value_at(notes, i, vaddr) : NULL;
}

void *page_notes_make(struct page_notes *notes, uint64_t vaddr)
{
        const uint64_t number = vaddr >> PIECE_SHIFT;
        const size_t i = search(notes, number), bytes = notes->value_bytes * PIECE_PAGES;

        if (has(notes, i, number))
                return value_at(notes, i, vaddr);
        if (*notes->allowance < bytes)
                return NULL;
        if (notes->n == notes->room) {
                size_t room = notes->room ? 2 * notes->room : 16;
                struct piece *grown = reallocarray(notes->pieces, room, sizeof(*grown));
                if (!grown)
                        return NULL;
                notes->pieces = grown;
                notes->room = room;
        }
        uint8_t *values = calloc(PIECE_PAGES, notes->value_bytes);
        if (!values)
                return NULL;
        memmove(&notes->pieces[i + 1], &notes->pieces[i], (notes->n - i) * sizeof(*notes->pieces));
        notes->pieces[i] = (struct piece){.number = number, .values = values};
        notes->n++;
        *notes->allowance -= bytes;
        return value_at(notes, i, vaddr);
}

void page_notes_erase(struct page_notes *notes, uint64_t start, uint64_t end)
{
        const uint64_t first = start >> PAGE_SHIFT, last = end >> PAGE_SHIFT;

        for (size_t i = search(notes, start >> PIECE_SHIFT); i < notes->n; i++) {
                const uint64_t begin = notes->pieces[i].number * PIECE_PAGES;
                if (begin >= last)
                        break;
                const uint64_t from = first > begin ? first - begin : 0;
                const uint64_t to = last - begin < PIECE_PAGES ? last - begin : PIECE_PAGES;
                if (from < to)
                        memset(notes->pieces[i].values + from * notes->value_bytes, 0,
                               (to - from) * notes->value_bytes);
        }
}
