/* SPDX-License-Identifier: LGPL-2.1-or-later */
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

void page_digest(const uint8_t *data, uint32_t n_pages, uint8_t ret[static DIGEST_BYTES])
{
        /* The pages first: their hash is the seed of the table's. */
        const XXH128_hash_t pages = XXH3_128bits(data + RUN_TABLE_BYTES, (size_t)n_pages * PAGE_BYTES);
        XXH128_canonical_t canonical;

        _Static_assert(sizeof(canonical) == DIGEST_BYTES, "the digest has its place");
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(data, DIGEST_AT, pages.low64 ^ pages.high64));
        memcpy(ret, &canonical, DIGEST_BYTES);
}
