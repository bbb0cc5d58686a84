/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "haulers/process/files.h"

/*
 * Option copy_files: what is missing or different on the target is brought there, beside CRIU's images. The target
 * asks, by findings "copy"; the source saves those files as images, the written ones while the tree is frozen.
 */

/* Source: the target's findings are here. */
int process_agreed(struct workload *w, const json_t *items, struct error *err);

/* Source: those that are written to when `frozen`, the others before. */
int process_copies_save(struct workload *w, int images_fd, bool frozen, struct error *err);

/* Target: on the list of leftovers; put into place; made final; taken back. `name` is the leftover's. */
int process_copies_announce(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err);
int process_copies_install(struct workload *w, const char *images, struct error *err);
int process_copies_keep(const char *name, struct error *err);
int process_copies_discard(const char *what, const char *name, struct error *err);

/*
 * Directories above `path` that do not exist yet, the uppermost first: on the list ("path"), and made. Those within the
 * first `known` bytes of it are on the list already.
 */
int process_directories_announce(const char *path, size_t known, const char *token, hauler_leftover_fn leftover,
                                 void *context, struct error *err);
int process_directories_make(const char *path);
