/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>
#include <time.h>

/* Milliseconds and microseconds since an arbitrary start; never steps. For durations and time-outs. */
static inline uint64_t clock_us(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static inline uint64_t clock_ms(void)
{
        return clock_us() / 1000;
}

/* Milliseconds since 1970 (CLOCK_REALTIME). For records and for people. */
static inline int64_t clock_wall_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
