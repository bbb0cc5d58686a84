/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdint.h>

#include "base/error.h"
#include "wire/credentials.h"

/* X.509 as phaul uses it: P-256, one CA level, a leaf below it. Inside wire/ only. */

static inline void evp_pkey_free_ptr(EVP_PKEY **p)
{
        EVP_PKEY_free(*p);
}

static inline void x509_free_ptr(X509 **p)
{
        X509_free(*p);
}

#define AUTO_PKEY CLEANUP(evp_pkey_free_ptr)
#define AUTO_X509 CLEANUP(x509_free_ptr)

/* Seconds relative to now. `issuer` NULL: a self-signed CA certificate; else a leaf below it, signed with issuer_key.
 */
int certificate_make(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, long not_before,
                     long not_after, X509 **ret, struct error *err);

/* Exactly one PEM certificate and nothing else. */
int certificate_parse(const char *pem, X509 **ret, struct error *err);

/* A CA certificate as certificate_make() makes them: CA:TRUE, signed by itself, elliptic curve. */
int certificate_check_ca(X509 *certificate, struct error *err);

int certificate_fingerprint(X509 *certificate, char ret[static FINGERPRINT_LENGTH + 1], struct error *err);
int certificate_not_after(X509 *certificate, int64_t *ret_ms, struct error *err);
int certificate_to_pem(X509 *certificate, char **ret);
int certificate_to_der(X509 *certificate, struct blob *ret);

int key_to_pem(EVP_PKEY *key, char **ret);
int key_from_pem(const char *pem, EVP_PKEY **ret);
int key_to_der(EVP_PKEY *key, struct blob *ret);
