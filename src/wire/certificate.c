/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/certificate.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline void bio_free_ptr(BIO **p)
{
        BIO_free(*p);
}

#define AUTO_BIO CLEANUP(bio_free_ptr)

/* OpenSSL keeps a queue of errors per thread; it must not leak into the next TLS call. */
static int failed(struct error *err, const char *what)
{
        char detail[160] = "";
        unsigned long code = ERR_get_error();

        if (code)
                ERR_error_string_n(code, detail, sizeof(detail));
        ERR_clear_error();
        return error_set(err, EIO, "%s%s%s", what, code ? ": " : "", detail);
}

static int add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
        X509V3_CTX context;

        X509V3_set_ctx_nodb(&context);
        X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
        X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
        if (!extension)
                return -1;
        int r = X509_add_ext(certificate, extension, -1) == 1 ? 0 : -1;
        X509_EXTENSION_free(extension);
        return r;
}

static int add_extensions(X509 *certificate, X509 *issuer)
{
        static const struct {
                int nid;
                const char *value;
        } ca[] = {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                  {NID_key_usage, "critical,keyCertSign,cRLSign"},
                  {NID_subject_key_identifier, "hash"}},
          leaf[] = {{NID_basic_constraints, "critical,CA:FALSE"},
                    {NID_key_usage, "critical,digitalSignature"},
                    {NID_ext_key_usage, "serverAuth,clientAuth"},
                    {NID_subject_key_identifier, "hash"},
                    {NID_authority_key_identifier, "keyid:always"}};
        size_t n = issuer ? sizeof(leaf) / sizeof(leaf[0]) : sizeof(ca) / sizeof(ca[0]);

        for (size_t i = 0; i < n; i++) {
                int nid = issuer ? leaf[i].nid : ca[i].nid;
                const char *value = issuer ? leaf[i].value : ca[i].value;
                if (add_extension(certificate, issuer ?: certificate, nid, value) < 0)
                        return -1;
        }
        return 0;
}

static int set_serial(X509 *certificate)
{
        uint64_t serial;

        if (RAND_bytes((unsigned char *)&serial, sizeof(serial)) != 1)
                return -1;
        serial = (serial >> 1) | 1;
        return ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial) == 1 ? 0 : -1;
}

int certificate_make(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, long not_before,
                     long not_after, X509 **ret, struct error *err)
{
        AUTO_X509 X509 *c = X509_new();

        if (!c || X509_set_version(c, X509_VERSION_3) != 1 || set_serial(c) < 0)
                return failed(err, "cannot make a certificate");
        /* In days and seconds: ten years of seconds would not fit a long everywhere. */
        if (!X509_time_adj_ex(X509_getm_notBefore(c), (int)(not_before / 86400), not_before % 86400, NULL) ||
            !X509_time_adj_ex(X509_getm_notAfter(c), (int)(not_after / 86400), not_after % 86400, NULL))
                return failed(err, "cannot date a certificate");

        X509_NAME *subject = X509_get_subject_name(c);
        if (X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) != 1 ||
            X509_set_issuer_name(c, issuer ? X509_get_subject_name(issuer) : subject) != 1 ||
            X509_set_pubkey(c, key) != 1 || add_extensions(c, issuer) < 0)
                return failed(err, "cannot fill a certificate");
        if (X509_sign(c, issuer ? issuer_key : key, EVP_sha256()) <= 0)
                return failed(err, "cannot sign a certificate");
        *ret = TAKE_PTR(c);
        return 0;
}

static const char *skip_space(const char *p)
{
        return p + strspn(p, " \t\r\n");
}

int certificate_parse(const char *pem, X509 **ret, struct error *err)
{
        static const char begin[] = "-----BEGIN CERTIFICATE-----", end[] = "-----END CERTIFICATE-----";
        size_t size = strnlen(pem, 16 * 1024 + 1);

        if (size > 16 * 1024)
                return error_set(err, EBADMSG, "certificate too long");
        /* OpenSSL skips what it does not like before and after; a certificate is shown to people and compared, so
         * nothing may hide beside it. */
        pem = skip_space(pem);
        if (strncmp(pem, begin, sizeof(begin) - 1) != 0)
                return error_set(err, EBADMSG, "not a certificate in PEM form");
        const char *rest = strstr(pem, end);
        if (!rest)
                return error_set(err, EBADMSG, "the certificate is cut off");
        rest = skip_space(rest + sizeof(end) - 1);
        if (strncmp(rest, begin, sizeof(begin) - 1) == 0)
                return error_set(err, EBADMSG, "more than one certificate");
        if (*rest)
                return error_set(err, EBADMSG, "there is something after the certificate");

        AUTO_BIO BIO *bio = BIO_new_mem_buf(pem, -1);
        if (!bio)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_X509 X509 *c = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        ERR_clear_error();
        if (!c)
                return error_set(err, EBADMSG, "not a valid certificate");
        *ret = TAKE_PTR(c);
        return 0;
}

int certificate_check_ca(X509 *c, struct error *err)
{
        EVP_PKEY *key = X509_get0_pubkey(c);
        int r = 0;

        /* 1: version 3 with basicConstraints CA:TRUE; other values are guesses about old certificates. */
        if (X509_check_ca(c) != 1 || !(X509_get_key_usage(c) & KU_KEY_CERT_SIGN))
                r = error_set_kind(err, ERROR_REFUSED, EBADMSG, "not the certificate of a certificate authority");
        else if (X509_NAME_cmp(X509_get_subject_name(c), X509_get_issuer_name(c)) != 0 || !key ||
                 X509_verify(c, key) != 1)
                r = error_set_kind(err, ERROR_REFUSED, EBADMSG, "the certificate is not signed by itself");
        else if (EVP_PKEY_get_base_id(key) != EVP_PKEY_EC || EVP_PKEY_get_security_bits(key) < 128)
                r = error_set_kind(err, ERROR_REFUSED, EBADMSG, "the certificate has an unsuitable key");
        ERR_clear_error();
        return r;
}

int certificate_fingerprint(X509 *c, char ret[static FINGERPRINT_LENGTH + 1], struct error *err)
{
        unsigned char hash[EVP_MAX_MD_SIZE];
        unsigned size = 0;

        if (X509_digest(c, EVP_sha256(), hash, &size) != 1 || size != 32)
                return failed(err, "cannot hash a certificate");
        for (size_t i = 0; i < size; i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", hash[i]);
        return 0;
}

int certificate_not_after(X509 *c, int64_t *ret_ms, struct error *err)
{
        struct tm tm = {0};

        if (ASN1_TIME_to_tm(X509_get0_notAfter(c), &tm) != 1)
                return failed(err, "the certificate has no valid date");
        *ret_ms = (int64_t)timegm(&tm) * 1000;
        return 0;
}

static int bio_to_text(BIO *bio, char **ret)
{
        char *data = NULL;
        long size = BIO_get_mem_data(bio, &data);

        if (size <= 0)
                return -EIO;
        char *text = strndup(data, (size_t)size);
        if (!text)
                return -ENOMEM;
        *ret = text;
        return 0;
}

int certificate_to_pem(X509 *c, char **ret)
{
        AUTO_BIO BIO *bio = BIO_new(BIO_s_mem());

        if (!bio || PEM_write_bio_X509(bio, c) != 1)
                return -ENOMEM;
        return bio_to_text(bio, ret);
}

/* OpenSSL's allocator need not be malloc(). */
static int blob_from_openssl(unsigned char *data, int size, struct blob *ret)
{
        if (size <= 0 || !data)
                return -ENOMEM;
        ret->data = malloc((size_t)size);
        if (ret->data) {
                memcpy(ret->data, data, (size_t)size);
                ret->size = (size_t)size;
        }
        OPENSSL_clear_free(data, (size_t)size);
        return ret->data ? 0 : -ENOMEM;
}

int certificate_to_der(X509 *c, struct blob *ret)
{
        unsigned char *data = NULL;
        int size = i2d_X509(c, &data);

        return blob_from_openssl(data, size, ret);
}

int key_to_pem(EVP_PKEY *key, char **ret)
{
        AUTO_BIO BIO *bio = BIO_new(BIO_s_secmem());

        if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
                return -ENOMEM;
        return bio_to_text(bio, ret);
}

int key_from_pem(const char *pem, EVP_PKEY **ret)
{
        AUTO_BIO BIO *bio = BIO_new_mem_buf(pem, -1);

        if (!bio)
                return -ENOMEM;
        EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        ERR_clear_error();
        if (!key)
                return -EBADMSG;
        *ret = key;
        return 0;
}

int key_to_der(EVP_PKEY *key, struct blob *ret)
{
        unsigned char *data = NULL;
        PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);

        if (!info)
                return -ENOMEM;
        int size = i2d_PKCS8_PRIV_KEY_INFO(info, &data);
        PKCS8_PRIV_KEY_INFO_free(info);
        return blob_from_openssl(data, size, ret);
}
