/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * Which memory of the tasks in an image directory may come after they run (`criu restore --lazy-pages`): what CRIU
 * registers with a userfaultfd by itself (vma_entry_can_be_lazy() of its include/vma.h), as far as nothing else of it
 * has to be there before. Read from pstree.img and mm-PID.img, which came from the other host and are checked.
 *
 * Memory that a task has inherited from its parent, and shares with it until one of them writes, would be restored as
 * two copies. It is left out, for both, unless `unshare` is set: CRIU's rule for it is prepare_cow_vmas() of
 * criu/mem.c, two private areas with the same bounds in a parent and a child that run the same program.
 */
struct lazy_areas;

/* Addresses in bytes, whole pages, `end` excluded. */
struct lazy_area {
        uint64_t start, end;
};

/* 0, -EBADMSG for images that are none, and what reading them fails with. */
int lazy_areas_read(int images_fd, bool unshare, struct lazy_areas **ret, struct error *err);

/* Those of a task, named by its pid in the images, by rising address. Borrowed. None: *ret_n is 0. */
const struct lazy_area *lazy_areas_of(const struct lazy_areas *areas, uint32_t pid, size_t *ret_n);

/* Do the images hold a user namespace, in which tasks make their userfaultfd without power over this host? */
bool lazy_areas_need_permission(int images_fd);

void lazy_areas_free(struct lazy_areas *areas);
DEFINE_CLEANUP(struct lazy_areas, lazy_areas_free)
