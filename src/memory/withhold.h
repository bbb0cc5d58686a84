/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "base/cleanup.h"
#include "memory/image_stream.h"

/*
 * For tests: a tracker that is broken on purpose. Some of the pages that rounds send again stay away, although the
 * tracker is told that they were sent, so that the target has what they held before and the dump leaves them out. What
 * checks its own memory must notice. Built in only with -Dfault_points=true (session/fault_point.h).
 */
struct withhold;

#ifdef PHAUL_FAULT_POINTS
int withhold_new(struct withhold **ret);
void withhold_free(struct withhold *withhold);

/* How many of these pages, counted from their end and all in the last span that they reach, are to stay away now: 0
 * for a NULL, and for what was never sent before. The others count as sent from now on. */
uint32_t withhold_some(struct withhold *withhold, uint64_t image, const struct page_span *spans, uint32_t n_pages);
#else
static inline int withhold_new(struct withhold **ret)
{
        *ret = NULL;
        return 0;
}

static inline void withhold_free(struct withhold *withhold)
{
        (void)withhold;
}

static inline uint32_t withhold_some(struct withhold *withhold, uint64_t image, const struct page_span *spans,
                                     uint32_t n_pages)
{
        (void)withhold;
        (void)image;
        (void)spans;
        (void)n_pages;
        return 0;
}
#endif
