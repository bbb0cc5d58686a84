/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * The record file of one migration on one side: append-only, one JSON object per line, each with "seq" (from 1),
 * "time" (ms since 1970), "record" (COMMIT, …, LEFTOVER, FREEZER, PORT, NOTE) and whatever else belongs to it, and a
 * "sum" (first 16 hex digits of SHA-256 over the line without it): fdatasync()ed before the call returns. A last line
 * torn by a crash is ignored and cut off at the next append; a damaged line elsewhere is an error, never guessed
 * around.
 */
struct journal;

/* Create (fails with -EEXIST when there is one), or open and replay. */
int journal_create(const char *path, struct journal **ret, struct error *err);
int journal_open(const char *path, struct journal **ret, struct error *err);
void journal_free(struct journal *journal);
DEFINE_CLEANUP(struct journal, journal_free)

/* Append; `fields` (may be NULL) is borrowed and must be an object. Durable when it returns 0. */
int journal_append(struct journal *journal, const char *record, const json_t *fields, struct error *err);

/* Replay in order: fn returns 0 to go on. `entry` is borrowed. Reads from memory, includes what was appended. */
int journal_each(const struct journal *journal, int (*fn)(const char *record, const json_t *entry, void *context),
                 void *context);

/* The last of the handover records (PREPARED, COMMIT, STARTING, RUNNING, RELEASED, ABORTED, DISCARDED, …), or NULL.
 * Borrowed. */
const char *journal_state(const struct journal *journal);

/* The same of a file without keeping it open; for the hold program: only these three outcomes matter there. */
int journal_peek_state(const char *path, char *ret, size_t size);
