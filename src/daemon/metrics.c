/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "daemon/api.h"
#include "daemon/migrations.h"

/* Prometheus text format 0.0.4. Totals come from the history, so they survive a restart of phauld. */

static void write_count(const char *kind, const char *result, uint64_t count, void *context)
{
        /* Both were checked or are ours: [a-z0-9-] only, nothing to be escaped. */
        (void)fprintf(context, "phaul_migrations_total{kind=\"%s\",result=\"%s\"} %" PRIu64 "\n", kind, result, count);
}

static void write_downtimes(struct daemon *d, FILE *out)
{
        static const int64_t buckets_ms[] = {50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000};
        uint64_t count = 0;
        double sum_ms = 0;

        (void)fprintf(out, "# HELP phaul_migration_downtime_seconds Time between freeze here and running there.\n"
                           "# TYPE phaul_migration_downtime_seconds histogram\n");
        for (size_t i = 0; i < sizeof(buckets_ms) / sizeof(buckets_ms[0]); i++)
                if (history_downtimes(d->history, buckets_ms[i], &count, &sum_ms) == 0)
                        (void)fprintf(out, "phaul_migration_downtime_seconds_bucket{le=\"%g\"} %" PRIu64 "\n",
                                      (double)buckets_ms[i] / 1000, count);
        if (history_downtimes(d->history, -1, &count, &sum_ms) == 0)
                (void)fprintf(out,
                              "phaul_migration_downtime_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n"
                              "phaul_migration_downtime_seconds_sum %g\n"
                              "phaul_migration_downtime_seconds_count %" PRIu64 "\n",
                              count, sum_ms / 1000, count);
}

void api_get_metrics(struct daemon *d, struct request *r, const char *argument)
{
        struct history_totals totals;
        AUTO_FREE char *text = NULL;
        struct error err = {0};
        size_t size = 0;

        (void)argument;
        FILE *out = open_memstream(&text, &size);
        if (!out) {
                (void)error_set(&err, ENOMEM, "out of memory");
                request_reply_problem(r, 0, &err);
                return;
        }
        (void)fprintf(out,
                      "# HELP phaul_build_info Version of phauld.\n"
                      "# TYPE phaul_build_info gauge\n"
                      "phaul_build_info{version=\"%s\"} 1\n"
                      "# HELP phaul_migrations_in_progress Migrations that run now, to and from this host.\n"
                      "# TYPE phaul_migrations_in_progress gauge\n"
                      "phaul_migrations_in_progress %u\n"
                      "# HELP phaul_migrations_total Ended migrations.\n"
                      "# TYPE phaul_migrations_total counter\n",
                      PHAUL_VERSION, migrations_in_progress(d->migrations));
        if (history_counts(d->history, write_count, out, &totals) == 0)
                (void)fprintf(out,
                              "# HELP phaul_transfer_bytes_total Bytes of ended migrations.\n"
                              "# TYPE phaul_transfer_bytes_total counter\n"
                              "phaul_transfer_bytes_total{direction=\"sent\"} %" PRIu64 "\n"
                              "phaul_transfer_bytes_total{direction=\"received\"} %" PRIu64 "\n",
                              totals.bytes_sent, totals.bytes_received);
        write_downtimes(d, out);
        if (fclose(out) != 0) {
                (void)error_set(&err, ENOMEM, "out of memory");
                request_reply_problem(r, 0, &err);
                return;
        }
        request_reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", text);
}
