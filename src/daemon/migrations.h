/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/name.h"
#include "daemon/daemon.h"
#include "wire/link.h"
#include "wire/message.h"

/*
 * The migrations that live on this host, each with its session process (session/protocol.h). Ended ones are in the
 * history.
 */
struct migration;

struct peer;

struct migration_order {
        const char *kind, *name, *host, *target_name; /* checked names; target_name NULL: the same */
        json_t *ssh;             /* {host, user, port, agent} or NULL; borrowed, checked by the caller */
        const char *descriptors; /* ticket of descriptors.h, or NULL; with either, `host` is only what to call it */
        uid_t uid;               /* who asks */
        bool check;
        json_t *options;        /* object or NULL; borrowed, checked by the caller */
        const char *key, *hash; /* Idempotency-Key and a digest of the request, or NULL */
};

int migrations_new(struct daemon *daemon, struct migrations **ret, struct error *err);
void migrations_free(struct migrations *migrations);
DEFINE_CLEANUP(struct migrations, migrations_free)

/* Looks into the state directory and starts or finds again what has not ended. Once, at the start. */
int migrations_recover(struct migrations *migrations, struct error *err);

/* *ret_old: the order was known by its key, ret_id is that one's. */
int migrations_order(struct migrations *migrations, const struct migration_order *order,
                     char ret_id[static ID_LENGTH + 1], bool *ret_old, struct error *err);

/* A connection from another host that belongs to a migration (HELLO with purpose control, stream or bulk); `guest`: it
 * came through a tunnel, from that host, which need not be paired. On success the link is taken over; on failure it is
 * still the caller's, to be refused with *err. */
int migrations_attach(struct migrations *migrations, struct link *link, const struct link_peer *peer,
                      const struct peer *guest, const struct message *hello, struct error *err);

/* API documents. -ENOENT kinds as ERROR_NOT_FOUND. */
int migrations_show(struct migrations *migrations, const char *id, json_t **ret, struct error *err);
int migrations_list(struct migrations *migrations, unsigned limit, json_t **ret, struct error *err);

/* `fn` (may be NULL) once, when the session has answered or not within 5 s; err->kind ERROR_NONE: cancelled or on its
 * way. */
typedef void (*migration_cancel_fn)(const struct error *err, const char *text, void *context);
int migrations_cancel(struct migrations *migrations, const char *id, migration_cancel_fn fn, void *context,
                      struct error *err);

/* New descriptors (a ticket of descriptors.h) for one whose first were lost, also when it has ended here: the other
 * host may not know. */
int migrations_reconnect(struct migrations *migrations, const char *id, const char *ticket, uid_t uid,
                         struct error *err);

/* `fn` once, at the end, with the report (borrowed; NULL: it never came, see err). */
typedef void (*migration_end_fn)(const json_t *report, const struct error *err, void *context);
int migrations_on_end(struct migrations *migrations, const char *id, migration_end_fn fn, void *context);

/* The last durable handover record ("COMMIT", …; "" for none) of a migration that this host sends to the asking one. */
int migrations_record(struct migrations *migrations, const char *id, const char *fingerprint, char *ret, size_t size,
                      struct error *err);

/* Whether a session lives here, or is about to be started again. */
bool migrations_busy(const struct migrations *migrations);

unsigned migrations_in_progress(const struct migrations *migrations);

/* Remove the files of a released workload. ERROR_NOT_FOUND. */
int migrations_forget(struct migrations *migrations, const char *id, struct error *err);
