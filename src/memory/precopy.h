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
#include "memory/tracker.h"

/*
 * Pre-copy: the memory of a workload goes to the target in rounds while it runs, each round what was written since the
 * one before, and the dump of the frozen workload leaves out what the target has.
 *
 *      watch()            running     whose memory it is
 *      scan()             stopped     a millisecond or two: what was written, armed again (if precopy_needs_stop())
 *      send()…            running     to the link, until it is 0
 *        … as often as it pays …
 *      clean()            frozen      what the dump may leave out
 *      kept()…            frozen      what it did leave out
 *
 * What a round could not read counts as dirty for good. A round may be left before all of it is sent: all memory of the
 * processes that were not through is dirty then. One thread, that of the sender's link.
 */
struct precopy;

/*
 * What becomes of a failure to follow the memory of one process. Running out of memory ends the rounds in any case, as
 * does whatever comes of the link.
 */
enum precopy_demand {
        PRECOPY_TRY,    /* all of that process is left to the dump */
        PRECOPY_INSIST, /* but where tracking it is not possible at all, and it is not about to die, the rounds fail */
};

/* `root`: the workload's first process; images bear pids of its pid namespace. `sender` is borrowed. -EOPNOTSUPP when
 * this kernel cannot track memory. */
int precopy_new(struct image_sender *sender, enum tracker_kind kind, enum precopy_demand demand, pid_t root,
                struct precopy **ret, struct error *err);
void precopy_free(struct precopy *precopy);
DEFINE_CLEANUP(struct precopy, precopy_free)

/* For tests: let the target go without some of what is written later (memory/withhold.h). -ENOMEM. */
int precopy_withhold(struct precopy *precopy);

/* The processes there are now (thread group leaders, ours to sort). One that cannot be tracked is left to the dump;
 * *reason (ERROR_NONE: all can) says why the first of them cannot. */
int precopy_watch(struct precopy *precopy, pid_t *pids, size_t n, struct error *reason, struct error *err);

/* Must the tasks stand still for precopy_scan()? */
bool precopy_needs_stop(const struct precopy *precopy);

/* A new round: what is to be sent in it. */
int precopy_scan(struct precopy *precopy, struct error *err);
uint64_t precopy_round_bytes(const struct precopy *precopy);
/* Of these: without all the memory of processes that were looked at for the first time. Only this much was written
 * since the round before. */
uint64_t precopy_written_bytes(const struct precopy *precopy);

/* How many processes the latest round looked at, and of how many. */
void precopy_coverage(const struct precopy *precopy, size_t *ret_scanned, size_t *ret_all);

/* 0 when all of the round was handed over, -EAGAIN when the link has no room. */
int precopy_send(struct precopy *precopy, struct error *err);

/* No round follows, whether the latest was sent through or not. 0, or -EAGAIN. */
int precopy_last(struct precopy *precopy, struct error *err);

/* The rounds are over: fill what criu is to leave out. May be asked once. `within`: criu is in the workload's own pid
 * namespace, and knows its processes by the numbers they have there. */
int precopy_clean(struct precopy *precopy, bool within, struct clean_pages *clean, struct error *err);

/* Tell the target what was left out, as `clean` says after the dump. 0, or -EAGAIN. */
int precopy_kept(struct precopy *precopy, const struct clean_pages *clean, struct error *err);
uint64_t precopy_kept_bytes(const struct precopy *precopy);
