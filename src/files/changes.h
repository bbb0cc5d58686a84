/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "files/files.h"

/* Sender: finds what changed, holds the exchange of catalogue.h, and leaves the list for rsync. */
struct changes {
        char *list; /* paths below the room's root, each ended by NUL; the first is the tree */
        size_t size;
        uint64_t deleted; /* by the receiver */
        uint64_t written; /* bytes put on the wire */
};

/*
 * `also` is paths ended by NUL, `also_size` bytes of them. `everything`: the mark is void, all is taken as changed.
 * Fills *ret only on success. The process changes its working directory.
 */
int changes_exchange(int stream, int root_fd, const struct files_mark *since, bool everything, const char *also,
                     size_t also_size, struct changes *ret, struct error *err);
void changes_clear(struct changes *c);
