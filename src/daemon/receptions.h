/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/daemon.h"
#include "wire/tunnel.h"

/*
 * Tunnels that lead here: the far half of a migration over ssh or descriptors (`phaul receive`). Connections that come
 * through one are like those of a paired host, but that its certificate counts for them alone and is stored nowhere,
 * and that they may only be for migrations.
 */
#define RECEPTIONS_MAX 16
#define RECEPTION_GREETING_MS 30000

struct reception;

/* Once, when it is over (never before receptions_add() has returned); err->kind ERROR_NONE: the daemon ends. */
typedef void (*reception_over_fn)(const struct error *err, void *context);

int receptions_new(struct daemon *daemon, struct receptions **ret);
void receptions_free(struct receptions *receptions);
DEFINE_CLEANUP(struct receptions, receptions_free)

/* The lanes stay the caller's. */
int receptions_add(struct receptions *receptions, const struct tunnel_lane *lanes, unsigned n_lanes,
                   reception_over_fn fn, void *context, struct reception **ret, struct error *err);

/* Whoever waited does not any more; the tunnel goes on. */
void reception_forget(struct reception *reception);

bool receptions_busy(const struct receptions *receptions);
