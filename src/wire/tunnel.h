/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"
#include "loop/loop.h"
#include "wire/link.h"

/*
 * Many connections over one or two byte streams that were opened by somebody else: ssh's standard streams, descriptors
 * of a user. The streams belong to a phaul-net; its owner here sees no byte of them but the greeting: who the other
 * host is. Each channel is a stream socket on which links are made, with TLS, as on any other connection.
 *
 * The two ends prove nothing to each other in the greeting. Whoever made the streams vouches for them (ssh, the user),
 * and the certificates that came over them count for the links that go through them, and for nothing else.
 *
 * Life: starting -> up (greetings exchanged) -> down. One thread; callbacks run from the loop and may free the tunnel.
 */
struct tunnel;

struct tunnel_peer {
        char name[NAME_MAX_LENGTH + 1];
        char fingerprint[FINGERPRINT_LENGTH + 1];
        char *certificate; /* PEM; borrowed */
};

struct tunnel_handlers {
        void (*up)(struct tunnel *tunnel, const struct tunnel_peer *peer, void *context);
        /* Accepting: a connection of the other end's; the stream socket is the callee's. */
        void (*asked)(struct tunnel *tunnel, int fd, void *context);
        /* For ever gone, with all of its channels. Last callback. */
        void (*down)(struct tunnel *tunnel, const struct error *err, void *context);
};

struct tunnel_lane {
        int in, out; /* may be the same */
};

struct tunnel_options {
        bool accepting;
        struct tunnel_lane lanes[2]; /* borrowed: the process gets its own. Of two, the first is for control */
        unsigned n_lanes;
        int words_fd;          /* what the program at the other end of the lanes says to people; -1 none */
        const char *label;     /* what to call the other end; [A-Za-z0-9.:%_@-] */
        const char *name;      /* of this host */
        const char *trust_dir; /* of this host's certificate */
        uint32_t handshake_ms; /* for the greeting of the other end */
};

int tunnel_start(struct loop *loop, const struct link_environment *env, const struct tunnel_options *options,
                 const struct tunnel_handlers *handlers, void *context, struct tunnel **ret, struct error *err);

/* Connecting end, when up: a stream socket that leads to the other end, for link_connect_on(). */
int tunnel_open(struct tunnel *tunnel, enum purpose purpose, int *ret_fd, struct error *err);

void tunnel_free(struct tunnel *tunnel);
DEFINE_CLEANUP(struct tunnel, tunnel_free)
