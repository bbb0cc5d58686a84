/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/ec.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/certificate.h"
#include "wire/credentials.h"
#include "wire/trust.h"

/* Who is trusted: hosts with an own authority each, paired by an exchange of certificates, and nobody else. */

#define DAY 86400L

static char *make_dir(void)
{
        char path[] = "/tmp/test-trust-XXXXXX";

        assert_non_null(mkdtemp(path));
        return strdup(path);
}

static void remove_dir(char *dir)
{
        assert_int_equal(fd_remove_tree(AT_FDCWD, dir, NULL), 0);
        free(dir);
}

static char *make_host(const char *name)
{
        char *dir = make_dir();
        struct error err = {0};

        if (trust_init(dir, name, &err) < 0)
                fail_msg("%s", err.text);
        return dir;
}

static char *self(const char *dir, char fingerprint[static FINGERPRINT_LENGTH + 1])
{
        struct error err = {0};
        char *pem = NULL;

        if (trust_self(dir, &pem, fingerprint, &err) < 0)
                fail_msg("%s", err.text);
        return pem;
}

static int add(const char *dir, const char *name, const char *pem, struct error *err)
{
        struct peer p = {.port = 12345, .paired_ms = clock_wall_ms(), .certificate = (char *)pem};

        (void)snprintf(p.name, sizeof(p.name), "%s", name);
        (void)snprintf(p.address, sizeof(p.address), "192.0.2.7");
        return trust_add(dir, &p, err);
}

/* A certificate of one's own making: with `leaf`, not that of an authority. */
static char *craft(long from, long until, bool leaf)
{
        AUTO_PKEY EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
        AUTO_X509 X509 *ca = NULL, *below = NULL;
        char *pem = NULL;

        assert_int_equal(certificate_make("crafted", key, NULL, NULL, from, until, &ca, NULL), 0);
        if (leaf)
                assert_int_equal(certificate_make("crafted", other, ca, key, from, until, &below, NULL), 0);
        assert_int_equal(certificate_to_pem(leaf ? below : ca, &pem), 0);
        return pem;
}

static void a_host_makes_its_authority_once(void **state)
{
        char first[FINGERPRINT_LENGTH + 1], second[FINGERPRINT_LENGTH + 1], path[256];
        char *dir = make_host("alpha");
        struct stat st;
        int64_t expires;

        (void)state;
        char *pem = self(dir, first);
        assert_int_equal(strlen(first), FINGERPRINT_LENGTH);
        assert_int_equal(trust_init(dir, "alpha", NULL), 0);
        char *again = self(dir, second);
        assert_string_equal(first, second);
        assert_string_equal(pem, again);

        (void)snprintf(path, sizeof(path), "%s/pki/ca.key", dir);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(trust_inspect(pem, second, &expires, NULL), 0);
        assert_true(expires > clock_wall_ms() + 3640 * DAY * 1000);
        free(pem);
        free(again);
        remove_dir(dir);

        dir = make_dir();
        assert_true(trust_init(dir, "../x", NULL) < 0);
        assert_true(trust_self(dir, &pem, first, NULL) < 0);
        remove_dir(dir);
}

static void peers_are_kept_found_and_removed(void **state)
{
        char *a = make_host("alpha"), *b = make_host("beta"), *c = make_host("gamma");
        char fb[FINGERPRINT_LENGTH + 1], fc[FINGERPRINT_LENGTH + 1], path[256];
        char *pb = self(b, fb), *pc = self(c, fc);
        struct error err = {0};
        struct peer p, *list;
        size_t n;

        (void)state;
        assert_int_equal(trust_list(a, &list, &n, NULL), 0);
        assert_int_equal(n, 0);
        assert_true(trust_find(a, "beta", &p, &err) < 0);
        assert_int_equal(err.kind, ERROR_NOT_FOUND);
        assert_true(trust_remove(a, "beta", &err) < 0);
        assert_int_equal(err.kind, ERROR_NOT_FOUND);

        assert_int_equal(add(a, "gamma", pc, NULL), 0);
        assert_int_equal(add(a, "beta", pb, NULL), 0);
        assert_int_equal(add(a, "beta", pb, NULL), 0); /* again: replaced */

        /* What an interrupted write leaves behind, and what is not ours, is passed over. */
        (void)snprintf(path, sizeof(path), "%s/peers/delta.json.new", a);
        assert_int_equal(fd_write_file(AT_FDCWD, path, "{", 1, 0600), 0);
        assert_int_equal(trust_list(a, &list, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_string_equal(list[0].name, "beta");
        assert_string_equal(list[0].fingerprint, fb);
        assert_string_equal(list[1].name, "gamma");
        assert_string_equal(list[1].address, "192.0.2.7");
        assert_int_equal(list[1].port, 12345);
        peer_done(&list[0]);
        peer_done(&list[1]);
        free(list);

        assert_int_equal(trust_find_fingerprint(a, fc, &p, NULL), 0);
        assert_string_equal(p.name, "gamma");
        assert_string_equal(p.certificate, pc);
        peer_done(&p);

        assert_int_equal(trust_remove(a, "gamma", NULL), 0);
        assert_true(trust_find_fingerprint(a, fc, &p, &err) < 0);
        assert_int_equal(err.kind, ERROR_NOT_FOUND);
        assert_true(trust_find(a, "../pki/ca", &p, &err) < 0);
        assert_int_equal(err.kind, ERROR_USAGE);

        /* A damaged file is named, not passed over: silently trusting fewer hosts would look like a network fault. */
        (void)snprintf(path, sizeof(path), "%s/peers/delta.json", a);
        assert_int_equal(fd_write_file(AT_FDCWD, path, "{", 1, 0600), 0);
        assert_true(trust_list(a, &list, &n, &err) < 0);
        assert_non_null(strstr(err.text, "delta.json"));

        free(pb);
        free(pc);
        remove_dir(a);
        remove_dir(b);
        remove_dir(c);
}

static void expect_refused(const char *dir, const char *pem, const char *what)
{
        struct error err = {0};

        assert_true(add(dir, "intruder", pem, &err) < 0);
        if (!strstr(err.text, what))
                fail_msg("\"%s\" does not say \"%s\"", err.text, what);
}

static void unsuitable_certificates_are_refused(void **state)
{
        char *a = make_host("alpha"), *b = make_host("beta");
        char fa[FINGERPRINT_LENGTH + 1], fb[FINGERPRINT_LENGTH + 1];
        char *pa = self(a, fa), *pb = self(b, fb), *two = NULL;
        char *expired = craft(-20 * DAY, -10 * DAY, false), *leaf = craft(-DAY, DAY, true);

        (void)state;
        expect_refused(a, expired, "expired");
        expect_refused(a, leaf, "not the certificate of a certificate authority");
        expect_refused(a, pa, "paired with itself");
        expect_refused(a, "", "not a certificate");
        expect_refused(a, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a valid");
        assert_true(asprintf(&two, "%s%s", pb, expired) > 0);
        expect_refused(a, two, "more than one");
        free(two);
        assert_true(asprintf(&two, "%shello", pb) > 0);
        expect_refused(a, two, "after the certificate");
        free(two);
        two = strdup(pb);
        *strstr(two, "-----END") = '\0';
        expect_refused(a, two, "cut off");
        two[100] = two[100] == 'A' ? 'B' : 'A';

        assert_int_equal(add(a, "beta", pb, NULL), 0);
        expect_refused(a, pb, "already paired under the name beta");

        free(two);
        free(expired);
        free(leaf);
        free(pa);
        free(pb);
        remove_dir(a);
        remove_dir(b);
}

static X509 *x509_of(const struct blob *der)
{
        const unsigned char *p = der->data;

        return d2i_X509(NULL, &p, (long)der->size);
}

static int verify(X509 *leaf, X509 *anchor)
{
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *context = X509_STORE_CTX_new();

        assert_int_equal(X509_STORE_add_cert(store, anchor), 1);
        assert_int_equal(X509_STORE_CTX_init(context, store, leaf, NULL), 1);
        int r = X509_verify_cert(context);
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        return r;
}

static void credentials_are_a_leaf_of_a_day_and_the_living_peers(void **state)
{
        char *a = make_host("alpha"), *b = make_host("beta");
        char fa[FINGERPRINT_LENGTH + 1], fb[FINGERPRINT_LENGTH + 1], path[256];
        char *pa = self(a, fa), *pb = self(b, fb), *expired = craft(-20 * DAY, -10 * DAY, false);
        struct credentials *c = NULL, *again = NULL;
        struct error err = {0};
        int64_t until;

        (void)state;
        assert_int_equal(add(a, "beta", pb, NULL), 0);
        /* One that expired after it was paired: listed, but no anchor. */
        json_t *old =
                json_pack("{s:s, s:i, s:i, s:s}", "address", "x", "port", 1, "paired_ms", 1, "certificate", expired);
        char *text = json_dumps(old, 0);
        json_decref(old);
        assert_non_null(text);
        (void)snprintf(path, sizeof(path), "%s/peers/old.json", a);
        assert_int_equal(fd_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);

        if (trust_credentials(a, &c, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(c->n_anchors, 1);
        AUTO_X509 X509 *leaf = x509_of(&c->leaf), *anchor = x509_of(&c->anchors[0]), *own = NULL;
        assert_int_equal(certificate_parse(pa, &own, NULL), 0);
        assert_int_equal(verify(leaf, own), 1);
        assert_int_not_equal(verify(leaf, anchor), 1);
        assert_int_equal(certificate_not_after(leaf, &until, NULL), 0);
        assert_true(until > clock_wall_ms() + 23 * 3600 * 1000 && until < clock_wall_ms() + 25 * 3600 * 1000);
        assert_int_equal(trust_credentials(a, &again, NULL), 0);
        assert_false(c->key.size == again->key.size && memcmp(c->key.data, again->key.data, c->key.size) == 0);

        credentials_free(c);
        credentials_free(again);
        free(text);
        free(expired);
        free(pa);
        free(pb);
        remove_dir(a);
        remove_dir(b);
}

static void codes_are_long_and_forgiving(void **state)
{
        char code[TRUST_CODE_SIZE], other[TRUST_CODE_SIZE], normal[TRUST_CODE_SIZE];

        (void)state;
        assert_int_equal(trust_code_new(code, sizeof(code)), 0);
        assert_int_equal(trust_code_new(other, sizeof(other)), 0);
        assert_int_equal(strlen(code), 29);
        assert_string_not_equal(code, other);
        assert_int_equal(trust_code_new(code, 29), -ENOBUFS);

        assert_int_equal(trust_code_normalize(code, normal, sizeof(normal)), 0);
        assert_string_equal(code, normal);
        assert_int_equal(trust_code_normalize(" abcde fghjk\tmnpqr-stvwxOil12 \n", normal, sizeof(normal)), 0);
        assert_string_equal(normal, "ABCDE-FGHJK-MNPQR-STVWX-01112");
        assert_int_equal(trust_code_normalize("ABCDEFGHJKMNPQRSTVWXYZ123", normal, sizeof(normal)), 0);
        assert_int_equal(trust_code_normalize("ABCDEFGHJKMNPQRSTVWXYZ12", normal, sizeof(normal)), -EINVAL);
        assert_int_equal(trust_code_normalize("ABCDEFGHJKMNPQRSTVWXYZ1234", normal, sizeof(normal)), -EINVAL);
        assert_int_equal(trust_code_normalize("ABCDEFGHJKMNPQRSTVWXYZ12U", normal, sizeof(normal)), -EINVAL);
        assert_int_equal(trust_code_normalize("", normal, sizeof(normal)), -EINVAL);
}

/* Changing anything that was agreed on changes the proof; the form in which the code was typed does not. */
static void proofs_cover_everything(void **state)
{
        char *a = make_host("alpha"), *b = make_host("beta");
        char f[FINGERPRINT_LENGTH + 1];
        char *pa = self(a, f), *pb = self(b, f);
        const char *code = "ABCDE-FGHJK-MNPQR-STVWX-01112";
        uint8_t n1[32] = {1}, n2[32] = {2}, proof[32], p[32];

        (void)state;
        assert_int_equal(trust_pair_proof(code, "connector", n1, n2, pa, pb, "alpha", "beta", proof), 0);
        assert_int_equal(trust_pair_proof("abcdefghjkmnpqrstvwxo1112", "connector", n1, n2, pa, pb, "alpha", "beta", p),
                         0);
        assert_true(trust_proof_equal(proof, p));

#define DIFFERS(...)                                                                                                   \
        do {                                                                                                           \
                assert_int_equal(trust_pair_proof(__VA_ARGS__, p), 0);                                                 \
                assert_false(trust_proof_equal(proof, p));                                                             \
        } while (0)
        DIFFERS("ABCDE-FGHJK-MNPQR-STVWX-01113", "connector", n1, n2, pa, pb, "alpha", "beta");
        DIFFERS(code, "offerer", n1, n2, pa, pb, "alpha", "beta");
        DIFFERS(code, "connector", n2, n1, pa, pb, "alpha", "beta");
        DIFFERS(code, "connector", n1, n2, pb, pa, "alpha", "beta");
        DIFFERS(code, "connector", n1, n2, pa, pb, "alphab", "eta");
        assert_int_equal(trust_pair_proof("short", "connector", n1, n2, pa, pb, "alpha", "beta", p), -EINVAL);
        assert_int_equal(trust_pair_proof(code, "referee", n1, n2, pa, pb, "alpha", "beta", p), -EINVAL);
        assert_int_equal(trust_pair_proof(code, "connector", n1, n2, "junk", pb, "alpha", "beta", p), -EBADMSG);

        free(pa);
        free(pb);
        remove_dir(a);
        remove_dir(b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_host_makes_its_authority_once),
                cmocka_unit_test(peers_are_kept_found_and_removed),
                cmocka_unit_test(unsuitable_certificates_are_refused),
                cmocka_unit_test(credentials_are_a_leaf_of_a_day_and_the_living_peers),
                cmocka_unit_test(codes_are_long_and_forgiving),
                cmocka_unit_test(proofs_cover_everything),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
