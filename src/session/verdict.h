/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"

/* The graded findings of a pre-flight, of both hosts. */
struct verdict {
        const char *host;                        /* whose findings verdict_report() adds; borrowed */
        const struct migration_options *options; /* whose --force and --skip-… count; borrowed, NULL: none */
        json_t *items; /* array of {id, host, grade, reason}, and "forcible": true for a judgement (GRADE_JUDGED) */
};

/* Add a finding of `host`; matches hauler_report_fn with the verdict as context. */
void verdict_report(const char *item, enum grade grade, const char *reason, void *verdict);

/* The worst of all grades; an item that could not be stored counts as an error. */
enum grade verdict_grade(const struct verdict *v);

/* As a message for the source, and back. */
int verdict_put_message(const struct verdict *v, struct message *m);
int verdict_add_message(struct verdict *v, const struct message *m, struct error *err);

/* {event: verdict, verdict, items} for watchers. */
json_t *verdict_json(const struct verdict *v);

/* ERROR_REFUSED with all error reasons, one per line. */
int verdict_refusal(const struct verdict *v, struct error *err);

void verdict_done(struct verdict *v);
