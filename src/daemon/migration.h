/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/name.h"
#include "daemon/migrations.h"
#include "daemon/session_link.h"
#include "session/protocol.h"

/* Inside of migrations.c (the list) and migration.c (one of them and its session). */

struct end_waiter {
        struct end_waiter *next;
        migration_end_fn fn;
        void *context;
};

struct cancel_waiter {
        struct cancel_waiter *next;
        struct migration *migration;
        struct source *limit;
        migration_cancel_fn fn;
        void *context;
};

struct migration {
        struct migrations *owner;
        struct migration *next;
        char id[ID_LENGTH + 1];
        char directory[PATH_MAX];
        json_t *request; /* request.json */
        bool source_side, check;
        char fingerprint[FINGERPRINT_LENGTH + 1];

        json_t *about, *progress, *verdict, *report; /* as last heard; NULL before */
        char state[32], phase[32];
        char attention[ERROR_TEXT_MAX]; /* why it stands still; "" while it does not */
        bool attention_waits;           /* until the other host answers; else until a person does something */
        char stalled[ERROR_TEXT_MAX];   /* post-copy: why it waits for the link; "" while it does not */
        bool ended;                     /* report.json was read and the result is known to all */
        int64_t ended_ms;

        struct session_link *link;
        pid_t pid; /* of the session when it is our child, else 0 */
        struct source *child, *restart;
        uint64_t restarts[SESSION_RESTARTS]; /* clock_ms() of the last ones, oldest first */
        unsigned n_restarts;

        struct end_waiter *end_waiters;
        struct cancel_waiter *cancel_waiters;
};

struct migrations {
        struct daemon *daemon;
        struct migration *first;
        struct source *cleaner;
        struct released *released;
        bool stopping;
};

/* Inside of migrations.c and order.c */
struct peer;
struct migration *migrations_find(const struct migrations *all, const char *id);
const char *migration_request_text(const struct migration *m, const char *key); /* "" when it is not there */
/* ERROR_REFUSED when as many run as may. */
int migrations_check_limit(const struct migrations *all, struct error *err);
json_t *migrations_base_request(const struct daemon *d, const char *id, const char *side, const char *mode,
                                const struct peer *peer);
/* Directory, request.json, session. Takes `request`. */
int migrations_begin(struct migrations *all, const char *id, json_t *request, struct migration **ret,
                     struct error *err);

/* From request.json in DIR; added to the list. */
int migration_load(struct migrations *migrations, const char *id, struct migration **ret, struct error *err);
void migration_free(struct migration *m); /* taken off the list; the session, if any, goes on */

/* With the session that lives (patience 0: connect now or fail), or a new one. */
int migration_connect(struct migration *m, unsigned patience_ms, struct error *err);
int migration_spawn(struct migration *m, struct error *err);

/* report.json, if there is one: result known, history written. 1 there is, 0 not (yet). */
int migration_settle(struct migration *m);

/* The API's document; a new reference. */
json_t *migration_document(const struct migration *m);

/* The end of DIR/log; NULL when there is none. Caller frees. */
char *migration_log(const struct migration *m);
