/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/progress.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SMOOTH_MS 2000.0 /* weight of the past */
#define SAMPLE_MS 100    /* shorter ones say more about buffers than about the link */
#define ETA_MAX_MS (365LL * 24 * 3600 * 1000)

void migration_progress_init(struct migration_progress *progress)
{
        *progress = (struct migration_progress){.eta_ms = -1, .dirty_rate = -1, .predicted_downtime_ms = -1};
}

static void sample(struct migration_progress *p, uint64_t now_ms)
{
        if (now_ms < p->sample_ms || now_ms - p->sample_ms < SAMPLE_MS)
                return;
        double ms = (double)(now_ms - p->sample_ms);
        double now = (double)(p->bytes_done - p->sample_bytes) * 1000.0 / ms;
        double weight = p->samples > 1 ? ms / (ms + SMOOTH_MS) : 1.0;
        p->rate = (uint64_t)((double)p->rate * (1.0 - weight) + now * weight);
        p->sample_ms = now_ms;
        p->sample_bytes = p->bytes_done;
        if (p->samples < 2)
                p->samples++;
}

static int64_t eta(const struct migration_progress *p)
{
        if (p->bytes_total == 0)
                return -1;
        if (p->bytes_done >= p->bytes_total)
                return 0;
        if (p->rate == 0)
                return -1;
        double ms = (double)(p->bytes_total - p->bytes_done) * 1000.0 / (double)p->rate;
        return ms > (double)ETA_MAX_MS ? -1 : (int64_t)(ms + 0.5);
}

void migration_progress_update(struct migration_progress *p, const char *phase, unsigned round, uint64_t bytes_done,
                               uint64_t bytes_total, uint64_t now_ms)
{
        const bool same = p->samples > 0 && strncmp(p->phase, phase, PROGRESS_PHASE_MAX) == 0 && p->round == round &&
                          bytes_done >= p->bytes_done;

        (void)snprintf(p->phase, sizeof(p->phase), "%s", phase);
        p->round = round;
        p->bytes_done = bytes_done;
        /* An estimate that turned out too low. */
        p->bytes_total = bytes_total && bytes_total < bytes_done ? bytes_done : bytes_total;
        if (same) {
                sample(p, now_ms);
        } else {
                p->rate = 0;
                p->samples = 1;
                p->sample_ms = now_ms;
                p->sample_bytes = bytes_done;
        }
        p->eta_ms = eta(p);
}

static json_t *number_json(uint64_t number)
{
        return json_integer(number > INT64_MAX ? INT64_MAX : (json_int_t)number);
}

static json_t *known_json(int64_t number)
{
        return number < 0 ? json_null() : json_integer(number);
}

json_t *migration_progress_to_json(const struct migration_progress *p)
{
        return json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "phase", p->phase, "round", (json_int_t)p->round,
                         "bytes_done", number_json(p->bytes_done), "bytes_total", number_json(p->bytes_total), "rate",
                         number_json(p->rate), "eta_ms", known_json(p->eta_ms), "dirty_rate", known_json(p->dirty_rate),
                         "predicted_downtime_ms", known_json(p->predicted_downtime_ms));
}

static int64_t get(const json_t *json, const char *key, int64_t max, bool may_be_null, const char **bad)
{
        const json_t *value = json_object_get(json, key);
        json_int_t number = json_integer_value(value);

        if (may_be_null && (!value || json_is_null(value)))
                return -1;
        if (!json_is_integer(value) || number < 0 || number > max) {
                *bad = key;
                return 0;
        }
        return number;
}

int migration_progress_from_json(const json_t *json, struct migration_progress *ret, struct error *err)
{
        const json_t *phase = json_object_get(json, "phase");
        const char *word = json_string_value(phase), *bad = NULL;
        struct migration_progress p = {
                .round = (unsigned)get(json, "round", UINT32_MAX, false, &bad),
                .bytes_done = (uint64_t)get(json, "bytes_done", INT64_MAX, false, &bad),
                .bytes_total = (uint64_t)get(json, "bytes_total", INT64_MAX, false, &bad),
                .rate = (uint64_t)get(json, "rate", INT64_MAX, false, &bad),
                .eta_ms = get(json, "eta_ms", INT64_MAX, true, &bad),
                .dirty_rate = get(json, "dirty_rate", INT64_MAX, true, &bad),
                .predicted_downtime_ms = get(json, "predicted_downtime_ms", INT64_MAX, true, &bad),
        };

        if (!word || json_string_length(phase) > PROGRESS_PHASE_MAX ||
            strspn(word, "abcdefghijklmnopqrstuvwxyz-") != json_string_length(phase))
                bad = "phase";
        if (bad)
                return error_set(err, EBADMSG, "the progress has no valid \"%s\"", bad);
        (void)snprintf(p.phase, sizeof(p.phase), "%s", word);
        *ret = p;
        return 0;
}
