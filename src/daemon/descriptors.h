/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/daemon.h"
#include "wire/tunnel.h"

/*
 * The socket at which users hand descriptors over, since HTTP cannot carry any: RUNTIME/descriptors.sock, SEQPACKET,
 * for whoever may use the API. One JSON object a packet.
 *
 *   {"do": "lane", "lane": 0 | 1, "direction": "both" | "in" | "out"}   with one descriptor (SCM_RIGHTS)
 *   {"do": "keep"}      both lanes are here: answered {"ticket": HEX}, to be named in POST /migrations or /checks by
 *                       the same user within DESCRIPTORS_TICKET_MS
 *   {"do": "receive"}   one lane or both lead to a host that wants to migrate something to this one: answered
 *                       {"event": "taken"}, and {"event": "over", "kind", "text"} when it has ended. Who hangs up
 *                       before hears no more; the migration goes on
 *   any of them         {"event": "refused", "kind", "text"} and the end; also at once, when too many talk already.
 *                       Who only waits for a reception does not count
 *
 * Taken are connected stream sockets (both directions, Unix, IPv4 or IPv6), and for "in" and "out" pipes as well.
 */
#define DESCRIPTORS_CLIENTS_MAX 32
#define DESCRIPTORS_REFUSED_MAX 64 /* of those who still have to read why */
#define DESCRIPTORS_TICKETS_MAX 16
#define DESCRIPTORS_TALK_MS 10000
#define DESCRIPTORS_TICKET_MS 30000

int descriptors_new(struct daemon *daemon, struct descriptors **ret, struct error *err);
void descriptors_free(struct descriptors *descriptors);
DEFINE_CLEANUP(struct descriptors, descriptors_free)

/* The two lanes are the caller's from then on; the ticket is void. ERROR_NOT_FOUND. */
int descriptors_redeem(struct descriptors *descriptors, const char *ticket, uid_t uid,
                       struct tunnel_lane lanes[static 2], struct error *err);

void descriptors_close_lanes(struct tunnel_lane lanes[static 2]);

/* Somebody is being served, or has left something here. */
bool descriptors_busy(const struct descriptors *descriptors);
