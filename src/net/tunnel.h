/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "wire/record.h"
#include "wire/tunnel.h"

/*
 * phaul-net as the end of a tunnel: many connections over one or two byte streams that somebody else opened (ssh's
 * standard streams, descriptors). It knows nothing of what flows in them: that is TLS, between other phaul-nets.
 *
 *   peer ══ lane ══ lane.c ── channel.c ── stream sockets ── phaul-nets of this host
 *                       tunnel.c ── records ── owner
 *
 * PROTOCOL.md "Tunnels" has the format. One thread, one poll loop, every buffer bounded.
 */
#define TUNNEL_PREFACE "phaul tunnel 1" /* then the side, 'c' or 'a', and the lane: '0' the only one, else '1', '2' */
#define TUNNEL_PREFACE_SIZE 16
#define TUNNEL_HEADER 8               /* u32 size of the body, u8 kind, zero byte, u16 channel */
#define TUNNEL_CHUNK (32U * 1024)     /* data of one frame, at most */
#define TUNNEL_WINDOW (512U * 1024)   /* of each channel and direction */
#define TUNNEL_CREDIT_AT (64U * 1024) /* so much is written on before the sender hears of it */
#define TUNNEL_CHANNELS_MAX 40
#define TUNNEL_BODY_MAX TUNNEL_CHUNK

enum tunnel_kind {
        TUNNEL_HELLO = 1, /* lane 0, first: a TUNNEL message */
        TUNNEL_OPEN,      /* connector: a connection */
        TUNNEL_DATA,
        TUNNEL_CREDIT, /* u32: so much more may be sent */
        TUNNEL_END,    /* nothing more comes in this direction */
        TUNNEL_RESET,  /* nothing more comes or is wanted */
        TUNNEL_PING,   /* channel 0: still here */
};

struct channel {
        uint16_t number; /* 0: free */
        unsigned lane;
        int fd; /* -1: the owner was not asked yet or has not answered */
        bool readable;
        bool open_due, reset_due;
        bool local_end, end_sent; /* nothing more comes from here; and the peer was told */
        bool peer_end, end_passed;
        uint32_t credit;   /* bytes the peer will take */
        uint32_t consumed; /* written on, not yet told */
        uint8_t *buffer;   /* from the peer, a ring of TUNNEL_WINDOW bytes */
        size_t first, fill;
};

struct lane {
        int in, out;
        bool hello_due, ping_due, preface_seen;
        bool blocked; /* the last write did not take all */
        uint8_t rx[TUNNEL_HEADER + TUNNEL_BODY_MAX];
        size_t rx_have;
        uint8_t tx[TUNNEL_HEADER + TUNNEL_BODY_MAX];
        size_t tx_at, tx_size;
        uint64_t heard_ms, said_ms;
        unsigned turn;         /* channel to be served next */
        uint32_t last_channel; /* opened on it: numbers grow on each lane, and are in use once in all */
};

struct tunnel_end {
        struct record_tunnel config;
        int record_fd, words_fd;
        struct lane lanes[TUNNEL_LANES_MAX];
        struct channel channels[TUNNEL_CHANNELS_MAX];
        bool up, over, owner_gone;
        uint64_t deadline_ms; /* for the peer's HELLO, or for the last bytes after the owner has gone; 0 none */
        char words[1024];     /* the end of what ssh has said */
        size_t words_size;
};

/* phaul-net.c calls it; does not come back before the tunnel is over. */
void tunnel_main(int record_fd);

/* tunnel.c: the end, told once. */
void tunnel_fail(struct tunnel_end *t, enum error_kind kind, int code, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
void tunnel_tell(struct tunnel_end *t, const void *record, size_t size);

/* lane.c */
void lane_begin(struct tunnel_end *t, unsigned lane);
void lane_read(struct tunnel_end *t, unsigned lane);
void lane_write(struct tunnel_end *t, unsigned lane);
bool lane_has_work(const struct tunnel_end *t, unsigned lane);

/* channel.c */
struct channel *channel_find(struct tunnel_end *t, uint32_t number);
struct channel *channel_new(struct tunnel_end *t, uint32_t number, unsigned lane);
void channel_free(struct channel *c);
/* From the peer; false: against the rules. */
bool channel_take(struct channel *c, const uint8_t *data, size_t size);
/* To this host's socket, as far as it takes it. */
void channel_pass(struct channel *c);
/* The next frame of this channel into `frame` (header and body): its size, 0 for none. */
size_t channel_frame(struct channel *c, uint8_t *frame);
bool channel_has_frame(const struct channel *c);
size_t tunnel_put_header(uint8_t *frame, size_t size, enum tunnel_kind kind, uint16_t channel);
