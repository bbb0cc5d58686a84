/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/daemon.h"

/*
 * Connections that other hosts begin: accepted on the configured port, each with a phaul-net of its own, told apart by
 * their HELLO. Pairing and queries are answered here; what belongs to a migration goes to its session.
 */
#define PEERS_STRANGERS_MAX 16 /* connections that have not shown a certificate yet */
#define PEERS_HELLO_MS 10000   /* for TLS and HELLO together */
#define PEERS_TALK_MS 60000    /* for a pairing or a query */

struct peer;

int peers_new(struct daemon *daemon, struct peers **ret, struct error *err);
void peers_free(struct peers *peers);
DEFINE_CLEANUP(struct peers, peers_free)

/* A connection through a tunnel (receptions.h), taken over: only `guest` may be at its other end. */
void peers_take_guest(struct peers *peers, int fd, const struct peer *guest);
