/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"
#include "wire/link.h"

/*
 * The source's tunnel to a host that is not dialled: over the standard streams of an ssh that is run for it, as often
 * as it takes, or over descriptors, which come once, and again only when a user brings new ones (`phaul reconnect`).
 * Who answers first is written into the record ("PEER"), and must answer every later time.
 */
#define SESSION_LANES_MAX 2

/* Nothing for a request without such a way. */
int session_tunnel_new(struct session *s, struct error *err);
void session_tunnel_free(struct session_tunnel *t);

/* A descriptor that phauld hands over; taken in any case. Lane 0 comes first, and with it a new set begins. */
void session_tunnel_lane(struct session *s, unsigned lane, bool in, bool out, int fd);

/* Until the tunnel is up, and the other host known. 0 also where there is none. */
int session_tunnel_ready(struct session *s, enum session_wait_mode mode, struct error *err);

/* A connection through it; fills in where to and whom to expect. */
int session_tunnel_dial(struct session *s, struct link_connect_options *options, const struct link_handlers *handlers,
                        void *context, struct link **ret, struct error *err);

/* It is up, or can be made once more. */
bool session_tunnel_can_begin(const struct session *s);
