/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Numbers for people: decimal units, three significant digits. Each returns `buffer`. */
const char *text_bytes(double bytes, char *buffer, size_t size);           /* "268 MB" */
const char *text_duration(double milliseconds, char *buffer, size_t size); /* "143 ms", "2.31 s", "3 min 20 s" */
const char *text_time(int64_t wall_ms, char *buffer, size_t size);         /* local time, "2025-03-01 14:02:11" */

/* "100M": bytes per second; k, M, G are powers of 1000. ERROR_USAGE. */
int text_parse_rate(const char *text, int64_t *ret, struct error *err);
int text_parse_number(const char *what, const char *text, int64_t min, int64_t max, int64_t *ret, struct error *err);

/* "migrated lxc/web alpha -> beta in 2.31 s, downtime 143 ms, 268 MB sent, 4 rounds" */
const char *text_migrated(const json_t *report, char *buffer, size_t size);

/* Why it was not, and who has the workload now. */
const char *text_not_migrated(const json_t *report, char *buffer, size_t size);

/* The kind of error a report's result stands for; ERROR_NONE when done. */
enum error_kind text_result_kind(const json_t *report);
