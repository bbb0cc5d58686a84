/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/page_scan.h"

#include <errno.h>
#include <stddef.h>
#include <sys/ioctl.h>

#define REGIONS 2048

/*
 * After more than 512 regions the kernel may say that a walk that is through ended where a buffer of its own was full
 * (it keeps the old value): some are seen twice then.
 */
int page_scan(int pagemap, const struct scan_request *what, uint64_t start, uint64_t end, page_scan_fn found,
              void *context)
{
        struct scan_region regions[REGIONS];
        uint64_t told = start;

        while (start < end) {
                struct scan_request q = *what;
                q.size = sizeof(q);
                q.start = start;
                q.end = end;
                q.regions = (uintptr_t)regions;
                q.regions_size = REGIONS;
                const int n = ioctl(pagemap, SCAN_IOCTL, &q);
                if (n < 0)
                        return -errno;
                if (q.walk_end <= start || q.walk_end > end || n > REGIONS)
                        return -EIO;
                for (int i = 0; i < n; i++) {
                        if (regions[i].end <= told)
                                continue;
                        int r = found(regions[i].start > told ? regions[i].start : told, regions[i].end, context);
                        if (r < 0)
                                return r;
                        told = regions[i].end;
                }
                start = q.walk_end;
        }
        return 0;
}
