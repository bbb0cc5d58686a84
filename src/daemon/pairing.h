/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"
#include "wire/message.h"
#include "wire/trust.h"

/*
 * Pairing without sockets: the offer of this host, and one exchange of messages on either side. Time is passed in.
 *
 *   connector                                offerer (whose code both know)
 *      PAIR_OPEN  certificate, nonce, name, port  ->
 *      <- PAIR_OFFER  certificate, nonce, name, proof
 *      PAIR_PROOF  proof                          ->      trusts the connector
 *      <- PAIR_DONE                                       connector trusts the offerer
 *
 * The offerer proves first, so a connector with a mistyped code notices and goes away; that is why every offer sent
 * counts as an attempt, not only a wrong proof. Whoever collects offers gets nothing to guess from: a code has 125
 * bits.
 */
#define PAIRING_OPEN_MS (10U * 60 * 1000)
#define PAIRING_ATTEMPTS 3

/* The offer of this host; all zero: none. */
struct pairing {
        char code[TRUST_CODE_SIZE]; /* "" = none */
        uint64_t until_ms;          /* clock_ms() */
        int64_t expires_ms;         /* wall clock, for people */
        unsigned attempts;
        unsigned generation; /* an exchange begun with an earlier code cannot be ended with a later one */
};

/* A fresh code; an earlier offer is void from then on. */
int pairing_offer(struct pairing *pairing, uint64_t now_ms, int64_t wall_ms, struct error *err);
bool pairing_is_open(const struct pairing *pairing, uint64_t now_ms);
void pairing_close(struct pairing *pairing);

struct pair_self {
        const char *trust_dir, *name;
        uint16_t port;
};

struct exchange;
void exchange_free(struct exchange *exchange);
DEFINE_CLEANUP(struct exchange, exchange_free)

/* Offerer: PAIR_OPEN came; *ret_reply is PAIR_OFFER. ERROR_DENIED when no offer is open. */
int exchange_offer(struct pairing *pairing, const struct pair_self *self, uint64_t now_ms, const struct message *open,
                   struct exchange **ret, struct message **ret_reply, struct error *err);
/* Offerer: PAIR_PROOF came. 0: *ret_peer is whom to trust (address still to be filled), the offer is used up. */
int exchange_accept(struct exchange *exchange, struct pairing *pairing, uint64_t now_ms, const struct message *proof,
                    struct peer *ret_peer, struct error *err);

/* Connector: *ret_open is PAIR_OPEN. ERROR_USAGE for what cannot be a code. */
int exchange_open(const struct pair_self *self, const char *code, struct exchange **ret, struct message **ret_open,
                  struct error *err);
/* Connector: PAIR_OFFER came; *ret_proof is PAIR_PROOF, *ret_peer whom to trust once PAIR_DONE comes. */
int exchange_prove(struct exchange *exchange, const struct message *offer, struct message **ret_proof,
                   struct peer *ret_peer, struct error *err);
