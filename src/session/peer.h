/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"
#include "wire/bundle.h"

/*
 * The control link to the other host: messages queue here until a phase takes them. Either side may connect again after
 * a loss; the newest link wins. Further links (streams, bulk) are found by their number.
 */
int peer_new(struct session *s, struct error *err);
void peer_free(struct session_peer *p);

/* Connect (source, or a target that asks again) and wait until it is open. */
int peer_connect(struct session *s, enum session_wait_mode mode, struct error *err);

/* Whether trying again could help: not when descriptors are gone that were given once. */
bool peer_can_connect(const struct session *s);

/* Start a connection of any purpose to the other host; the caller owns it. */
int peer_dial(struct session *s, enum purpose purpose, uint32_t number, const struct link_handlers *handlers,
              void *context, struct link **ret, struct error *err);

/* A connection that phauld accepted for us; takes record_fd over in any case. */
void peer_attach(struct session *s, const char *fingerprint, enum purpose purpose, uint32_t stream,
                 const char *token_hex, int record_fd);

bool peer_is_up(const struct session *s);
/* Source: the version of the protocol that both speak. */
uint32_t peer_version(const struct session *s);
/* Text of the last loss. */
const struct error *peer_loss(const struct session *s);
/* Drop the control link. */
void peer_close(struct session *s);

/* Send and free. */
int peer_send(struct session *s, struct message *m, struct error *err);
/* A message without fields but an optional text. */
int peer_send_simple(struct session *s, enum message_type type, struct error *err);

/* Next message, NULL when there is none. Caller frees. */
struct message *peer_take(struct session *s);
/* Whether one is there, and whether it is one of the far side's failures (DISCARDED, REFUSE, ABORTED, LOST). */
bool peer_has_message(const struct session *s);
const struct message *peer_first(const struct session *s);

/* Wait for a message of this type; any other one is a protocol error, a failure of the far side is returned in words.
 */
int peer_expect(struct session *s, enum message_type type, uint64_t timeout_ms, struct message **ret,
                struct error *err);

/*
 * Stream `number`: connected by the source, attached on the target; waits for it, then pumps between it and the
 * returned socket. The link lives until peer_stream_close() or the session's end.
 */
int peer_stream(struct session *s, uint32_t number, int *ret_fd, struct error *err);
void peer_stream_close(struct session *s, uint32_t number);

/*
 * The bulk links, likewise, as one: `n` of them, with numbers from the first on; callbacks for their frames or their
 * room. `lost` comes when one ended by itself, while the control link may live on: the bundle is gone then, and must
 * not be used within it. Not after peer_bulk_close().
 */
struct peer_bulk_handlers {
        void (*frame)(const struct bulk_frame *frame, const void *data, void *context);
        void (*writable)(void *context);
        void (*lost)(const struct error *err, void *context);
};
int peer_bulk(struct session *s, uint32_t first, unsigned n, const struct peer_bulk_handlers *handlers, void *context,
              struct bundle **ret, struct error *err);
void peer_bulk_close(struct session *s);

/* Bytes that crossed all links of this migration so far. */
void peer_counters(const struct session *s, uint64_t *ret_sent, uint64_t *ret_received);
