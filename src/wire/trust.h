/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"
#include "wire/link.h"

/*
 * Who this host is and whom it trusts. Each host has a certificate authority of its own, made at first start
 * (DIR/pki/ca.key 0600, DIR/pki/ca.crt; P-256, 10 years, CN = host name). The key never leaves root's processes: each
 * phaul-net gets a fresh leaf key with a certificate for one day (backdated a day for clocks that differ). Pairing
 * exchanges CA certificates; a peer is whoever shows a leaf under a CA certificate in DIR/peers/NAME.json.
 * All calls read the files anew: another process may have changed them. Thread-safe.
 */
#define TRUST_DIR_DEFAULT "/etc/phaul"

struct peer {
        char name[NAME_MAX_LENGTH + 1];
        char address[256];
        uint16_t port;
        char fingerprint[FINGERPRINT_LENGTH + 1];
        int64_t paired_ms;  /* wall clock */
        int64_t expires_ms; /* notAfter of its CA certificate */
        char *certificate;  /* PEM */
};
void peer_done(struct peer *peer);

/* Make the CA if there is none. */
int trust_init(const char *dir, const char *host_name, struct error *err);

/* Own CA certificate (PEM, caller frees) and its fingerprint. */
int trust_self(const char *dir, char **ret_pem, char ret_fingerprint[static FINGERPRINT_LENGTH + 1], struct error *err);

/* Fresh leaf plus the anchors of all paired hosts that have not expired. */
int trust_credentials(const char *dir, struct credentials **ret, struct error *err);
/* Fresh leaf plus that one anchor, which is stored nowhere: the other end of a tunnel. */
int trust_credentials_for(const char *dir, const char *certificate, struct credentials **ret, struct error *err);
void credentials_free(struct credentials *credentials);
DEFINE_CLEANUP(struct credentials, credentials_free)

/* Store (replace) or remove a peer. The same certificate under another name, or this host's own, is refused. */
int trust_add(const char *dir, const struct peer *peer, struct error *err);
int trust_remove(const char *dir, const char *name, struct error *err);

/* ERROR_NOT_FOUND when there is none. */
int trust_find(const char *dir, const char *name, struct peer *ret, struct error *err);
int trust_find_fingerprint(const char *dir, const char *fingerprint, struct peer *ret, struct error *err);

/* All of them, sorted by name; free each with peer_done() and the array with free(). */
int trust_list(const char *dir, struct peer **ret, size_t *ret_n, struct error *err);

/*
 * Fingerprint and notAfter of a CA certificate given as PEM; checks that it is one (CA:TRUE, self-signed, one only).
 * Its time is not checked: an expired peer must still be shown. trust_add() refuses expired ones.
 */
int trust_inspect(const char *pem, char ret_fingerprint[static FINGERPRINT_LENGTH + 1], int64_t *ret_expires_ms,
                  struct error *err);

/*
 * Pairing proof: HMAC-SHA256, key = HKDF(code), over role, both nonces, both certificates and both names, so that
 * neither side needs to trust TLS or phaul-net for it. `role` is "connector" or "offerer".
 */
int trust_pair_proof(const char *code, const char *role, const uint8_t nonce_connector[static 32],
                     const uint8_t nonce_offerer[static 32], const char *pem_connector, const char *pem_offerer,
                     const char *name_connector, const char *name_offerer, uint8_t ret[static 32]);

/* Compares two proofs in constant time. */
bool trust_proof_equal(const uint8_t a[static 32], const uint8_t b[static 32]);

/*
 * A fresh code of 125 bits in groups, without letters that look alike, and its normal form (what users type varies).
 * `size` is at least TRUST_CODE_SIZE. -EINVAL when it cannot be a code. trust_pair_proof() takes any form.
 */
#define TRUST_CODE_SIZE 30
int trust_code_new(char *ret, size_t size);
int trust_code_normalize(const char *typed, char *ret, size_t size);
