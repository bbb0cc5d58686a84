/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/random.h>

#include "wire/bytes.h"
#include "wire/certificate.h"
#include "wire/trust.h"

/* The one-time code of a pairing and the proofs made with it; PROTOCOL.md "Pairing" says when they are exchanged. */

#define CODE_SYMBOLS 25 /* of 5 bits each */
#define CODE_GROUP 5
#define CODE_SIZE (CODE_SYMBOLS + CODE_SYMBOLS / CODE_GROUP) /* with dashes between groups, and the NUL */
_Static_assert(CODE_SIZE == TRUST_CODE_SIZE, "the header says how much room a code takes");

/* Without I, L, O (read as 1, 1, 0) and U. */
static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

static void write_code(const uint8_t symbols[static CODE_SYMBOLS], char *ret)
{
        for (size_t i = 0; i < CODE_SYMBOLS; i++) {
                if (i && i % CODE_GROUP == 0)
                        *ret++ = '-';
                *ret++ = alphabet[symbols[i] & 31];
        }
        *ret = '\0';
}

int trust_code_new(char *ret, size_t size)
{
        uint8_t symbols[CODE_SYMBOLS];

        if (size < CODE_SIZE)
                return -ENOBUFS;
        if (getrandom(symbols, sizeof(symbols), 0) != (ssize_t)sizeof(symbols))
                return -EIO;
        write_code(symbols, ret);
        OPENSSL_cleanse(symbols, sizeof(symbols));
        return 0;
}

static int symbol_of(char c)
{
        if (c >= 'a' && c <= 'z')
                c = (char)(c - 'a' + 'A');
        if (c == 'O')
                c = '0';
        if (c == 'I' || c == 'L')
                c = '1';
        const char *found = c ? strchr(alphabet, c) : NULL;
        return found ? (int)(found - alphabet) : -1;
}

int trust_code_normalize(const char *typed, char *ret, size_t size)
{
        uint8_t symbols[CODE_SYMBOLS];
        size_t n = 0;

        if (size < CODE_SIZE)
                return -ENOBUFS;
        for (; *typed; typed++) {
                if (strchr(" \t\r\n-_.", *typed))
                        continue;
                int symbol = symbol_of(*typed);
                if (symbol < 0 || n == CODE_SYMBOLS)
                        return -EINVAL;
                symbols[n++] = (uint8_t)symbol;
        }
        if (n != CODE_SYMBOLS)
                return -EINVAL;
        write_code(symbols, ret);
        return 0;
}

/* The code has 125 bits from the kernel, so one fast derivation suffices: there is nothing to guess. */
static int derive_key(const char *code, uint8_t ret[static 32])
{
        EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
        EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
        char digest[] = "SHA256", salt[] = "phaul pairing 1", info[] = "proof";
        OSSL_PARAM params[] = {
                OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)code, strlen(code)),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, strlen(salt)),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, strlen(info)),
                OSSL_PARAM_construct_end(),
        };
        int r = context && EVP_KDF_derive(context, ret, 32, params) == 1 ? 0 : -EIO;

        EVP_KDF_CTX_free(context);
        EVP_KDF_free(kdf);
        return r;
}

/* Each part with its length in front, so that no two different sets of parts read the same. */
static bool add_part(EVP_MAC_CTX *mac, const void *data, size_t size)
{
        uint8_t length[4];

        put_be32(length, (uint32_t)size);
        return EVP_MAC_update(mac, length, sizeof(length)) == 1 && EVP_MAC_update(mac, data, size) == 1;
}

/* By DER, because PEM leaves room for different line ends. */
static bool add_certificate(EVP_MAC_CTX *mac, const char *pem)
{
        AUTO_X509 X509 *certificate = NULL;
        struct blob der = {0};

        if (certificate_parse(pem, &certificate, NULL) < 0 || certificate_to_der(certificate, &der) < 0)
                return false;
        bool ok = add_part(mac, der.data, der.size);
        free(der.data);
        return ok;
}

int trust_pair_proof(const char *code, const char *role, const uint8_t nonce_connector[static 32],
                     const uint8_t nonce_offerer[static 32], const char *pem_connector, const char *pem_offerer,
                     const char *name_connector, const char *name_offerer, uint8_t ret[static 32])
{
        char normal[CODE_SIZE], digest[] = "SHA256";
        uint8_t key[32];
        size_t size = 0;

        if (strcmp(role, "connector") != 0 && strcmp(role, "offerer") != 0)
                return -EINVAL;
        int r = trust_code_normalize(code, normal, sizeof(normal));
        if (r == 0)
                r = derive_key(normal, key);
        OPENSSL_cleanse(normal, sizeof(normal));
        if (r < 0)
                return r;

        EVP_MAC *algorithm = EVP_MAC_fetch(NULL, "HMAC", NULL);
        EVP_MAC_CTX *mac = algorithm ? EVP_MAC_CTX_new(algorithm) : NULL;
        OSSL_PARAM params[] = {
                OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                OSSL_PARAM_construct_end(),
        };
        bool ok = mac && EVP_MAC_init(mac, key, sizeof(key), params) == 1 && add_part(mac, role, strlen(role)) &&
                  add_part(mac, nonce_connector, 32) && add_part(mac, nonce_offerer, 32) &&
                  add_certificate(mac, pem_connector) && add_certificate(mac, pem_offerer) &&
                  add_part(mac, name_connector, strlen(name_connector)) &&
                  add_part(mac, name_offerer, strlen(name_offerer)) && EVP_MAC_final(mac, ret, &size, 32) == 1 &&
                  size == 32;
        EVP_MAC_CTX_free(mac);
        EVP_MAC_free(algorithm);
        OPENSSL_cleanse(key, sizeof(key));
        return ok ? 0 : -EBADMSG;
}

bool trust_proof_equal(const uint8_t a[static 32], const uint8_t b[static 32])
{
        return CRYPTO_memcmp(a, b, 32) == 0;
}
