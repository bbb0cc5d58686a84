/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "wire/link.h"

/*
 * What an owner and its phaul-net say to each other over their SEQPACKET socket, one record a packet. Same machine,
 * same build: plain structures in host order. The owner checks everything it reads, because phaul-net may have been
 * taken over; phaul-net checks sizes, because a mistake of ours shall not become a hole.
 */

/* Changes with any change below: phaul-net refuses an owner of another build (a half-done upgrade). */
#define RECORD_ABI 3

enum record_type {
        /* owner to phaul-net */
        RECORD_CONFIG = 1, /* first: struct record_config */
        RECORD_ANCHOR,     /* DER of one certificate that counts; any number */
        RECORD_START,      /* no more anchors: begin */
        RECORD_STREAM,     /* with the descriptor to pump */
        RECORD_RING,       /* with the memfd of the ring */
        RECORD_COMMIT,     /* struct record_bulk: that slot is filled, send it */
        RECORD_CREDIT,     /* struct record_slot: that received slot may be filled again */
        /* both ways */
        RECORD_MESSAGE, /* an encoded message */
        /* phaul-net to owner */
        RECORD_UP,          /* struct record_up */
        RECORD_RING_WANTED, /* a bulk link is open */
        RECORD_BULK,        /* struct record_bulk: a received frame, its data in that slot */
        RECORD_SENT,        /* struct record_slot: that slot is in the kernel's hands */
        RECORD_COUNTERS,    /* struct record_counters */
        RECORD_DOWN,        /* struct record_down, the last one */
        /* of a tunnel */
        RECORD_TUNNEL,  /* owner: first and only configuration, struct record_tunnel */
        RECORD_CHANNEL, /* owner: struct record_channel with a stream socket: open it (connector), or here is its end */
        RECORD_REFUSED, /* owner (acceptor): struct record_channel: no socket for that one */
        RECORD_ASKED,   /* phaul-net (acceptor): struct record_channel: the peer opens it */
};

struct record_header {
        uint32_t type;
        uint32_t zero;
};

#define RECORD_MAX (sizeof(struct record_header) + MESSAGE_MAX)

struct record_config {
        struct record_header header;
        uint32_t abi;
        uint32_t accepting;
        uint32_t allow_strangers;
        uint32_t given; /* descriptor 4 is a connection through a tunnel, `address` what to call its other end */
        uint32_t silence_ms;
        uint32_t handshake_ms; /* for connection, TLS and (accepting) HELLO, each */
        uint32_t port;
        uint64_t bytes_per_second;
        char address[256]; /* connecting: where to */
        char expect[FINGERPRINT_LENGTH + 1];
        char user[64]; /* "" for the default */
        char root[256];
        uint32_t key_size, leaf_size, hello_size;
        uint8_t key[1024];
        uint8_t leaf[4096];
        uint8_t hello[1024]; /* connecting: the encoded HELLO */
};

struct record_up {
        struct record_header header;
        uint32_t version;
        char fingerprint[FINGERPRINT_LENGTH + 1];
        char address[128];
};

/* A tunnel: descriptors 4 and 5 are read and written on lane 0, 6 and 7 on lane 1, from 8 is what ssh has to say. */
#define TUNNEL_LANES_MAX 2
struct record_tunnel {
        struct record_header header;
        uint32_t abi;
        uint32_t accepting;
        uint32_t lanes;
        uint32_t has_words; /* there is a descriptor 8 */
        uint32_t silence_ms;
        uint32_t handshake_ms;
        char user[64]; /* "" for the default */
        char root[256];
        char peer[128]; /* for messages */
        uint32_t hello_size;
        uint8_t hello[20 * 1024]; /* the encoded TUNNEL message of this side */
};

struct record_channel {
        struct record_header header;
        uint32_t channel;
        uint32_t lane;
};

struct record_slot {
        struct record_header header;
        uint32_t slot;
};

struct record_bulk {
        struct record_header header;
        uint32_t slot;
        struct bulk_frame frame;
};

struct record_counters {
        struct record_header header;
        uint64_t sent, received;
};

struct record_down {
        struct record_header header;
        uint32_t kind;
        int32_t code;
        char text[ERROR_TEXT_MAX];
};

/* Slots of the ring: first those the owner fills, then those phaul-net fills. */
#define RING_SIZE ((size_t)2 * BULK_SLOTS * BULK_MAX)
#define RING_SEND(slot) (BULK_MAX * (size_t)(slot))
#define RING_RECEIVE(slot) ((size_t)(BULK_SLOTS + (slot)) * BULK_MAX)

/* Room asked for both ends of the record socket; the kernel counts double, with its own overhead. */
#define RECORD_BUFFER (4 * 1024 * 1024)
