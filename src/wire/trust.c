/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/certificate.h"
#include "wire/credentials.h"

/* This host's own certificate authority, and the leaves it gives to phaul-net. Peers are in peers.c. */

#define DAY 86400L
#define CA_DAYS 3652 /* ten years */
#define PEM_LIMIT (16 * 1024)

static int pki_path(const char *dir, const char *file, char *ret, size_t size, struct error *err)
{
        if (snprintf(ret, size, "%s/pki%s%s", dir, file ? "/" : "", file ?: "") >= (int)size)
                return error_set(err, ENAMETOOLONG, "path too long: %s", dir);
        return 0;
}

static int write_ca(const char *dir, EVP_PKEY *key, X509 *certificate, struct error *err)
{
        char pki[PATH_MAX], key_path[PATH_MAX], certificate_path[PATH_MAX];
        AUTO_FREE char *certificate_pem = NULL;
        char *key_pem = NULL;
        int r = pki_path(dir, NULL, pki, sizeof(pki), err);

        if (r == 0)
                r = pki_path(dir, "ca.key", key_path, sizeof(key_path), err);
        if (r == 0)
                r = pki_path(dir, "ca.crt", certificate_path, sizeof(certificate_path), err);
        if (r < 0)
                return r;
        r = fd_mkdir_p(dir, 0755);
        if (r == 0 && mkdir(pki, 0700) < 0 && errno != EEXIST)
                r = -errno;
        if (r < 0)
                return error_errno(err, -r, "cannot make %s", pki);

        r = certificate_to_pem(certificate, &certificate_pem);
        if (r == 0)
                r = key_to_pem(key, &key_pem);
        /* The certificate last: without it the key counts as never made. */
        if (r == 0)
                r = fd_write_file(AT_FDCWD, key_path, key_pem, strlen(key_pem), 0600);
        if (r == 0)
                r = fd_write_file(AT_FDCWD, certificate_path, certificate_pem, strlen(certificate_pem), 0644);
        if (key_pem) {
                OPENSSL_cleanse(key_pem, strlen(key_pem));
                free(key_pem);
        }
        return r < 0 ? error_errno(err, -r, "cannot write this host's certificate to %s", pki) : 0;
}

int trust_init(const char *dir, const char *host_name, struct error *err)
{
        char path[PATH_MAX];
        int r = pki_path(dir, "ca.crt", path, sizeof(path), err);

        if (r < 0)
                return r;
        if (access(path, F_OK) == 0)
                return 0;
        if (errno != ENOENT)
                return error_errno(err, errno, "cannot look at %s", path);
        if (!name_is_valid(host_name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "this host has no usable name");

        AUTO_PKEY EVP_PKEY *key = EVP_EC_gen("P-256");
        AUTO_X509 X509 *certificate = NULL;
        if (!key)
                return error_set(err, EIO, "cannot make a key");
        r = certificate_make(host_name, key, NULL, NULL, -DAY, CA_DAYS * DAY, &certificate, err);
        return r < 0 ? r : write_ca(dir, key, certificate, err);
}

static int load_certificate(const char *dir, X509 **ret, struct error *err)
{
        AUTO_FREE char *pem = NULL;
        AUTO_X509 X509 *certificate = NULL;
        char path[PATH_MAX];
        int r = pki_path(dir, "ca.crt", path, sizeof(path), err);

        if (r < 0)
                return r;
        r = fd_read_file(AT_FDCWD, path, PEM_LIMIT, &pem, NULL);
        if (r < 0)
                return error_errno(err, -r, "cannot read this host's certificate %s", path);
        r = certificate_parse(pem, &certificate, err);
        if (r == 0)
                r = certificate_check_ca(certificate, err);
        if (r < 0)
                return error_wrap(err, "%s", path);
        *ret = TAKE_PTR(certificate);
        return 0;
}

static int load_key(const char *dir, X509 *certificate, EVP_PKEY **ret, struct error *err)
{
        AUTO_PKEY EVP_PKEY *key = NULL;
        char path[PATH_MAX], *pem = NULL;
        int r = pki_path(dir, "ca.key", path, sizeof(path), err);

        if (r < 0)
                return r;
        r = fd_read_file(AT_FDCWD, path, PEM_LIMIT, &pem, NULL);
        if (r < 0)
                return error_errno(err, -r, "cannot read this host's key %s", path);
        r = key_from_pem(pem, &key);
        OPENSSL_cleanse(pem, strlen(pem));
        free(pem);
        if (r < 0)
                return error_set(err, -r, "%s is not a private key", path);
        if (X509_check_private_key(certificate, key) != 1)
                return error_set(err, EBADMSG, "%s does not belong to this host's certificate", path);
        *ret = TAKE_PTR(key);
        return 0;
}

int trust_self(const char *dir, char **ret_pem, char ret_fingerprint[static FINGERPRINT_LENGTH + 1], struct error *err)
{
        AUTO_X509 X509 *certificate = NULL;
        int r = load_certificate(dir, &certificate, err);

        if (r < 0)
                return r;
        r = certificate_fingerprint(certificate, ret_fingerprint, err);
        if (r < 0)
                return r;
        r = certificate_to_pem(certificate, ret_pem);
        return r < 0 ? error_set(err, -r, "out of memory") : 0;
}

void credentials_free(struct credentials *c)
{
        if (!c)
                return;
        if (c->key.data)
                OPENSSL_cleanse(c->key.data, c->key.size);
        free(c->key.data);
        free(c->leaf.data);
        for (size_t i = 0; i < c->n_anchors; i++)
                free(c->anchors[i].data);
        free(c->anchors);
        free(c);
}

int credentials_add_anchor(struct credentials *credentials, const char *pem)
{
        AUTO_X509 X509 *certificate = NULL;
        struct blob *grown = realloc(credentials->anchors, (credentials->n_anchors + 1) * sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        credentials->anchors = grown;
        grown[credentials->n_anchors] = (struct blob){0};
        int r = certificate_parse(pem, &certificate, NULL);
        if (r == 0)
                r = certificate_to_der(certificate, &grown[credentials->n_anchors]);
        if (r == 0)
                credentials->n_anchors++;
        return r;
}

static int make_leaf(const char *dir, struct credentials *c, struct error *err)
{
        AUTO_X509 X509 *ca = NULL, *leaf = NULL;
        AUTO_PKEY EVP_PKEY *ca_key = NULL, *key = NULL;
        int64_t expires;
        int r = load_certificate(dir, &ca, err);

        if (r == 0)
                r = load_key(dir, ca, &ca_key, err);
        if (r == 0)
                r = certificate_not_after(ca, &expires, err);
        if (r < 0)
                return r;
        if (expires <= clock_wall_ms())
                return error_set(err, EKEYEXPIRED,
                                 "the certificate of this host in %s/pki has expired: make a new one and pair again",
                                 dir);
        key = EVP_EC_gen("P-256");
        if (!key)
                return error_set(err, EIO, "cannot make a key");
        r = certificate_make("phaul-net", key, ca, ca_key, -DAY, DAY, &leaf, err);
        if (r < 0)
                return r;
        r = key_to_der(key, &c->key);
        if (r == 0)
                r = certificate_to_der(leaf, &c->leaf);
        return r < 0 ? error_set(err, -r, "out of memory") : 0;
}

int trust_credentials(const char *dir, struct credentials **ret, struct error *err)
{
        CLEANUP(credentials_free_ptr) struct credentials *c = calloc(1, sizeof(*c));
        struct peer *peers = NULL;
        size_t n = 0;

        if (!c)
                return error_set(err, ENOMEM, "out of memory");
        int r = make_leaf(dir, c, err);
        if (r == 0)
                r = trust_list(dir, &peers, &n, err);
        if (r < 0)
                return r;
        int64_t now = clock_wall_ms();
        for (size_t i = 0; i < n; i++) {
                if (r == 0 && peers[i].expires_ms > now) {
                        r = credentials_add_anchor(c, peers[i].certificate);
                        if (r < 0)
                                (void)error_errno(err, -r, "certificate of %s", peers[i].name);
                }
                peer_done(&peers[i]);
        }
        free(peers);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

int trust_credentials_for(const char *dir, const char *certificate, struct credentials **ret, struct error *err)
{
        CLEANUP(credentials_free_ptr) struct credentials *c = calloc(1, sizeof(*c));

        if (!c)
                return error_set(err, ENOMEM, "out of memory");
        int r = make_leaf(dir, c, err);
        if (r < 0)
                return r;
        r = credentials_add_anchor(c, certificate);
        if (r < 0)
                return error_errno(err, -r, "certificate of the other host");
        *ret = TAKE_PTR(c);
        return 0;
}

int trust_inspect(const char *pem, char ret_fingerprint[static FINGERPRINT_LENGTH + 1], int64_t *ret_expires_ms,
                  struct error *err)
{
        AUTO_X509 X509 *certificate = NULL;
        int r = certificate_parse(pem, &certificate, err);

        if (r == 0)
                r = certificate_check_ca(certificate, err);
        if (r == 0 && ret_expires_ms)
                r = certificate_not_after(certificate, ret_expires_ms, err);
        if (r == 0)
                r = certificate_fingerprint(certificate, ret_fingerprint, err);
        return r;
}
