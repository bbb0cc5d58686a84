/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "criu/clean_pages.h"
#include "memory/image_stream.h"

/*
 * Post-copy, on the source: which memory of the frozen tasks may go to the target when the copy runs there already, and
 * reading it until then.
 *
 * What may is what CRIU can restore late there (criu/lazy_areas.h), judged from /proc: private, without a file, not
 * locked, not emptied on a fork; and unless `unshare` is set nothing that a child has with the same bounds as its
 * parent, because the target keeps that shared. This is meant to be no more than what the target finds in CRIU's
 * images; the target checks, and refuses what is.
 *
 *      watch()      frozen      whose memory it is
 *      mark()       frozen      what criu may leave out
 *      left()…      frozen      after the dump: tell the target what it did leave out
 *      read()       frozen      whatever it wants of that; after watch() in a later process, too
 *
 * One thread. The tasks stay frozen all the time, and alive until nothing is wanted any more.
 */
struct late_memory;

/* Can this kernel tell which pages a process has, as CRIU asks for them? -EOPNOTSUPP with the reason. */
int late_memory_possible(struct error *err);

/* `root`: the workload's first process. -ESRCH when it is gone. */
int late_memory_new(pid_t root, struct late_memory **ret, struct error *err);
void late_memory_free(struct late_memory *late);
DEFINE_CLEANUP(struct late_memory, late_memory_free)

/* Thread group leaders, in our pid namespace. Those that are no part of the workload are left out. */
int late_memory_watch(struct late_memory *late, const pid_t *pids, size_t n, struct error *err);

/* `within` as in precopy_clean(). Of a process that cannot be looked at nothing is marked. */
int late_memory_mark(struct late_memory *late, bool within, bool unshare, struct clean_pages *pages, struct error *err);

/* 0, or -EAGAIN when the sender's link has no room. */
int late_memory_left(struct late_memory *late, struct image_sender *sender, const struct clean_pages *pages,
                     struct error *err);
uint64_t late_memory_left_bytes(const struct late_memory *late);

/* The pages of these spans, one after the other, as far as they can be read: their number, 0 for not even the first.
 * -ESRCH when there is no such process any more. Matches page_read_fn. */
ssize_t late_memory_read(uint64_t image, const struct page_span *spans, uint32_t n_spans, void *to, void *late);
