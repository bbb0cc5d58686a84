/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * One pagemap-*.img, as CRIU 3.x and 4.x read it: magic, then size-prefixed protobuf: pagemap_head, pagemap_entry…
 * (criu's images/pagemap.proto). Entries come with rising addresses; what continues the one before with equal flags
 * becomes one with it. Blocking writes, meant for a tmpfs. One thread.
 */
struct pagemap_file;

/* Makes the file, which must not exist; `pages_id`: the number of its pages-N.img. 0 or negative errno. */
int pagemap_file_new(int dir_fd, const char *name, uint32_t pages_id, struct pagemap_file **ret);
int pagemap_file_add(struct pagemap_file *file, uint64_t vaddr, uint64_t n_pages, uint32_t flags);
/* All of it is written when this returns 0. Frees the object in any case. */
int pagemap_file_close(struct pagemap_file *file);
