/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * Slows a workload down by the CPU limit of its cgroup (cpu.max, or cpu.cfs_quota_us and cpu.cfs_period_us of version
 * 1), step by step, so that it dirties less memory than the link takes. One thread.
 *
 * The limit that was there before is known to whoever asks for it before the first step: it has to be durable, for a
 * later process to put it back.
 */
struct throttle;

/* `directory`: of the cgroup. -EOPNOTSUPP, with the reason, where it has no CPU limit. */
int throttle_new(const char *directory, struct throttle **ret, struct error *err);
/* Puts the limit back, as throttle_lift(). */
void throttle_free(struct throttle *throttle);
DEFINE_CLEANUP(struct throttle, throttle_free)

/* The limit that was there before, as throttle_restore() takes it. */
const char *throttle_before(const struct throttle *throttle);

/*
 * The next step: so much of the CPU time that it took since the call before, or since throttle_new(), that it is slowed
 * down noticeably. 1: there is no further one. What it is allowed from now on, in thousandths of a CPU, for people.
 */
int throttle_step(struct throttle *throttle, unsigned *ret_allowed, struct error *err);

/* The limit is what it was. Nothing to do without a step; repeatable. */
int throttle_lift(struct throttle *throttle, struct error *err);

/* The same by what throttle_before() said to an earlier process. A cgroup that is gone is success. */
int throttle_restore(const char *directory, const char *before, struct error *err);
