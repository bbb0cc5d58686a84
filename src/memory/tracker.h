/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * Which pages of a workload were written since they were last looked at, while it runs.
 *
 * What a tracker says is one-sided: a page that is not known to be unchanged counts as written. Areas that are new,
 * moved, mapped again, inherited by a fork or made by an exec are never clean until they were armed and scanned. Memory
 * with a file behind it is never tracked.
 *
 * All calls on one tracker come from one thread, and not from within a callback. A process that vanishes at any moment
 * is -ESRCH, which is no failure of the tracker. Processes are named by the pid of their thread group's leader, in our
 * pid namespace.
 */
enum tracker_kind {
        TRACKER_NONE,       /* "none": all memory is dirty always */
        TRACKER_UFFD_WP,    /* "uffd-wp": userfaultfd's asynchronous write protection and PAGEMAP_SCAN, Linux 6.7 */
        TRACKER_SOFT_DIRTY, /* "soft-dirty": a bit of the page tables, CONFIG_MEM_SOFT_DIRTY; a huge page has one for
                               all */
        TRACKER_HASH,       /* "hash": by contents, any kernel. Two pages that differ are told apart but for a chance of
                               2^-128;       all memory is read in each round and once more while it stands still */
};

/* The stable word used in options, reports and JSON. */
const char *tracker_kind_name(enum tracker_kind kind);

/* Of one workload: all its address spaces. */
struct tracker;

/*
 * -EOPNOTSUPP, with the reason, where this kernel cannot do it, or we may not: it is tried on this process, not
 * concluded from a version. Nothing of any other process is touched.
 */
int tracker_new(enum tracker_kind kind, struct tracker **ret, struct error *err);

/*
 * Closes everything. The registrations end with their descriptors, which only we hold, also when we are killed. One
 * exception: whoever kills us in the middle of an attach, or freezes the process then, may leave it a descriptor of its
 * own (memory/inject.h), and with it what was registered; the next attach finds it and does not track that process.
 */
void tracker_free(struct tracker *t);
DEFINE_CLEANUP(struct tracker, tracker_free)

/*
 * Make the address space of a process tracked, as far as it is not yet. To be called in every round for every process,
 * while it runs: the first time, and after an exec, a system call is run inside the process (memory/inject.h), which
 * stops its first thread for a fraction of a millisecond; later calls only add areas that are new.
 *
 * -EOPNOTSUPP with the reason: this process cannot be tracked, for ever (asynchronous I/O, pinned memory, a userfaultfd
 * of its own, an address space that is tracked as another process's already, …) or for now (stopped, frozen, traced).
 * Nothing of it is changed, what was tracked of it before is tracked no longer, and all its memory counts as dirty. It
 * may be tried again in the next round. The same holds for -EMFILE: so many are tracked that others would run short of
 * descriptors (fd_is_scarce()).
 */
int tracker_attach(struct tracker *t, pid_t pid, struct error *err);

/* Was nothing of it ever scanned? The first scan of an address space reports all there is, written lately or not. */
bool tracker_is_new(struct tracker *t, pid_t pid);

/*
 * For whoever did not do with the pages of a scan what they were reported for: the process is tracked no longer, as
 * after a failure, and after the next tracker_attach() everything is reported again.
 */
void tracker_forget(struct tracker *t, pid_t pid);

/*
 * Lets go of what it holds for processes that are over. To be called once in every round: their descriptors are all
 * that is left of them.
 */
void tracker_sweep(struct tracker *t);

/* Addresses in bytes, whole pages, `end` excluded. A negative return ends the scan with it; 0 otherwise. */
typedef int (*tracker_range_fn)(pid_t pid, uint64_t start, uint64_t end, void *context);

/* Must the tasks stand still (frozen cgroup) from tracker_scan() to tracker_arm()? */
bool tracker_needs_stop(const struct tracker *t);

/*
 * The pages in tracked areas that were written since the last scan of this process, in the first one all of them: those
 * that have contents of their own, so not the zero page. By rising address; each is armed again
 * in the same step. Who copies them may do so while the process runs on: what is written meanwhile is reported again.
 * What cannot be read then (unmapped, or protected meanwhile) must be remembered as dirty: if it was only protected,
 * nobody writes it and it is not reported again.
 *
 * While the tasks stand still, where the tracker needs that: a direct I/O in flight would change its page afterwards,
 * unseen. What was found out since tracker_attach() to make the process unfit is -EOPNOTSUPP, as is a process that was
 * not attached. After any failure it is not known which pages were armed: the process is tracked no longer, all its
 * memory is dirty, and after the next tracker_attach() everything is reported again.
 */
int tracker_scan(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err);

/*
 * All processes of the round were scanned: what was reported counts as such, and what is written from now on is
 * reported next time. In the same stop. Once for all, because two of them may have one memory.
 */
void tracker_arm(struct tracker *t);

/* These bytes, read of pages that the latest scan reported, are on their way. */
void tracker_sent(struct tracker *t, pid_t pid, uint64_t vaddr, size_t n_pages, const void *data);

/*
 * The opposite, without changing anything: the pages in tracked areas that were reported by an earlier scan, are still
 * there and were not written since. Only these may be left out of a dump. By rising address; the tasks stand still.
 */
int tracker_clean(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err);
