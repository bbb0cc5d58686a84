/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json_text.h"
#include "base/name.h"

const char *text_bytes(double bytes, char *buffer, size_t size)
{
        static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
        size_t unit = 0;

        while (bytes >= 999.5 && unit < sizeof(units) / sizeof(units[0]) - 1) {
                bytes /= 1000;
                unit++;
        }
        int digits = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
        (void)snprintf(buffer, size, "%.*f %s", digits, bytes, units[unit]);
        return buffer;
}

const char *text_duration(double ms, char *buffer, size_t size)
{
        if (ms < 999.5)
                (void)snprintf(buffer, size, "%.0f ms", ms);
        else if (ms < 59995)
                (void)snprintf(buffer, size, "%.2f s", ms / 1000);
        else if (ms < 3600000)
                (void)snprintf(buffer, size, "%d min %d s", (int)(ms / 60000), (int)(ms / 1000) % 60);
        else
                (void)snprintf(buffer, size, "%d h %d min", (int)(ms / 3600000), (int)(ms / 60000) % 60);
        return buffer;
}

const char *text_time(int64_t wall_ms, char *buffer, size_t size)
{
        time_t at = (time_t)(wall_ms / 1000);
        struct tm tm;

        if (!localtime_r(&at, &tm) || strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &tm) == 0)
                (void)snprintf(buffer, size, "?");
        return buffer;
}

int text_parse_rate(const char *text, int64_t *ret, struct error *err)
{
        static const char units[] = "kMG";
        char quoted[96], *end = NULL;

        double n = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;
        if (end && *end) {
                const char *unit = end[1] ? NULL : strchr(units, *end == 'K' ? 'k' : *end);
                for (const char *u = units; unit && u <= unit; u++)
                        n *= 1000;
                if (!unit)
                        n = -1;
        }
        if (!(n >= 1000 && n <= 1e12))
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "'%s' is not a rate: bytes per second, at least 1k, such as 800k, 100M or 1.5G",
                                      name_quote(text, quoted, sizeof(quoted)));
        *ret = (int64_t)n;
        return 0;
}

int text_parse_number(const char *what, const char *text, int64_t min, int64_t max, int64_t *ret, struct error *err)
{
        char quoted[96], *end;

        errno = 0;
        long long n = strtoll(text, &end, 10);
        if (errno || *text < '0' || *text > '9' || *end || n < min || n > max)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s: '%s' is not a number from %lld to %lld", what,
                                      name_quote(text, quoted, sizeof(quoted)), (long long)min, (long long)max);
        *ret = n;
        return 0;
}

const char *text_migrated(const json_t *report, char *buffer, size_t size)
{
        char total[32], downtime[32], sent[32], renamed[NAME_MAX_LENGTH + 8] = "";
        json_int_t rounds = json_integer_value(json_object_get(report, "rounds"));
        const char *name = json_text(report, "name"), *target_name = json_text(report, "target_name");

        if (*target_name && strcmp(name, target_name) != 0)
                (void)snprintf(renamed, sizeof(renamed), " as %s", target_name);
        const json_t *down = json_object_get(report, "downtime_ms");

        /* One that was stopped before has none. */
        (void)snprintf(buffer, size, "migrated %s/%s %s -> %s%s in %s%s%s, %s sent, %lld round%s",
                       json_text(report, "kind"), name, json_text(report, "source"), json_text(report, "target"),
                       renamed,
                       text_duration(json_number_value(json_object_get(report, "total_ms")), total, sizeof(total)),
                       json_is_number(down) ? ", downtime " : "",
                       json_is_number(down) ? text_duration(json_number_value(down), downtime, sizeof(downtime)) : "",
                       text_bytes(json_number_value(json_object_get(report, "bytes_sent")), sent, sizeof(sent)),
                       (long long)rounds, rounds == 1 ? "" : "s");
        return buffer;
}

const char *text_not_migrated(const json_t *report, char *buffer, size_t size)
{
        const char *owner = json_text(report, "owner"), *reason = json_text(report, "reason");
        const char *source = json_text(report, "source"), *target = json_text(report, "target");
        enum error_kind kind = text_result_kind(report);
        char where[256] = "";

        /* Nothing was touched, and what is not there runs nowhere. */
        if (kind == ERROR_NOT_FOUND) {
                (void)snprintf(buffer, size, "%s", *reason ? reason : "not found");
                return buffer;
        }
        if (kind == ERROR_LOST)
                (void)snprintf(where, sizeof(where), "the workload was lost");
        else if (strcmp(owner, "target") == 0)
                (void)snprintf(where, sizeof(where), "it is on %s now", target);
        else if (strcmp(owner, "unknown") == 0)
                (void)snprintf(where, sizeof(where),
                               "it is not known where it runs; nothing was thrown away, look at %s and %s", source,
                               target);
        else
                (void)snprintf(where, sizeof(where), "it still runs on %s", source);
        (void)snprintf(buffer, size, "%s/%s was %s: %s\n%s", json_text(report, "kind"), json_text(report, "name"),
                       kind == ERROR_CANCELLED ? "not migrated, cancelled" : "not migrated",
                       *reason ? reason : json_text(report, "result"), where);
        return buffer;
}

enum error_kind text_result_kind(const json_t *report)
{
        const char *result = json_text(report, "result");
        const char *kind = json_text(json_object_get(report, "failure"), "kind");

        if (strcmp(result, "done") == 0)
                return ERROR_NONE;
        /* "failed" may say more exactly what kind of failure it was. */
        if (strcmp(result, "failed") == 0 && *kind && error_kind_from_name(kind) != ERROR_NONE)
                return error_kind_from_name(kind);
        return error_kind_from_name(result);
}
