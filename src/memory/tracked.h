/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* The processes that a tracker follows. A pid that was given to another process meanwhile is no longer the same. */
struct page_notes;

struct tracked {
        pid_t pid;
        int pidfd;
        bool scanned;             /* once at least, since it is followed */
        bool pending;             /* soft-dirty: scanned, but not armed yet */
        int uffd;                 /* uffd-wp: -1 while there is none */
        struct page_notes *notes; /* hash */
};

struct tracked_list {
        struct tracked *list;
        size_t n, room;
};

/* The one that has this pid now, or NULL; forgets one that had it. Pointers hold until the next call on the list. */
struct tracked *tracked_find(struct tracked_list *list, pid_t pid);
/* -ESRCH when there is none. */
int tracked_find_or_add(struct tracked_list *list, pid_t pid, struct tracked **ret, struct error *err);
void tracked_forget(struct tracked_list *list, struct tracked *process);
/* Those that are over. */
void tracked_sweep(struct tracked_list *list);
void tracked_done(struct tracked_list *list);

/* For what is asked of a process that is not in the list: -ESRCH or -EOPNOTSUPP. */
int tracked_not(pid_t pid, struct error *err);
