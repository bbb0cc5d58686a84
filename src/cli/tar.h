/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * Writing a tar archive (POSIX.1-1988 ustar) of plain files, all 0600 and of root, to a descriptor. 0 or negative
 * errno; -ENAMETOOLONG for a name of more than 99 bytes.
 */
int tar_add(int fd, const char *name, const void *data, size_t size, int64_t modified_s);
int tar_end(int fd);
