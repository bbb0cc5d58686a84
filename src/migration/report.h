/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"
#include "migration/handover.h"

/*
 * What is told of a migration when it is over: the document `migrate --json` prints, report.json holds and history
 * keeps. Pure data: times are passed in, monotonic milliseconds for durations (`now_ms`) and milliseconds since 1970
 * for moments (`wall_ms`). Not thread-safe.
 */
enum report_result {
        REPORT_OPEN, /* not over yet: null in JSON */
        REPORT_DONE,
        REPORT_FAILED,
        REPORT_CANCELLED,
        REPORT_UNKNOWN, /* ownership unknown, an operator is needed */
};

/* "examine", "files", "memory", "freeze", "stop", "state", "restore", "commit", "resume", "release", "fill",
 * "rollback". */
#define REPORT_PHASES_MAX 12
#define REPORT_WORD_MAX 31

struct report_phase {
        const char *name; /* static */
        int64_t ms;
        uint64_t bytes; /* sent in it; in "fill": given to the running tasks */
};

struct migration_report {
        char id[ID_LENGTH + 1];
        char kind[17];
        char name[NAME_MAX_LENGTH + 1];
        char target_name[NAME_MAX_LENGTH + 1];
        char source[NAME_MAX_LENGTH + 1]; /* hosts */
        char target[NAME_MAX_LENGTH + 1];
        char mode[REPORT_WORD_MAX + 1];    /* "pre-copy" unless set otherwise; [a-z-] */
        char tracker[REPORT_WORD_MAX + 1]; /* of written memory, "" for none (null); [a-z-] */
        enum report_result result;
        const char *owner;            /* static: "source", "target" or "unknown" */
        char reason[ERROR_TEXT_MAX];  /* "" for none (null) */
        int64_t started_ms, ended_ms; /* since 1970; ended_ms 0 while open (null) */
        int64_t total_ms;
        int64_t downtime_ms; /* -1: never frozen, or not known (null) */
        int64_t predicted_ms,
                predicted_copy_ms; /* of downtime, and of memory in it; before the freeze; -1: not (null) */
        int64_t frozen_ms;         /* sum of all times frozen on the source */
        uint64_t bytes_sent;
        int64_t zero_bytes,
                same_bytes; /* of memory, not sent: zeros; what the target had elsewhere; -1: not known (null) */
        struct {
                bool used;              /* memory stayed on the source when it ran on the target already (else null) */
                uint64_t left_bytes;    /* so much of it */
                uint64_t faulted_bytes; /* of that, fetched because a task waited, with what lies around; */
                uint64_t background_bytes; /* and by itself */
                int64_t source_needed_ms;  /* from the start to when the source could be done without; -1: not yet */
        } postcopy;
        unsigned rounds;
        struct report_phase phases[REPORT_PHASES_MAX]; /* in the order in which they first began */
        size_t n_phases;
        struct {
                enum error_kind kind; /* ERROR_NONE: no failure (null) */
                char phase[REPORT_WORD_MAX + 1];
                char host[NAME_MAX_LENGTH + 1]; /* where it failed, "" when that is not known (null) */
                char text[ERROR_TEXT_MAX];
        } failure;

        /* running measurements, not part of the document */
        uint64_t begun_ms, phase_ms, phase_bytes, freeze_ms;
        int phase; /* index of the phase going on, -1 for none */
        bool is_frozen;
};

struct report_subject {
        const char *id, *kind, *name, *target_name, *source, *target;
};

/* Names are checked and copied; -EINVAL when one is not valid, -ENOMEM. */
int migration_report_new(const struct report_subject *subject, int64_t wall_ms, uint64_t now_ms,
                         struct migration_report **ret);
void migration_report_free(struct migration_report *report);
DEFINE_CLEANUP(struct migration_report, migration_report_free)

/*
 * A phase begins, and the one before it ends; `bytes_sent` is the total so far. A phase that begins again goes on: its
 * time and bytes add up. NULL ends the current one. -EINVAL for a name that is none of the above.
 */
int migration_report_phase(struct migration_report *report, const char *name, uint64_t now_ms, uint64_t bytes_sent);

/* The current phase has done so many bytes beside what was sent in it. */
void migration_report_bytes(struct migration_report *report, uint64_t bytes);

/* Post-copy: the copy there runs. What it waited until then is the downtime, though it is frozen here for longer. */
void migration_report_handed_over(struct migration_report *report, uint64_t now_ms);

/* The last page is there. */
void migration_report_source_free(struct migration_report *report, uint64_t now_ms);

/* The source froze it, or let it go again (thawed or released). Repeated calls change nothing. */
void migration_report_frozen(struct migration_report *report, uint64_t now_ms);
void migration_report_unfrozen(struct migration_report *report, uint64_t now_ms);

/*
 * It is over. The owner is what the state says; the result follows from it and the failure (NULL for none, which is
 * done if the target owns it): unknown when nobody knows the owner, cancelled when it was. `failed_host` may be NULL.
 */
void migration_report_end(struct migration_report *report, enum handover_state state, const struct error *failure,
                          const char *failed_host, int64_t wall_ms, uint64_t now_ms, uint64_t bytes_sent);

/* New reference, NULL when memory is short. What is not known is null. */
json_t *migration_report_to_json(const struct migration_report *report);

/* Checked throughout; keys that are not known are ignored. -EBADMSG with the key in the text, -ENOMEM. */
int migration_report_from_json(const json_t *json, struct migration_report **ret, struct error *err);

/*
 * One line without a newline: "migrated lxc/web alpha -> beta in 2.31 s, downtime 143 ms, 268 MB sent, 4 rounds", or
 * "failed lxc/web alpha -> beta after 2.31 s: why". Returns `buffer`, cut when it is too small.
 */
const char *migration_report_text(const struct migration_report *report, char *buffer, size_t size);

const char *report_result_name(enum report_result result); /* "done", …; NULL for REPORT_OPEN */
