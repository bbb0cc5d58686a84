/* SPDX-License-Identifier: LGPL-2.1-or-later */
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
