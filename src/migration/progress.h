/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* What is shown while a migration goes on. Pure: time is passed in (monotonic milliseconds). Not thread-safe. */
#define PROGRESS_PHASE_MAX 31

struct migration_progress {
        char phase[PROGRESS_PHASE_MAX + 1]; /* the word of the report's phases, "" before the first */
        unsigned round;                     /* within the phase, from 1; 0 where there are none */
        uint64_t bytes_done, bytes_total;   /* of this round; total is an estimate, 0 when there is none */
        uint64_t rate;                      /* bytes per second, smoothed over about two seconds */
        int64_t eta_ms;                     /* to the end of this round, -1 unknown */
        int64_t dirty_rate;                 /* bytes per second the workload dirties, -1 unknown */
        int64_t predicted_downtime_ms;      /* -1 unknown */

        /* for the rate */
        uint64_t sample_ms, sample_bytes;
        unsigned samples; /* 0: none yet, 1: a beginning, more: a rate */
};

/* All unknown. Call it before anything else: zeroes would be claims. */
void migration_progress_init(struct migration_progress *progress);

/*
 * Where it is now. Another phase or round (or fewer bytes than before) begins the measurement of the rate anew; within
 * one, calls may come as often as they like. Does not touch dirty_rate and predicted_downtime_ms. A phase that is too
 * long is cut.
 */
void migration_progress_update(struct migration_progress *progress, const char *phase, unsigned round,
                               uint64_t bytes_done, uint64_t bytes_total, uint64_t now_ms);

/* {phase, round, bytes_done, bytes_total, rate, eta_ms, dirty_rate, predicted_downtime_ms}; unknown is null. New
 * reference, NULL when memory is short. */
json_t *migration_progress_to_json(const struct migration_progress *progress);

/* Checked; keys that are not known are ignored. -EBADMSG with the key in the text; *ret is then untouched. */
int migration_progress_from_json(const json_t *json, struct migration_progress *ret, struct error *err);
