/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Two hosts pair by messages handed from one to the other; everything that must end a pairing does. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/pairing.h"

struct fixture {
        char root[64], alpha_dir[96], beta_dir[96];
        struct pair_self alpha, beta;
        struct pairing offer; /* of beta */
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct error err = {0};

        (void)strcpy(f->root, "/tmp/phaul-pair-XXXXXX");
        assert_non_null(mkdtemp(f->root));
        (void)snprintf(f->alpha_dir, sizeof(f->alpha_dir), "%s/alpha", f->root);
        (void)snprintf(f->beta_dir, sizeof(f->beta_dir), "%s/beta", f->root);
        assert_int_equal(fd_mkdir_p(f->alpha_dir, 0700), 0);
        assert_int_equal(fd_mkdir_p(f->beta_dir, 0700), 0);
        assert_int_equal(trust_init(f->alpha_dir, "alpha", &err), 0);
        assert_int_equal(trust_init(f->beta_dir, "beta", &err), 0);
        f->alpha = (struct pair_self){.trust_dir = f->alpha_dir, .name = "alpha", .port = 1111};
        f->beta = (struct pair_self){.trust_dir = f->beta_dir, .name = "beta", .port = 2222};
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        struct error err = {0};

        assert_int_equal(fd_remove_tree(AT_FDCWD, f->root, &err), 0);
        free(f);
        return 0;
}

struct run {
        struct exchange *a, *b;
        struct message *open, *offer, *proof;
        struct peer seen_by_a, seen_by_b;
};

static void run_done(struct run *r)
{
        exchange_free(r->a);
        exchange_free(r->b);
        message_free(r->open);
        message_free(r->offer);
        message_free(r->proof);
        peer_done(&r->seen_by_a);
        peer_done(&r->seen_by_b);
}
#define AUTO_RUN CLEANUP(run_done) struct run

/* Up to the point where beta has to judge the proof. */
static int run_to_proof(struct fixture *f, struct run *r, const char *code, uint64_t now, struct error *err)
{
        int n = exchange_open(&f->alpha, code, &r->a, &r->open, err);

        if (n == 0)
                n = exchange_offer(&f->offer, &f->beta, now, r->open, &r->b, &r->offer, err);
        if (n == 0)
                n = exchange_prove(r->a, r->offer, &r->proof, &r->seen_by_a, err);
        return n;
}

static void both_learn_who_the_other_is(void **state)
{
        struct fixture *f = *state;
        AUTO_RUN r = {0};
        struct error err = {0};
        char typed[64], pem[FINGERPRINT_LENGTH + 1];
        AUTO_FREE char *certificate = NULL;

        assert_int_equal(pairing_offer(&f->offer, 1000, 0, &err), 0);
        /* People type in lower case and with other separators. */
        (void)snprintf(typed, sizeof(typed), " %s ", f->offer.code);
        for (char *c = typed; *c; c++)
                *c = (char)(*c == '-' ? ' ' : *c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        if (run_to_proof(f, &r, typed, 2000, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(exchange_accept(r.b, &f->offer, 2000, r.proof, &r.seen_by_b, &err), 0);
        assert_string_equal(r.seen_by_a.name, "beta");
        assert_string_equal(r.seen_by_b.name, "alpha");
        assert_int_equal(r.seen_by_b.port, 1111);
        assert_int_equal(trust_self(f->beta_dir, &certificate, pem, &err), 0);
        assert_string_equal(r.seen_by_a.fingerprint, pem);

        /* Good once. */
        AUTO_RUN second = {0};
        assert_true(run_to_proof(f, &second, typed, 2000, &err) < 0);
        assert_int_equal(err.kind, ERROR_DENIED);
}

static void a_wrong_code_is_noticed_by_the_connector(void **state)
{
        struct fixture *f = *state;
        struct pairing other = {0};
        struct error err = {0};

        assert_int_equal(pairing_offer(&f->offer, 1000, 0, &err), 0);
        assert_int_equal(pairing_offer(&other, 1000, 0, &err), 0);
        for (int attempt = 0; attempt < PAIRING_ATTEMPTS; attempt++) {
                AUTO_RUN r = {0};
                assert_true(pairing_is_open(&f->offer, 2000));
                assert_true(run_to_proof(f, &r, other.code, 2000, &err) < 0);
                assert_int_equal(err.kind, ERROR_DENIED);
                assert_null(r.proof);
        }
        /* The right one comes too late: the attempts are used up. */
        AUTO_RUN late = {0};
        assert_false(pairing_is_open(&f->offer, 2000));
        assert_true(run_to_proof(f, &late, f->offer.code, 2000, &err) < 0);
}

static void a_wrong_proof_is_refused_by_the_offerer(void **state)
{
        struct fixture *f = *state;
        AUTO_RUN r = {0};
        CLEANUP(message_free_ptr) struct message *forged = message_new(MSG_PAIR_PROOF);
        static const uint8_t zeroes[32];
        struct error err = {0};

        assert_int_equal(pairing_offer(&f->offer, 1000, 0, &err), 0);
        assert_int_equal(run_to_proof(f, &r, f->offer.code, 2000, &err), 0);
        message_put_bytes(forged, FIELD_PROOF, zeroes, sizeof(zeroes));
        assert_true(exchange_accept(r.b, &f->offer, 2000, forged, &r.seen_by_b, &err) < 0);
        assert_int_equal(err.kind, ERROR_DENIED);
        /* The offerer's own proof, sent back, is none of the connector. */
        const uint8_t *own;
        size_t size;
        CLEANUP(message_free_ptr) struct message *mirrored = message_new(MSG_PAIR_PROOF);
        assert_int_equal(message_get_bytes(r.offer, FIELD_PROOF, &own, &size), 0);
        message_put_bytes(mirrored, FIELD_PROOF, own, size);
        assert_true(exchange_accept(r.b, &f->offer, 2000, mirrored, &r.seen_by_b, &err) < 0);
}

static void offers_end(void **state)
{
        struct fixture *f = *state;
        AUTO_RUN r = {0};
        struct error err = {0};

        assert_false(pairing_is_open(&f->offer, 0));
        assert_int_equal(pairing_offer(&f->offer, 1000, 0, &err), 0);
        assert_true(pairing_is_open(&f->offer, 1000 + PAIRING_OPEN_MS - 1));
        assert_false(pairing_is_open(&f->offer, 1000 + PAIRING_OPEN_MS));

        /* Begun in time, ended too late; begun under a code that was replaced. */
        assert_int_equal(run_to_proof(f, &r, f->offer.code, 2000, &err), 0);
        assert_true(exchange_accept(r.b, &f->offer, 1000 + PAIRING_OPEN_MS, r.proof, &r.seen_by_b, &err) < 0);
        assert_int_equal(pairing_offer(&f->offer, 3000, 0, &err), 0);
        assert_true(exchange_accept(r.b, &f->offer, 3001, r.proof, &r.seen_by_b, &err) < 0);
        assert_true(exchange_open(&f->alpha, "not a code", &r.a, &r.open, &err) < 0);
        assert_int_equal(err.kind, ERROR_USAGE);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(both_learn_who_the_other_is, setup, teardown),
                cmocka_unit_test_setup_teardown(a_wrong_code_is_noticed_by_the_connector, setup, teardown),
                cmocka_unit_test_setup_teardown(a_wrong_proof_is_refused_by_the_offerer, setup, teardown),
                cmocka_unit_test_setup_teardown(offers_end, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
