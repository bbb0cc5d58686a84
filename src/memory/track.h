/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/tracked.h"
#include "memory/tracker.h"

/*
 * One way of tracking, behind the calls of memory/tracker.h, which say what each has to do. `state` is its own. The
 * processes are kept in tracker.c, which forgets one of which a call failed.
 */
struct track_ops {
        int (*open)(void **ret_state, struct error *err);
        void (*close)(void *state);
        bool needs_stop; /* scan() must find the tasks standing still */
        int (*attach)(void *state, struct tracked *process, struct error *err);
        int (*scan)(void *state, struct tracked *process, tracker_range_fn found, void *context, struct error *err);
        /* NULL: scan() does it. What was found is taken note of: from now on only what is written is reported. */
        int (*arm)(void *state, struct tracked *process);
        /* May be NULL. */
        void (*sent)(void *state, struct tracked *process, uint64_t vaddr, size_t n_pages, const void *data);
        /* Never of a process that was not scanned and armed. */
        int (*clean)(void *state, struct tracked *process, tracker_range_fn found, void *context, struct error *err);
};

extern const struct track_ops track_uffd, track_soft_dirty, track_hash;
