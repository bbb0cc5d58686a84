/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

#include "daemon/daemon.h"
#include "wire/trust.h"

/*
 * Conversations that begin here with phauld of another host: pairing and queries. Each runs on a link of its own and
 * calls back exactly once, at the latest from hosts_free().
 */
#define QUERY_LIMIT_MS 8000
#define PROBE_LIMIT_MS 3000
#define PAIR_LIMIT_MS 15000
#define ANSWER_MAX (4U << 20)

int hosts_new(struct daemon *daemon, struct hosts **ret, struct error *err);
void hosts_free(struct hosts *hosts);
DEFINE_CLEANUP(struct hosts, hosts_free)

/* `answer` is borrowed, NULL on failure. */
typedef void (*host_answer_fn)(const json_t *answer, const struct error *err, void *context);

/* Ask a paired host; `argument` may be NULL. */
int hosts_query(struct hosts *hosts, const struct peer *peer, const char *what, const char *argument, unsigned limit_ms,
                host_answer_fn fn, void *context, struct error *err);

/* `peer` as stored; name as given or the other's own. `name` may be NULL. */
typedef void (*host_paired_fn)(const struct peer *peer, const struct error *err, void *context);
int hosts_pair(struct hosts *hosts, const char *address, uint16_t port, const char *name, const char *code,
               host_paired_fn fn, void *context, struct error *err);

/* Store a peer both sides agreed on, tell the world. Refuses a name that belongs to another certificate. */
int hosts_store(struct daemon *daemon, struct peer *peer, struct error *err);
