/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "net/pack.h"
#include "wire/message.h"
#include "wire/record.h"

/*
 * phaul-net: one connection to one other host. It runs with no privilege between a peer it does not trust and an owner
 * that does not trust it. One thread, one poll loop, every buffer bounded:
 *
 *   peer ══ TLS ══ receive.c ── owner.c ── records ── owner
 *        ══ TLS ══ transmit.c ──┘      └── ring of bulk slots, or the pumped stream socket
 */

/* Wire format of a frame: u32 size of the body, u8 kind, three zero bytes; then the body. PROTOCOL.md "Frames". */
#define FRAME_HEADER 8
enum frame_kind { FRAME_MESSAGE = 1, FRAME_BULK = 2, FRAME_STREAM = 3, FRAME_PACKED = 4 };
#define BULK_HEADER 28   /* u16 type, u16 flags, u64 object, u64 offset, u64 count */
#define SEQUENCE_BYTES 8 /* u64 sequence, from VERSION_BUNDLES on; the header of a frame ends with it */
#define PACKED_BYTES 8   /* of a packed one: and u8 method, three zero bytes, u32 size of the original */
#define BULK_HEADER_MAX (BULK_HEADER + SEQUENCE_BYTES + PACKED_BYTES)
#define STREAM_CHUNK (64U * 1024)   /* bytes in one stream frame, at most; none: that direction has ended */
#define TRANSMIT_HIGH (256U * 1024) /* above this, no more messages are taken from the owner */
#define HEARTBEAT_MS 1000
#define LINGER_MS 2000
#define TURN_BYTES (4U * 1024 * 1024) /* in one direction before the others get their turn */

struct anchor {
        X509 *certificate;
        char fingerprint[FINGERPRINT_LENGTH + 1];
};

enum phase {
        PHASE_HANDSHAKE,
        PHASE_GREETING, /* HELLO sent or awaited, WELCOME awaited */
        PHASE_OPEN,
        PHASE_FLUSHING, /* nothing more to read; what is queued goes out, then close_notify */
        PHASE_DRAINING, /* our half is closed; waiting for the peer to close, so that it can read all we said */
        PHASE_DONE,
};

/* Frames to send: messages as bytes, slots of the ring, one chunk of the stream. */
struct transmit {
        uint8_t *queue; /* encoded message frames */
        size_t start, end, room;
        uint8_t slots[BULK_SLOTS]; /* committed by the owner, oldest first */
        struct bulk_frame frames[BULK_SLOTS];
        size_t n_slots;
        uint8_t bulk_header[FRAME_HEADER + BULK_HEADER_MAX];
        const uint8_t *bulk_data; /* of the frame being sent: its slot, or packed */
        size_t bulk_size;
        uint64_t bulk_began_us;
        bool bulk_waited; /* the socket was full, or the cap reached, since then */
        uint8_t stream[FRAME_HEADER + STREAM_CHUNK];
        size_t stream_size; /* 0: room for another chunk */
        enum { SENDING_NOTHING, SENDING_QUEUE, SENDING_BULK_HEADER, SENDING_BULK_DATA, SENDING_STREAM } sending;
        const uint8_t *at;
        size_t left;
        size_t retry; /* OpenSSL wants the same write again */
        bool blocked; /* the socket is full */
        double tokens;
        uint64_t tokens_us; /* when they were counted last */
};

struct receive {
        enum {
                RECEIVING_HEADER,
                RECEIVING_MESSAGE,
                RECEIVING_BULK_HEADER,
                RECEIVING_BULK,
                RECEIVING_PACKED,
                RECEIVING_STREAM
        } state;
        uint8_t header[FRAME_HEADER];
        uint8_t bulk_header[BULK_HEADER_MAX];
        uint8_t *packed; /* of a bulk connection: BULK_MAX bytes, when the first packed frame comes */
        uint8_t message[MESSAGE_MAX];
        uint8_t stream[STREAM_CHUNK];
        size_t have, want;
        size_t body;                /* size of the body announced */
        int slot;                   /* being filled, or -1 */
        bool slot_used[BULK_SLOTS]; /* being filled, or with the owner */
        struct bulk_frame frame;
        size_t stream_at, stream_size; /* received, not yet written to the stream socket */
        bool stream_end;               /* the peer's direction has ended */
        bool wants_write;              /* TLS has to write before it can read on */
        bool more;                     /* the last read did not empty the socket */
};

/* A packet that did not fit into the record socket. */
struct pending_record {
        struct pending_record *next;
        size_t size;
        uint8_t data[];
};

struct net {
        struct record_config config;
        struct anchor *anchors;
        size_t n_anchors;
        int record_fd, tcp_fd, stream_fd;
        SSL_CTX *tls;
        SSL *ssl;
        char peer[300]; /* for people */
        char peer_numeric[128];
        bool is_tcp; /* not through a tunnel */

        enum phase phase;
        enum purpose purpose;
        uint32_t version, version_min, version_max; /* the connecting side's range */
        const struct anchor *peer_anchor;
        int verify_error; /* X509_V_ERR_*, when the peer's certificate was refused */
        bool stranger;
        bool tls_dead;   /* no TLS call is allowed any more */
        bool owner_gone; /* closed, or will never read again */
        bool down_sent;
        bool welcome_due;     /* accepting: HELLO is with the owner */
        bool patient;         /* a stream came to its end: the peer may take its time to read it */
        bool owner_hup;       /* closed, with records we cannot read yet */
        uint64_t deadline_ms; /* of the phase; 0 none */

        struct transmit tx;
        struct receive rx;
        struct packer *packer; /* of a bulk connection that is open */
        uint8_t *ring;
        bool stream_in_end;   /* the stream socket said end of file */
        bool stream_end_sent; /* and the peer was told */
        bool stream_out_done; /* the peer's end was handed to the stream socket */
        bool stream_discard;  /* nobody reads the stream socket any more */
        struct pending_record *pending, **pending_tail;

        uint64_t read_seen, written_seen; /* counters of the socket when they last moved */
        uint64_t heard_ms, said_ms, counted_ms;
        uint64_t reported_sent, reported_received;
};

/* Of a bulk frame that is not packed. */
static inline size_t bulk_header_size(const struct net *net)
{
        return BULK_HEADER + (net->version >= VERSION_BUNDLES ? SEQUENCE_BYTES : 0);
}

/* config.c: from the owner, while still root. */
int config_read(struct net *net, struct error *err);

/* dial.c */
int dial(struct net *net, struct error *err);
void dial_name_peer(struct net *net); /* of an accepted socket */
void dial_tune(struct net *net);

/* sandbox.c: the way down, in this order. */
#define SANDBOX_FILES 32                                                    /* descriptors of a connection */
int sandbox_drop_user(const char *user, unsigned files, struct error *err); /* only CAP_SYS_CHROOT is left */
int sandbox_seal(const char *root, struct error *err);                      /* empty root, no capability, seccomp */

/* tls.c */
int tls_init(struct net *net, struct error *err);
int tls_start(struct net *net, struct error *err);
/* The text and kind for people when TLS failed or the peer closed before the connection was open. */
void tls_explain(const struct net *net, int ssl_error, int saved_errno, struct error *err);

/* owner.c */
void owner_read(struct net *net);
bool owner_may_read(const struct net *net);
void owner_flush(struct net *net);
void owner_send(struct net *net, const void *record, size_t size);
void owner_send_message(struct net *net, const struct message *m);
void owner_count(struct net *net, bool force);
void owner_discard_pending(struct net *net);

/* receive.c */
void receive_all(struct net *net);
bool receive_paused(const struct net *net);
void receive_stream_out(struct net *net);

/* transmit.c */
int transmit_message(struct net *net, const struct message *m);
int transmit_simple(struct net *net, uint16_t type);
void transmit_commit(struct net *net, uint32_t slot, const struct bulk_frame *frame);
void transmit_stream_in(struct net *net);
void transmit_all(struct net *net);
bool transmit_idle(const struct net *net);
bool transmit_full(const struct net *net);
uint64_t transmit_wait_ms(const struct net *net); /* until the rate cap allows more; 0: now */

/* greeting.c: HELLO, WELCOME, REFUSE */
void greeting_begin(struct net *net);
void greeting_from_peer(struct net *net, const struct message *m);
void greeting_from_owner(struct net *net, const struct message *m);

/* run.c */
void net_run(struct net *net);
/* Tell the owner why it ends (once; ERROR_NONE: regularly), then close: `flush` sends what is queued first. */
void net_down(struct net *net, const struct error *err, bool flush);
void net_close(struct net *net, bool flush);
void net_end_of_stream(struct net *net); /* checks whether both directions are done */
