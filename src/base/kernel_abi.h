/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>
#include <sys/ioctl.h>

/*
 * What the kernel offers and the headers of Debian 12 (Linux 6.1) do not know yet. The names are our own, so that newer
 * headers do not collide. Sources: include/uapi/linux/fs.h and Documentation/admin-guide/mm/pagemap.rst (PAGEMAP_SCAN,
 * Linux 6.7), include/uapi/linux/userfaultfd.h (WP_UNPOPULATED 6.4, WP_ASYNC 6.7).
 */

/* struct page_region */
struct scan_region {
        uint64_t start, end, categories;
};

/* struct pm_scan_arg */
struct scan_request {
        uint64_t size, flags, start, end, walk_end;
        uint64_t regions, regions_size, max_pages;
        uint64_t inverted, all_of, any_of, returned;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_request)

#define SCAN_PROTECT_MATCHING (UINT64_C(1) << 0)
#define SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)

#define PAGE_WP_ALLOWED (UINT64_C(1) << 0)
#define PAGE_WRITTEN (UINT64_C(1) << 1)
#define PAGE_PRESENT (UINT64_C(1) << 3)
#define PAGE_SWAPPED (UINT64_C(1) << 4)
#define PAGE_ZERO (UINT64_C(1) << 5)
#define PAGE_GUARD (UINT64_C(1) << 8) /* Linux 6.15 */

#define UFFD_WP_UNPOPULATED (UINT64_C(1) << 13)
#define UFFD_WP_ASYNC (UINT64_C(1) << 15)
