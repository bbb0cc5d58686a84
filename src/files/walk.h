/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/stat.h>

#include "base/error.h"

/*
 * A walk through a tree: parents before children, no link followed, no mount crossed, one directory open at a time.
 * Memory grows with the number of directories waiting, not with files. What vanishes meanwhile is skipped.
 */
struct walk_dir {
        const char *path; /* below the root, "" for the root itself */
        int fd;
        const struct statx *st;
        unsigned flags; /* as entry() set them for this directory */
};

struct walk_ops {
        int (*enter)(const struct walk_dir *dir, void *context); /* may be NULL */
        /* Positive: a directory to walk as well, with *ret_flags. Negative errno ends the walk. */
        int (*entry)(const struct walk_dir *dir, const char *name, const struct statx *st, unsigned *ret_flags,
                     void *context);
        int (*leave)(const struct walk_dir *dir, void *context); /* may be NULL */
};

/* `start` is a path below root_fd or "". */
int walk_tree(int root_fd, const char *start, unsigned flags, const struct walk_ops *ops, void *context,
              struct error *err);

/* Open a directory below root_fd: no symbolic link in any component, no mount crossed, no way out. Negative errno. */
int walk_open_dir(int root_fd, const char *path);
