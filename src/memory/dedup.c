/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/dedup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory/sent_pages.h"

_Static_assert(PIECE_TABLE_ROOM(PAGE_BATCH_MAX) + (PAGE_BATCH_MAX - 1) * PAGE_BYTES <= BULK_MAX,
               "where one page is saved there is room for any table");

struct dedup {
        struct sent_pages *sent;
        struct page_hash *hash;
        uint64_t zero_pages, same_pages;

        /* the frame at hand */
        struct page_piece pieces[PAGE_BATCH_MAX];
        uint32_t n_pieces, n_pages;
        uint32_t first_saved; /* page; n_pages: none */
};

int dedup_new(size_t places, struct dedup **ret)
{
        CLEANUP(dedup_free_ptr) struct dedup *d = calloc(1, sizeof(*d));

        if (!d)
                return -ENOMEM;
        int r = sent_pages_new(places, &d->sent);
        if (r == 0)
                r = page_hash_new(&d->hash);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

void dedup_free(struct dedup *dedup)
{
        if (!dedup)
                return;
        sent_pages_free(dedup->sent);
        page_hash_free(dedup->hash);
        free(dedup);
}

uint64_t dedup_zero_pages(const struct dedup *dedup)
{
        return dedup->zero_pages;
}

uint64_t dedup_same_pages(const struct dedup *dedup)
{
        return dedup->same_pages;
}

static bool is_zero(const uint8_t *page)
{
        return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

/* Pages that lie together, there and where they come from, are one piece. */
static void add_piece(struct dedup *d, const struct page_piece *piece)
{
        struct page_piece *latest = d->n_pieces ? &d->pieces[d->n_pieces - 1] : NULL;
        const uint64_t bytes = latest ? (uint64_t)latest->n_pages * PAGE_BYTES : 0;

        if (piece->kind != PIECE_CONTENTS && d->first_saved > d->n_pages)
                d->first_saved = d->n_pages;
        d->n_pages++;
        if (latest && latest->kind == piece->kind && latest->vaddr + bytes == piece->vaddr &&
            (piece->kind != PIECE_SAME ||
             (latest->from_image == piece->from_image && latest->from_vaddr + bytes == piece->from_vaddr)))
                latest->n_pages++;
        else
                d->pieces[d->n_pieces++] = *piece;
}

/* From now on the target has this page there. */
static int add_page(struct dedup *d, const struct page_place *place, const uint8_t *page)
{
        struct page_piece piece = {.kind = PIECE_ZEROS, .vaddr = place->vaddr, .n_pages = 1};
        uint8_t tag[PAGE_TAG_BYTES];
        struct page_place from;

        if (is_zero(page)) {
                sent_pages_forget(d->sent, place);
                d->zero_pages++;
                add_piece(d, &piece);
                return 0;
        }
        page_hash_add(d->hash, page, 1);
        int r = sent_pages_tag(d->sent, page, tag);
        if (r < 0)
                return r;
        if (sent_pages_find(d->sent, tag, &from)) {
                /* It may be the very same place: written, but with what was there. */
                if (from.image != place->image || from.vaddr != place->vaddr)
                        sent_pages_forget(d->sent, place);
                piece.kind = PIECE_SAME;
                piece.from_image = from.image;
                piece.from_vaddr = from.vaddr;
                d->same_pages++;
        } else {
                sent_pages_forget(d->sent, place);
                sent_pages_note(d->sent, tag, place);
                piece.kind = PIECE_CONTENTS;
        }
        add_piece(d, &piece);
        return 0;
}

/* The slot is shared with phaul-net: what is in its table is checked, as it may not be what was written there. */
static int look_at_pages(struct dedup *d, const struct bulk_frame *frame, const uint8_t *slot)
{
        const uint8_t *page = slot + RUN_TABLE_BYTES;

        for (uint64_t i = 0; i < frame->offset; i++) {
                uint8_t copy[RUN_BYTES];
                struct page_span span;
                memcpy(copy, slot + i * RUN_BYTES, sizeof(copy));
                if (!page_span_get(copy, &span) || span.n_pages > frame->count - d->n_pages)
                        return -EBADMSG;
                for (uint32_t k = 0; k < span.n_pages; k++, page += PAGE_BYTES) {
                        const struct page_place place = {frame->object, span.vaddr + (uint64_t)k * PAGE_BYTES};
                        int r = add_page(d, &place, page);
                        if (r < 0)
                                return r;
                }
        }
        return d->n_pages == frame->count ? 0 : -EBADMSG;
}

/* Contents move together behind the table. What is before the first page that is saved stays, or, where the table needs
 * more room than that of BULK_PAGES, takes that page's. */
static uint32_t move_contents(const struct dedup *d, uint8_t *slot)
{
        uint8_t *const to = slot + PIECE_TABLE_ROOM(d->n_pieces);
        const uint8_t *const from = slot + RUN_TABLE_BYTES;
        uint32_t kept = 0, page = 0;

        if (to != from && d->first_saved)
                memmove(to, from, (size_t)d->first_saved * PAGE_BYTES);
        for (uint32_t i = 0; i < d->n_pieces; page += d->pieces[i++].n_pages) {
                const struct page_piece *piece = &d->pieces[i];
                if (piece->kind != PIECE_CONTENTS)
                        continue;
                if (page >= d->first_saved)
                        memmove(to + (size_t)kept * PAGE_BYTES, from + (size_t)page * PAGE_BYTES,
                                (size_t)piece->n_pages * PAGE_BYTES);
                kept += piece->n_pages;
        }
        return kept;
}

int dedup_frame(struct dedup *dedup, struct bulk_frame *frame, uint8_t *slot)
{
        struct dedup *d = dedup;

        if (frame->type != BULK_PAGES || frame->count == 0 || frame->count > PAGE_BATCH_MAX || frame->offset == 0 ||
            frame->offset > RUNS_PER_TABLE)
                return -EINVAL;
        d->n_pieces = d->n_pages = 0;
        d->first_saved = PAGE_BATCH_MAX + 1;
        page_hash_begin(d->hash);
        int r = look_at_pages(d, frame, slot);
        if (r < 0)
                return r;
        if (d->first_saved > d->n_pages) {
                page_hash_end(d->hash, slot, DIGEST_AT, slot + DIGEST_AT);
                return 0;
        }
        const uint32_t kept = move_contents(d, slot);
        const size_t table = PIECE_TABLE_BYTES(d->n_pieces);
        for (uint32_t i = 0; i < d->n_pieces; i++)
                page_piece_put(slot + (size_t)i * PIECE_BYTES, &d->pieces[i]);
        page_hash_end(d->hash, slot, table - DIGEST_BYTES, slot + table - DIGEST_BYTES);
        /* Of what is between the table and contents nobody is to know anything. */
        if (kept)
                memset(slot + table, 0, PIECE_TABLE_ROOM(d->n_pieces) - table);
        frame->type = BULK_PIECES;
        frame->offset = d->n_pieces;
        frame->size = (uint32_t)(kept ? PIECE_TABLE_ROOM(d->n_pieces) + (size_t)kept * PAGE_BYTES : table);
        return 0;
}
