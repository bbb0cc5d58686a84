/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "preflight/preflight.h"

#define LONG_DOWNTIME_MS 10000

static double seconds(uint64_t bytes, uint64_t per_second)
{
        return (double)bytes / (double)(per_second ? per_second : 1);
}

void preflight_predict(const struct preflight_link *link, uint64_t memory_bytes, uint64_t file_bytes,
                       hauler_report_fn report, void *context)
{
        const bool capped = link->cap && link->cap < link->bytes_per_second;
        const uint64_t rate = capped ? link->cap : link->bytes_per_second;
        const double memory = seconds(memory_bytes, rate);
        const double floor = (double)(link->floor_ms ? link->floor_ms : PREFLIGHT_FLOOR_MS) / 1000;
        const double downtime = floor + (link->tracked ? 0 : memory);
        const bool is_long = downtime * 1000 > LONG_DOWNTIME_MS;
        char text[400], what[160];

        if (link->tracked)
                (void)snprintf(what, sizeof(what),
                               "%.1f MB of memory take about %.0f s while it runs, and unless it writes faster than "
                               "that, about %.1f s of downtime",
                               (double)memory_bytes / 1e6, memory, downtime);
        else
                (void)snprintf(what, sizeof(what), "%.1f MB of memory make about %.1f s of downtime",
                               (double)memory_bytes / 1e6, downtime);

        (void)snprintf(text, sizeof(text),
                       "%.1f MB/s%s, round trip %.1f ms: %s; %.1f MB of files take about %.0f s before%s",
                       (double)rate / 1e6, capped ? " (as allowed)" : "", (double)link->round_us / 1e3, what,
                       (double)file_bytes / 1e6, seconds(file_bytes, rate),
                       is_long ? ". Clients may give up: use a faster link (--via), or make the workload smaller" : "");
        report("link", is_long ? GRADE_WARNING : GRADE_OK, text, context);
}
