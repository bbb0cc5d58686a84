/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/tracker.h"

/* One way of tracking, behind the calls of memory/tracker.h, which say what each has to do. `state` is its own. */
struct track_ops {
        int (*open)(void **ret_state, struct error *err);
        void (*close)(void *state);
        bool (*is_new)(void *state, pid_t pid);
        void (*forget)(void *state, pid_t pid);
        void (*sweep)(void *state);
        int (*attach)(void *state, pid_t pid, struct error *err);
        int (*scan)(void *state, pid_t pid, tracker_range_fn found, void *context, struct error *err);
        int (*clean)(void *state, pid_t pid, tracker_range_fn found, void *context, struct error *err);
};

extern const struct track_ops track_uffd;
