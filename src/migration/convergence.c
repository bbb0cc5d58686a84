/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/convergence.h"

#define BRIEF_US 20000        /* so short a round leaves nothing that is worth another one, whatever the dirty rate */
#define GAIN_MIN 0.9          /* of the shortest copy so far: a round that does not get below it has gained nothing */
#define MEASURABLE (1U << 20) /* bytes; the time that fewer take says more about buffers than about the link */

void convergence_init(struct convergence *c, uint64_t allowed_ms, uint64_t floor_ms, unsigned rounds_max)
{
        *c = (struct convergence){
                .allowed_ms = allowed_ms,
                .floor_ms = floor_ms,
                .rounds_max = rounds_max,
                .dirty_rate = -1,
                .copy_ms = -1,
                .best_ms = -1,
        };
}

static double per_second(uint64_t bytes, uint64_t us)
{
        return (double)bytes * 1e6 / (double)(us ? us : 1);
}

static void measure(struct convergence *c, const struct convergence_round *r)
{
        const uint64_t took = r->sent_us > r->scanned_us ? r->sent_us - r->scanned_us : 0;

        if (r->bytes >= MEASURABLE || c->bandwidth <= 0)
                c->bandwidth = per_second(r->bytes, took > r->last_us ? took - r->last_us : 0);
        if (c->scanned_us && r->scanned_us > c->scanned_us)
                c->dirty_rate = per_second(r->written, r->scanned_us - c->scanned_us);
        c->scanned_us = r->scanned_us;

        if (c->dirty_rate >= 0)
                c->copy_ms = c->bandwidth > 0 ? c->dirty_rate * (double)took / 1e3 / c->bandwidth : 0;
        else if (took < BRIEF_US)
                c->copy_ms = (double)took / 1e3;
        if (c->copy_ms >= 0)
                c->copy_ms += (double)r->last_us / 1e3;
}

enum convergence_advice convergence_round(struct convergence *c, const struct convergence_round *round)
{
        c->rounds++;
        measure(c, round);
        if (c->copy_ms < 0)
                return c->rounds < c->rounds_max ? CONVERGENCE_AGAIN : CONVERGENCE_STALLED;

        const bool gained = c->best_ms < 0 || c->copy_ms < GAIN_MIN * c->best_ms;
        if (c->best_ms < 0 || c->copy_ms < c->best_ms)
                c->best_ms = c->copy_ms;
        if (c->copy_ms + (double)c->floor_ms <= (double)c->allowed_ms)
                return CONVERGENCE_ENOUGH;
        return gained && c->rounds < c->rounds_max ? CONVERGENCE_AGAIN : CONVERGENCE_STALLED;
}

void convergence_slowed(struct convergence *c)
{
        c->best_ms = -1;
        c->rounds = 0;
}

static int64_t known(double value)
{
        return value < 0 ? -1 : value > 1e18 ? INT64_MAX : (int64_t)(value + 0.5);
}

int64_t convergence_downtime_ms(const struct convergence *c)
{
        return c->copy_ms < 0 ? -1 : known(c->copy_ms + (double)c->floor_ms);
}

int64_t convergence_copy_ms(const struct convergence *c)
{
        return known(c->copy_ms);
}

int64_t convergence_dirty_rate(const struct convergence *c)
{
        return known(c->dirty_rate);
}
