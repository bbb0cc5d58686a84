/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "haulers/hauler.h"
#include "loop/loop.h"

/*
 * What could be migrated from this host: {"host", "workloads": [{kind, id, state, init_pid, …, processes}],
 * "processes": […], "warnings": [TEXT]}. Each kind is asked in a child process of its own with a limit, so that a
 * hanging container or runtime neither blocks phauld nor hides the other kinds.
 */
#define INVENTORY_LIMIT_MS 5000
#define INVENTORY_BYTES_MAX (16U << 20)

struct inventory; /* a run in progress */
typedef void (*inventory_done_fn)(json_t *result /* taken over; NULL: out of memory */, void *context);

/* `kind` NULL: all of them; "pid": processes only. An unknown kind is ERROR_USAGE. Frees itself after `done`. */
int inventory_start(struct loop *loop, const struct hauler *const *kinds, const char *host, const char *kind,
                    inventory_done_fn done, void *context, struct inventory **ret, struct error *err);

/* Stops without calling `done`. */
void inventory_free(struct inventory *inventory);
DEFINE_CLEANUP(struct inventory, inventory_free)
