/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/image_stream.h"

/*
 * Leaves out of frames of pages what the target has already: pages of zeros, and pages equal to one that was sent
 * before (sent_pages.h). Takes at most `places` * SENT_PAGE_BYTES of memory. One thread.
 */
struct dedup;

int dedup_new(size_t places, struct dedup **ret);
void dedup_free(struct dedup *dedup);
DEFINE_CLEANUP(struct dedup, dedup_free)

/*
 * A frame BULK_PAGES with BULK_CHECKED, about to be sent, whose table and pages are in the slot (all but the digest).
 * Becomes BULK_PIECES where something is saved; the digest is made in any case. Once for each frame, in their order:
 * all of them are taken for sent. -EBADMSG for a table that is none, -ENOMEM.
 */
int dedup_frame(struct dedup *dedup, struct bulk_frame *frame, uint8_t *slot);

/* Pages so far. */
uint64_t dedup_zero_pages(const struct dedup *dedup);
uint64_t dedup_same_pages(const struct dedup *dedup);
