/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * The record file of one migration on one side: append-only, one JSON object per line, each with "seq" (from 1),
 * "time" (ms since 1970), "record" (COMMIT, …, LEFTOVER, FREEZER, PORT, NOTE), whatever else belongs to it, and last a
 * "sum" (the first 16 hex digits of SHA-256 over the line without `,"sum":"…"` and without its newline):
 * fdatasync()ed before the call returns.
 *
 * A last line torn by a crash (no newline at its end, or NULs where it never reached the disk) was never acknowledged:
 * it is ignored, and cut off at the next append. Any other damage is an error and never guessed around: a lost COMMIT
 * would make two workloads of one.
 *
 * One process at a time has it open (flock): a second one gets -EBUSY. Not thread-safe.
 */
struct journal;

#define JOURNAL_SIZE_MAX (16 * 1024 * 1024) /* bytes of the file */
#define JOURNAL_LINE_MAX (64 * 1024)        /* bytes of a line with its newline */
#define JOURNAL_RECORD_MAX 32               /* letters of a record's name: A-Z, 0-9, _ and - */

/*
 * Create (fails with -EEXIST when there is one; the file and its name are durable when it returns, and room is taken so
 * that a disk that fills up later does not stand between a frozen workload and its COMMIT), or open and replay.
 * -ENOENT: there is none. -EBADMSG: damaged. -EFBIG: beyond the ceilings.
 */
int journal_create(const char *path, struct journal **ret, struct error *err);
int journal_open(const char *path, struct journal **ret, struct error *err);
void journal_free(struct journal *journal);
DEFINE_CLEANUP(struct journal, journal_free)

/*
 * Append; `fields` (may be NULL) is borrowed and must be an object without the four keys above. Durable when it returns
 * 0. On failure it has not happened, now or after a crash; should even that be uncertain (the disk fails), the journal
 * refuses everything from then on with -EIO.
 */
int journal_append(struct journal *journal, const char *record, const json_t *fields, struct error *err);

/*
 * Replay in order: fn returns 0 to go on, anything else is returned at once. `entry` is borrowed. Reads from memory,
 * includes what was appended. fn must not append.
 */
int journal_each(const struct journal *journal, int (*fn)(const char *record, const json_t *entry, void *context),
                 void *context);

/* The last first, until nothing is left. fn may append: what is new is not visited. */
int journal_each_back(const struct journal *journal, int (*fn)(const char *record, const json_t *entry, void *context),
                      void *context);

/* The last of the handover records (PREPARED, COMMIT, STARTING, RUNNING, RELEASED, ABORTED, DISCARDED, …), or NULL.
 * Borrowed, valid until the journal is freed. */
const char *journal_state(const struct journal *journal);

/*
 * The same of a file without keeping it open, also while its owner writes to it; for the hold program and for phauld.
 * What is returned is durable, even if its owner is still waiting for that.
 * "" when there is no handover record yet. Negative errno as journal_open(), -ENAMETOOLONG when `size` is too small.
 */
int journal_peek_state(const char *path, char *ret, size_t size);
