/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

/*
 * phauld's end of the socket of one session: connects (and tries again while the session starts), queues packets until
 * it is there, decodes what comes.
 */
struct session_link;

struct session_link_handlers {
        void (*event)(const char *name, const json_t *packet, void *context);
        /* Closed by the session, broken, or never there. Last callback; may free the link. */
        void (*gone)(bool was_connected, void *context);
};

/* `patience_ms`: how long to try; 0: once, at once. */
int session_link_new(struct loop *loop, const char *path, unsigned patience_ms,
                     const struct session_link_handlers *handlers, void *context, struct session_link **ret,
                     struct error *err);
void session_link_free(struct session_link *link);
DEFINE_CLEANUP(struct session_link, session_link_free)

/* Takes `packet`, and `fd` (-1: none) in any case. Queued until the socket takes it; -ENOBUFS when too much waits. */
int session_link_send(struct session_link *link, json_t *packet, int fd);

/* Give up trying: the session is known to have ended. */
void session_link_hurry(struct session_link *link);
