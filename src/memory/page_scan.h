/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "base/kernel_abi.h"

/* Pages of a range; a negative return ends the walk with it. */
typedef int (*page_scan_fn)(uint64_t start, uint64_t end, void *context);

/*
 * PAGEMAP_SCAN over [start, end) of /proc/PID/pagemap, as often as it takes: the pages of the categories that `what`
 * asks for (flags and masks; the rest of it is filled in), by rising address, each once. -ENOTTY before Linux 6.7; -EIO
 * for an answer that cannot be.
 */
int page_scan(int pagemap, const struct scan_request *what, uint64_t start, uint64_t end, page_scan_fn found,
              void *context);
