/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"

/*
 * Ended migrations, in SQLite. Nothing that runs depends on it: the handover lives in the journals of the sessions.
 */
struct history;

int history_open(const char *path, struct history **ret, struct error *err);
void history_free(struct history *history);
DEFINE_CLEANUP(struct history, history_free)

/* `migration` is the API's document of it, with "report"; replaces an earlier one of the same id. `key` and `hash`
 * (may be NULL) are the Idempotency-Key it was ordered with. */
int history_put(struct history *history, const json_t *migration, const char *log, const char *key, const char *hash,
                struct error *err);

/* The id and request digest that go with an Idempotency-Key. -ENOENT, no message. */
int history_find_key(struct history *history, const char *key, char ret_id[static ID_LENGTH + 1],
                     char ret_hash[static 65]);

/* The document as it was put, with "log" (array of lines) on `with_log`. ERROR_NOT_FOUND. */
int history_get(struct history *history, const char *id, bool with_log, json_t **ret, struct error *err);

/* The youngest `limit`, youngest first, as a JSON array; the array is appended to. */
int history_list(struct history *history, unsigned limit, json_t *array, struct error *err);

/*
 * What a downtime was without the memory that was sent in it, in milliseconds: the median of the youngest live
 * migrations of that kind from here to that host, those of the same name before others. 0: there was none yet.
 */
int64_t history_floor(struct history *history, const char *kind, const char *name, const char *target);

struct history_totals {
        uint64_t bytes_sent, bytes_received;
};

/* One row per kind and result, for /metrics. */
typedef void (*history_count_fn)(const char *kind, const char *result, uint64_t count, void *context);
int history_counts(struct history *history, history_count_fn fn, void *context, struct history_totals *ret);

/* How many downtimes of migrations that left this host were at most `limit_ms` (-1: all), and the sum of those. */
int history_downtimes(struct history *history, int64_t limit_ms, uint64_t *ret_count, double *ret_sum_ms);
