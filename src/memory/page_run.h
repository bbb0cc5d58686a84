/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/tracker.h"

/* Pages that are found one by one, by rising address, told in runs. */
struct page_run {
        pid_t pid;
        tracker_range_fn found;
        void *context;
        uint64_t start, end; /* not told yet; equal: none */
};

/* After the last page. 0, or what `found` returned. */
static inline int page_run_tell(struct page_run *run)
{
        const uint64_t start = run->start, end = run->end;

        run->start = run->end = 0;
        return start < end ? run->found(run->pid, start, end, run->context) : 0;
}

static inline int page_run_add(struct page_run *run, uint64_t vaddr)
{
        int r = run->end == vaddr ? 0 : page_run_tell(run);

        if (run->start == run->end)
                run->start = vaddr;
        run->end = vaddr + 4096;
        return r;
}
