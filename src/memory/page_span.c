/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "memory/image_stream.h"
#include "wire/bytes.h"

void page_span_put(uint8_t to[static RUN_BYTES], const struct page_span *span)
{
        put_be64(to, span->vaddr);
        put_be32(to + 8, span->n_pages);
        put_be32(to + 12, 0);
}

bool page_span_get(const uint8_t from[static RUN_BYTES], struct page_span *ret)
{
        ret->vaddr = get_be64(from);
        ret->n_pages = get_be32(from + 8);
        return ret->n_pages != 0 && get_be32(from + 12) == 0;
}

void page_piece_put(uint8_t to[static PIECE_BYTES], const struct page_piece *piece)
{
        const bool same = piece->kind == PIECE_SAME;

        put_be64(to, piece->vaddr);
        put_be32(to + 8, piece->n_pages);
        put_be32(to + 12, (uint32_t)piece->kind);
        put_be64(to + 16, same ? piece->from_image : 0);
        put_be64(to + 24, same ? piece->from_vaddr : 0);
}

bool page_piece_get(const uint8_t from[static PIECE_BYTES], struct page_piece *ret)
{
        const uint32_t kind = get_be32(from + 12);

        if (kind > PIECE_SAME)
                return false;
        *ret = (struct page_piece){
                .vaddr = get_be64(from),
                .n_pages = get_be32(from + 8),
                .kind = (enum piece_kind)kind,
                .from_image = get_be64(from + 16),
                .from_vaddr = get_be64(from + 24),
        };
        return ret->n_pages != 0 && (kind == PIECE_SAME || (ret->from_image == 0 && ret->from_vaddr == 0));
}

/* -- digests ---------------------------------------------------------------------------------------------------------
 */

/* The pages first: their hash is the seed of the table's. */
static void finish(XXH128_hash_t pages, const uint8_t *table, size_t size, uint8_t ret[static DIGEST_BYTES])
{
        XXH128_canonical_t canonical;

        _Static_assert(sizeof(canonical) == DIGEST_BYTES, "the digest has its place");
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(table, size, pages.low64 ^ pages.high64));
        memcpy(ret, &canonical, DIGEST_BYTES);
}

void page_digest(const uint8_t *data, uint32_t n_pages, uint8_t ret[static DIGEST_BYTES])
{
        finish(XXH3_128bits(data + RUN_TABLE_BYTES, (size_t)n_pages * PAGE_BYTES), data, DIGEST_AT, ret);
}

struct page_hash {
        XXH3_state_t *state;
};

int page_hash_new(struct page_hash **ret)
{
        CLEANUP(page_hash_free_ptr) struct page_hash *h = calloc(1, sizeof(*h));

        if (!h)
                return -ENOMEM;
        h->state = XXH3_createState();
        if (!h->state)
                return -ENOMEM;
        *ret = TAKE_PTR(h);
        return 0;
}

void page_hash_free(struct page_hash *hash)
{
        if (!hash)
                return;
        (void)XXH3_freeState(hash->state);
        free(hash);
}

void page_hash_begin(struct page_hash *hash)
{
        (void)XXH3_128bits_reset(hash->state);
}

void page_hash_add(struct page_hash *hash, const uint8_t *pages, uint32_t n_pages)
{
        (void)XXH3_128bits_update(hash->state, pages, (size_t)n_pages * PAGE_BYTES);
}

void page_hash_end(const struct page_hash *hash, const uint8_t *table, size_t size, uint8_t ret[static DIGEST_BYTES])
{
        finish(XXH3_128bits_digest(hash->state), table, size, ret);
}
