/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/*
 * When the rounds of pre-copy end: what the downtime would be if the workload were stopped now, and whether another
 * round would make it shorter. Pure: it is told what happened and when (monotonic microseconds). Not thread-safe.
 *
 * A round begins with a scan and ends when all that the scan found was handed to the link. What the workload wrote in
 * that time is left for the next one, or for the freeze:
 *
 *      left       = dirty rate x (end of the round - its scan)
 *      downtime   = floor + left / bandwidth + last look
 *
 * The dirty rate is what the scan of a round found, over the time since the scan before; so the first round knows none.
 * The floor is what dump and restore take without any memory; the last look is the tracker's, where it has to read all
 * memory once more in the end.
 */
struct convergence_round {
        uint64_t scanned_us, sent_us;
        uint64_t last_us; /* how long the last look will take, as this one did; 0: no time */
        uint64_t bytes;   /* that it carried */
        uint64_t written; /* of these, written since the scan before; the others were looked at for the first time */
};

enum convergence_advice {
        CONVERGENCE_AGAIN,  /* another round makes it shorter */
        CONVERGENCE_ENOUGH, /* stop: the downtime is what was allowed, or better */
        CONVERGENCE_STALLED /* another round like this one would gain nothing */
};

struct convergence {
        uint64_t allowed_ms, floor_ms;
        unsigned rounds, rounds_max;  /* at one speed of the workload */
        double bandwidth, dirty_rate; /* bytes per second; dirty rate negative while it is not known */
        double copy_ms;               /* of `left`, with the last look; negative while it is not known */
        double best_ms;               /* the shortest copy since the workload was last slowed down; negative: none */
        uint64_t scanned_us;          /* of the latest round; 0: none */
};

void convergence_init(struct convergence *c, uint64_t allowed_ms, uint64_t floor_ms, unsigned rounds_max);

enum convergence_advice convergence_round(struct convergence *c, const struct convergence_round *round);

/* The workload was slowed down: the rounds before say nothing any more about what others would gain. */
void convergence_slowed(struct convergence *c);

/* Milliseconds, bytes per second; -1 while it is not known. */
int64_t convergence_downtime_ms(const struct convergence *c);
int64_t convergence_copy_ms(const struct convergence *c);
int64_t convergence_dirty_rate(const struct convergence *c);
