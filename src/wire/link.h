/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"
#include "wire/message.h"

/*
 * One connection to another host, as its privileged owner (phauld, phaul-session) sees it. The connection itself lives
 * in a phaul-net process of its own: TLS, framing and time-outs are there; over a SEQPACKET socket the owner gets
 * decoded messages, and for bulk connections payloads in shared memory.
 *
 * Life: connecting (or accepted) -> up (TLS done, the peer known) -> open (HELLO/WELCOME exchanged) -> down.
 * The HELLO of an accepted connection is delivered as a message; its owner answers with link_welcome() or
 * link_refuse(). One thread; callbacks run from the loop and may free the link.
 */
struct link;

/* Identity of a paired host: SHA-256 of its CA certificate (DER), lower-case hex. "" = not paired (pairing only). */
#define FINGERPRINT_LENGTH 64

struct link_peer {
        char fingerprint[FINGERPRINT_LENGTH + 1];
        char address[128]; /* numeric, for messages */
};

struct bulk_frame;

struct link_handlers {
        /* TLS is up and, for a connecting link, WELCOME has come (`version` is the agreed one; 0 on the accepting
         * side). */
        void (*up)(struct link *link, const struct link_peer *peer, uint32_t version, void *context);
        /* A control message; borrowed. */
        void (*message)(struct link *link, const struct message *m, void *context);
        /* A bulk frame; `data` is shared memory that a hostile phaul-net could change while it is read: copy, then
         * check. False: it is done with; true: `data` stays as it is until link_bulk_done(). */
        bool (*bulk)(struct link *link, const struct bulk_frame *frame, const void *data, void *context);
        /* Room for another link_bulk_send(). */
        void (*writable)(struct link *link, void *context);
        /* For ever gone: refused, cut, silent for too long, or closed by the peer (err->kind ERROR_NONE). Last
         * callback. */
        void (*down)(struct link *link, const struct error *err, void *context);
};

/* A bulk frame: fixed header plus up to BULK_MAX bytes. What the fields mean is the business of memory/ (see
 * image_stream.h). */
#define BULK_MAX (1U << 20)
#define BULK_SLOTS 8
struct bulk_frame {
        uint16_t type;
        uint16_t flags;
        uint32_t size; /* bytes of data */
        uint64_t object;
        uint64_t offset;
        uint64_t count;
        uint64_t sequence; /* of a bundle (bundle.h); 0 from a peer older than VERSION_BUNDLES */
};

/* What a link needs to prove itself; made by trust_credentials() (trust.h). */
struct credentials;

struct link_connect_options {
        const char *address; /* host name or numeric; resolved inside phaul-net. In link_connect_on() just a label */
        uint16_t port;
        enum purpose purpose;
        const char *migration;     /* id or NULL */
        const uint8_t *token;      /* 16 bytes or NULL */
        uint32_t stream;           /* FIELD_STREAM */
        const char *expect;        /* fingerprint the peer must have; NULL only for PURPOSE_PAIR */
        uint32_t silence_ms;       /* the link counts as lost after so long without a byte (0: 5000) */
        uint64_t bytes_per_second; /* cap on what it sends, 0 none */
        uint32_t version_min;      /* 0: WIRE_VERSION_MIN; for tests */
        uint32_t version_max;      /* 0: WIRE_VERSION_MAX; for tests */
};

/* Where the phaul-net binary is, and as whom it runs. NULL and 0 mean the defaults, as does a NULL pointer to it. */
struct link_environment {
        const char *program;   /* default LIBEXECDIR "/phaul-net" */
        const char *user;      /* default "phaul-net", else "nobody" */
        const char *root;      /* its empty root directory, made if missing; default "/run/phaul/empty" */
        uint32_t handshake_ms; /* limit on connecting, on TLS, and on the HELLO of an accepted link; default 10000 */
        uint32_t silence_ms;   /* of accepted links; default 5000 */
        const char *label;     /* an accepted link comes through a tunnel: what to call its other end */
};

/*
 * Start phaul-net and connect. Result by callbacks. The caller must be root. phaul-net is nobody's child (it forks away
 * at once), so that there is nothing to reap and a link can change hands; it ends when the record socket is closed.
 * Credentials, options and handlers are copied.
 */
int link_connect(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                 const struct link_connect_options *options, const struct link_handlers *handlers, void *context,
                 struct link **ret, struct error *err);

/* The same on a stream socket that is connected already (taken over in any case): a channel of a tunnel (tunnel.h). */
int link_connect_on(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                    const struct link_connect_options *options, int fd, const struct link_handlers *handlers,
                    void *context, struct link **ret, struct error *err);

/* Start phaul-net on an accepted TCP socket (taken over in any case). `allow_strangers`: pairing is open just now. */
int link_accept(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                int tcp_fd, bool allow_strangers, const struct link_handlers *handlers, void *context,
                struct link **ret, struct error *err);

/*
 * Hand a link over to another process: link_release() gives up the object and returns its record socket (to be passed
 * with SCM_RIGHTS), link_adopt() goes on with it there. Between an accepted HELLO and its answer nothing is in flight.
 */
int link_release(struct link *link);
int link_adopt(struct loop *loop, int record_fd, const struct link_handlers *handlers, void *context,
               struct link **ret);

/* The accepting side's answer to HELLO: no version higher than this one, of those that the peer offered. After a
 * refusal the link goes down by itself. */
int link_welcome(struct link *link, uint32_t version);
int link_refuse(struct link *link, enum error_kind kind, const char *text);

/* Send and free `m` (also on failure). -ENOTCONN when down. Never blocks: phaul-net queues up to 4 MiB, then -ENOBUFS.
 */
int link_send(struct link *link, struct message *m);

/*
 * PURPOSE_STREAM after open: phaul-net pumps bytes between the connection and `fd`, a stream socket (taken over in any
 * case), half-closes included. `down` with ERROR_NONE when both directions have ended and all was delivered.
 */
int link_attach_stream(struct link *link, int fd);

/*
 * PURPOSE_BULK after open. link_bulk_send() copies frame->size bytes into a free slot of the shared ring and returns;
 * -EAGAIN when all BULK_SLOTS are in flight (wait for `writable`). link_bulk_reserve() gives the slot's memory
 * (BULK_MAX bytes) to fill in place (zero-copy from a pipe), link_bulk_commit() sends it. Frames keep their order; one
 * that was sent is lost if the link goes down before the peer's owner has read it, so keep the link until the peer has
 * confirmed.
 */
int link_bulk_send(struct link *link, const struct bulk_frame *frame, const void *data);
int link_bulk_reserve(struct link *link, void **ret_data);
int link_bulk_commit(struct link *link, const struct bulk_frame *frame);
/* Frames that were committed and have not yet left phaul-net into the kernel's socket; none: idle. */
unsigned link_bulk_in_flight(const struct link *link);
/* A frame that the handler kept is done with. */
void link_bulk_done(struct link *link, const void *data);

/* Bytes that crossed the TLS connection so far (as phaul-net reports them, a little late). */
void link_counters(const struct link *link, uint64_t *ret_sent, uint64_t *ret_received);

/* Closes: queued messages are still sent (phaul-net lingers up to 2 s). */
void link_free(struct link *link);
DEFINE_CLEANUP(struct link, link_free)

/* Versions of the wire this build speaks. */
#define WIRE_VERSION_MIN 1
#define WIRE_VERSION_MAX 5
/* From which on a version has: */
#define VERSION_PACKED 2U       /* bulk frames that are compressed */
#define VERSION_DIGESTS 2U      /* of pages, in their frames (memory/image_stream.h) */
#define VERSION_MEMORY_BYTES 2U /* that field of STATE_OPEN */
#define VERSION_POSTCOPY 3U     /* FILLING, PAGES_OPEN, and the bulk frames of pages that were left */
#define VERSION_PIECES 4U       /* pages that are not sent because the target has them (memory/image_stream.h) */
#define VERSION_BUNDLES 5U /* several bulk connections side by side: `streams` of STATE_OPEN, sequences of frames */

/* The highest common version, or a REFUSED error whose text names both ranges. */
int wire_negotiate(uint32_t peer_min, uint32_t peer_max, uint32_t *ret, struct error *err);
