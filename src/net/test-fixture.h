/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <sys/types.h>

#include "wire/credentials.h"
#include "wire/link.h"
#include "wire/trust.h"

/* Two owners in one process, each with a trust directory of its own, and links between them over the loopback. */

struct side {
        struct link *link;
        bool up, down;
        uint32_t version;
        struct link_peer peer;
        struct error err; /* of down */
        unsigned n_messages;
        uint16_t last;       /* type of the last message */
        uint32_t last_round; /* FIELD_ROUND of it, if any */
        unsigned out_of_order;
        void (*on_message)(struct side *side, const struct message *m);
        void (*on_bulk)(struct side *side, const struct bulk_frame *frame, const void *data);
        void (*on_writable)(struct side *side);
        void *data;
};

struct host {
        char *dir;
        char *certificate;
        char fingerprint[FINGERPRINT_LENGTH + 1];
        struct credentials *credentials;
};

struct fixture {
        struct loop *loop;
        struct host a, b;
        int listen_fd;
        uint16_t port, client_port;
        struct link_environment env;
        char root[64];
        struct side client, server;
        pid_t stopped;
};

/* a and b are paired with each other. */
int fixture_setup(void **state);
int fixture_teardown(void **state);

void host_make(struct host *host, const char *name);
void host_done(struct host *host);
void host_pair(struct host *host, const char *name, const struct host *other);
/* Reads the trust directory again. */
void host_refresh(struct host *host);

int fixture_connect(struct fixture *f, const struct host *as, const struct link_connect_options *options);
void fixture_accept(struct fixture *f, const struct host *as, bool allow_strangers);

/* From a to b, up to the HELLO; then the welcome. */
void fixture_greet(struct fixture *f, enum purpose purpose);
void fixture_open(struct fixture *f, enum purpose purpose);

/* Runs the loop until *flag or for ten seconds, which fails the test. */
void fixture_until(struct fixture *f, const bool *flag);
void fixture_run(struct fixture *f, unsigned ms);

void expect_text(const struct error *err, const char *part);

/* The phaul-net whose list of arguments has these two; 0 if there is none. */
pid_t find_net(const char *role, const char *about_suffix);
pid_t client_net(const struct fixture *f);
pid_t server_net(const struct fixture *f); /* of the connection accepted last */
/* SIGSTOP and SIGCONT; the end of a test continues what it left stopped. */
void fixture_stop(struct fixture *f, pid_t pid);
void fixture_continue(struct fixture *f);
/* Until it has gone; fails after `ms`. */
void expect_gone(struct fixture *f, pid_t pid, unsigned ms);

extern const struct link_handlers side_handlers;
