/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/spawn.h"
#include "wire/link.h"
#include "wire/record.h"

/* Shared by link.c (life and messages) and link_bulk.c (the ring). */

enum link_state {
        LINK_STARTING, /* until RECORD_UP */
        LINK_GREETING, /* accepting: until HELLO */
        LINK_ASKED,    /* accepting: HELLO delivered, to be answered */
        LINK_OPEN,
        LINK_REFUSED, /* refused by us, waiting for the end */
        LINK_DOWN,
};

struct link {
        struct loop *loop;
        struct link_handlers handlers;
        void *context;
        int record_fd;
        struct source *source;
        enum link_state state;
        bool accepting;
        bool in_callback, freed;
        enum purpose purpose; /* 0: not known (adopted) */
        uint32_t version_min, version_max;
        char expect[FINGERPRINT_LENGTH + 1];
        struct link_peer peer;
        uint64_t sent, received;

        uint8_t *ring; /* NULL until it is needed */
        bool in_flight[BULK_SLOTS];
        int reserved;          /* slot, or -1 */
        bool kept[BULK_SLOTS]; /* received, and not done with when its handler returned */
};

/* A link on a record socket, which is taken over in any case. */
int link_new_on(struct loop *loop, int record_fd, const struct link_handlers *handlers, void *context,
                struct link **ret);

/* -ENOTCONN when phaul-net is gone; `down` follows from the loop. */
int link_send_record(struct link *link, const void *record, size_t size, int pass_fd);

/* link_start.c, for tunnels, too */
#define LINK_DEFAULT_ROOT "/run/phaul/empty"
#define LINK_RECORD_FD 3
int link_make_root(const char *path, struct error *err);
int link_start_process(const char *program, const char *role, const char *about, const struct spawn_fd *fds,
                       size_t n_fds, struct error *err);
void link_enlarge(int fd);

/* link.c: no control characters, no broken UTF-8. */
void link_clean_text(char *text, size_t size);

int link_ring_open(struct link *link);
void link_ring_close(struct link *link);

/* Records about bulk frames; 0 or a negative errno when phaul-net broke the rules. */
int link_on_bulk(struct link *link, const struct record_bulk *record);
int link_on_sent(struct link *link, const struct record_slot *record);
