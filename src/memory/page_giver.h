/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "memory/image_stream.h"

/*
 * Post-copy, on the source: answers BULK_WANTED (image_stream.h) with pages, those first that a task waits for. It
 * knows nothing of what was sent before: whoever has lost a link asks again. One thread, that of the links.
 */
struct page_giver;

/* As late_memory_read(). */
typedef ssize_t (*page_read_fn)(uint64_t image, const struct page_span *spans, uint32_t n_spans, void *to,
                                void *context);

int page_giver_new(page_read_fn read, void *context, struct page_giver **ret);
void page_giver_free(struct page_giver *giver);
DEFINE_CLEANUP(struct page_giver, page_giver_free)

/* The link, once it is open; none: it was lost, and what was wanted on it is forgotten. Between the two frames may
 * come. */
void page_giver_link(struct page_giver *giver, struct bundle *bundle);

/* A frame of the target. -EBADMSG for one that cannot be. */
int page_giver_wanted(struct page_giver *giver, const struct bulk_frame *frame, const void *data, struct error *err);

/* As much as the link has room for; to be called after wanted(), and when the link is writable. Without a link: 0. */
int page_giver_give(struct page_giver *giver, struct error *err);

/* Given so far: to tasks that waited (with what lies around), and of itself. */
uint64_t page_giver_urgent_bytes(const struct page_giver *giver);
uint64_t page_giver_other_bytes(const struct page_giver *giver);
