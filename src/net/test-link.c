/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/ec.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/certificate.h"

/* Control links: greeting, messages, refusals; who is let in and what the others are told. */

static void put_source_fields(struct message *m, uint32_t round)
{
        message_put_u32(m, FIELD_STREAM, round);
        message_put_u32(m, FIELD_ROUND_KIND, 0);
}

static void send_round(struct link *link, uint32_t round, bool from_source)
{
        struct message *m = message_new(from_source ? MSG_FILES_ROUND : MSG_FILES_DONE);

        message_put_u32(m, FIELD_ROUND, round);
        message_put_u32(m, FIELD_TREE, 0);
        if (from_source) {
                put_source_fields(m, round);
        } else {
                message_put_u32(m, FIELD_STREAM, round);
                message_put_u32(m, FIELD_STATUS, 0);
        }
        assert_int_equal(link_send(link, m), 0);
}

static void messages_go_both_ways(void **state)
{
        struct fixture *f = *state;
        uint64_t sent, received;

        fixture_open(f, PURPOSE_CONTROL);
        assert_int_equal(f->client.version, WIRE_VERSION_MAX);
        assert_int_equal(f->server.version, 0);
        assert_string_equal(f->client.peer.fingerprint, f->b.fingerprint);
        assert_string_equal(f->server.peer.fingerprint, f->a.fingerprint);
        assert_string_equal(f->server.peer.address, "127.0.0.1");

        for (uint32_t i = 1; i <= 1000; i++) {
                send_round(f->client.link, i, true);
                send_round(f->server.link, i, false);
        }
        for (int i = 0; i < 1000 && (f->client.last_round < 1000 || f->server.last_round < 1000); i++)
                fixture_run(f, 20);
        assert_int_equal(f->client.last_round, 1000);
        assert_int_equal(f->server.last_round, 1000);
        assert_int_equal(f->client.out_of_order + f->server.out_of_order, 0);

        /* Not what that side says, nor what belongs on that link. */
        assert_int_equal(link_send(f->server.link, message_new(MSG_COMMIT)), -EPROTO);
        assert_int_equal(link_send(f->client.link, message_new(MSG_PAIR_DONE)), -EPROTO);
        assert_int_equal(link_send(f->client.link, message_new(MSG_PING)), -EINVAL);

        fixture_run(f, 1200); /* heartbeats keep it alive, counters come */
        link_counters(f->client.link, &sent, &received);
        assert_true(sent > 10000 && received > 10000);

        /* What was queued before the end still arrives. */
        assert_int_equal(link_send(f->client.link, message_new(MSG_COMMIT)), 0);
        pid_t pid = client_net(f);
        link_free(TAKE_PTR(f->client.link));
        fixture_until(f, &f->server.down);
        assert_int_equal(f->server.last, MSG_COMMIT);
        assert_int_equal(f->server.err.kind, ERROR_NONE);
        expect_gone(f, pid, 2500);
        assert_int_equal(link_send(f->server.link, message_new(MSG_PREPARED)), -ENOTCONN);
}

static struct link_connect_options to_b(const struct fixture *f, enum purpose purpose)
{
        return (struct link_connect_options){.purpose = purpose, .expect = f->b.fingerprint};
}

static void both_down(struct fixture *f)
{
        fixture_until(f, &f->client.down);
        fixture_until(f, &f->server.down);
}

static void a_refusal_carries_kind_and_text(void **state)
{
        struct fixture *f = *state;

        fixture_greet(f, PURPOSE_CONTROL);
        assert_int_equal(link_send(f->server.link, message_new(MSG_PREPARED)), -EINVAL); /* not welcomed yet */
        assert_int_equal(link_refuse(f->server.link, ERROR_NOT_FOUND, "no such migration here"), 0);
        both_down(f);
        assert_false(f->client.up);
        assert_int_equal(f->client.err.kind, ERROR_NOT_FOUND);
        assert_string_equal(f->client.err.text, "no such migration here");
        assert_int_equal(f->server.err.kind, ERROR_NONE);
}

static void a_host_that_was_unpaired_is_cut_in_the_handshake(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);

        assert_int_equal(trust_remove(f->b.dir, "alpha", NULL), 0);
        host_refresh(&f->b);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        assert_false(f->server.up);
        assert_int_equal(f->server.err.kind, ERROR_DENIED);
        expect_text(&f->server.err, "the certificate of 127.0.0.1 is not one of a paired host");
        assert_int_equal(f->client.err.kind, ERROR_DENIED);
        expect_text(&f->client.err, "not paired there");
}

static void an_impostor_is_not_connected_to(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);
        struct host c;

        host_make(&c, "gamma");
        host_pair(&c, "alpha", &f->a);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &c, false);
        both_down(f);
        expect_text(&f->client.err, "is not one of a paired host");
        assert_int_equal(f->client.err.kind, ERROR_DENIED);
        host_done(&c);
}

static void another_paired_host_is_not_the_expected_one(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);
        struct host c;

        host_make(&c, "gamma");
        host_pair(&c, "alpha", &f->a);
        host_pair(&f->a, "gamma", &c);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &c, false);
        both_down(f);
        assert_false(f->client.up);
        assert_int_equal(f->client.err.kind, ERROR_DENIED);
        expect_text(&f->client.err, "not the one expected");
        host_done(&c);
}

static void a_stranger_may_pair_while_pairing_is_open(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = {.purpose = PURPOSE_PAIR};
        const uint8_t nonce[32] = {7};
        struct host c;

        host_make(&c, "gamma");
        fixture_connect(f, &c, &o);
        fixture_accept(f, &f->b, true);
        fixture_until(f, &f->server.up);
        assert_string_equal(f->server.peer.fingerprint, "");
        while (f->server.last != MSG_HELLO)
                fixture_run(f, 10);
        assert_int_equal(link_welcome(f->server.link, 1), 0);
        fixture_until(f, &f->client.up);
        assert_string_equal(f->client.peer.fingerprint, "");

        struct message *m = message_new(MSG_PAIR_OPEN);
        message_put_text(m, FIELD_CERTIFICATE, c.certificate);
        message_put_bytes(m, FIELD_NONCE, nonce, sizeof(nonce));
        message_put_text(m, FIELD_NAME, "gamma");
        message_put_u32(m, FIELD_PORT, 12345);
        assert_int_equal(link_send(f->client.link, m), 0);
        for (int i = 0; i < 200 && f->server.last != MSG_PAIR_OPEN; i++)
                fixture_run(f, 10);
        assert_int_equal(f->server.last, MSG_PAIR_OPEN);
        host_done(&c);
}

static void a_stranger_may_do_nothing_else(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_QUERY);
        struct host c;

        host_make(&c, "gamma");
        host_pair(&c, "beta", &f->b);
        fixture_connect(f, &c, &o);
        fixture_accept(f, &f->b, true);
        both_down(f);
        assert_int_equal(f->server.n_messages, 0);
        assert_int_equal(f->client.err.kind, ERROR_DENIED);
        expect_text(&f->client.err, "127.0.0.1 is not paired with this host");
        host_done(&c);
}

static void pairing_that_is_not_offered_is_explained(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = {.purpose = PURPOSE_PAIR};
        struct host c;

        host_make(&c, "gamma");
        fixture_connect(f, &c, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        expect_text(&f->client.err, "does not offer pairing now");
        host_done(&c);
}

/* A leaf made with the authority of `host`, but for other days. */
static void make_leaf(const struct host *host, long from, long until)
{
        AUTO_FREE char *pem = NULL;
        AUTO_PKEY EVP_PKEY *ca_key = NULL, *key = EVP_EC_gen("P-256");
        AUTO_X509 X509 *ca = NULL, *leaf = NULL;
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/pki/ca.key", host->dir);
        assert_int_equal(fd_read_file(AT_FDCWD, path, 4096, &pem, NULL), 0);
        assert_int_equal(key_from_pem(pem, &ca_key), 0);
        assert_int_equal(certificate_parse(host->certificate, &ca, NULL), 0);
        assert_int_equal(certificate_make("phaul-net", key, ca, ca_key, from, until, &leaf, NULL), 0);
        free(host->credentials->key.data);
        free(host->credentials->leaf.data);
        assert_int_equal(key_to_der(key, &host->credentials->key), 0);
        assert_int_equal(certificate_to_der(leaf, &host->credentials->leaf), 0);
}

static void an_expired_certificate_is_named_on_both_sides(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);

        make_leaf(&f->a, -172800, -3600);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        expect_text(&f->server.err, "the certificate of 127.0.0.1 has expired");
        expect_text(&f->client.err, "certificate of this host has expired");
        assert_int_equal(f->server.err.kind, ERROR_DENIED);
}

static void an_expired_or_early_host_is_not_connected_to(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);

        make_leaf(&f->b, 86400, 172800);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        expect_text(&f->client.err, "not valid yet");
}

/* The certificate authority's own certificate is no leaf, though its key would do. */
static void an_authority_is_not_a_leaf(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);
        AUTO_FREE char *pem = NULL;
        AUTO_PKEY EVP_PKEY *ca_key = NULL;
        AUTO_X509 X509 *ca = NULL;
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/pki/ca.key", f->a.dir);
        assert_int_equal(fd_read_file(AT_FDCWD, path, 4096, &pem, NULL), 0);
        assert_int_equal(key_from_pem(pem, &ca_key), 0);
        assert_int_equal(certificate_parse(f->a.certificate, &ca, NULL), 0);
        free(f->a.credentials->key.data);
        free(f->a.credentials->leaf.data);
        assert_int_equal(key_to_der(ca_key, &f->a.credentials->key), 0);
        assert_int_equal(certificate_to_der(ca, &f->a.credentials->leaf), 0);
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        assert_int_equal(f->server.err.kind, ERROR_DENIED);
}

static void versions_without_overlap_are_refused_with_both_ranges(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);

        char ranges[64];

        o.version_min = WIRE_VERSION_MAX + 1;
        o.version_max = 7;
        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        both_down(f);
        assert_int_equal(f->client.err.kind, ERROR_REFUSED);
        (void)snprintf(ranges, sizeof(ranges), "speaks %d to %d, the peer %d to 7", WIRE_VERSION_MIN, WIRE_VERSION_MAX,
                       WIRE_VERSION_MAX + 1);
        expect_text(&f->client.err, ranges);
        assert_int_equal(f->server.n_messages, 0);
}

/* The highest that both have, and no higher than the accepting owner is ready for. */
static void versions_with_overlap_agree(void **state)
{
        static const struct {
                uint32_t offered, welcome, agreed;
        } cases[] = {{7, WIRE_VERSION_MAX, WIRE_VERSION_MAX}, {7, 1, 1}, {1, WIRE_VERSION_MAX, 1}};
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_QUERY);

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                o.version_max = cases[i].offered;
                fixture_connect(f, &f->a, &o);
                fixture_accept(f, &f->b, false);
                while (f->server.last != MSG_HELLO && !f->server.down)
                        fixture_run(f, 10);
                assert_int_equal(link_welcome(f->server.link, cases[i].welcome), 0);
                fixture_until(f, &f->client.up);
                assert_int_equal(f->client.version, cases[i].agreed);
                link_free(f->client.link);
                link_free(f->server.link);
                f->client = f->server = (struct side){0};
        }
}

static void nobody_listens_and_nobody_is_called_that(void **state)
{
        struct fixture *f = *state;
        struct link_connect_options o = to_b(f, PURPOSE_CONTROL);

        (void)close(f->listen_fd);
        f->listen_fd = -1;
        fixture_connect(f, &f->a, &o);
        fixture_until(f, &f->client.down);
        expect_text(&f->client.err, "connection refused");
        assert_int_equal(f->client.err.code, ECONNREFUSED);
        link_free(f->client.link);

        f->client = (struct side){0};
        o.address = "no-such-host.invalid";
        fixture_connect(f, &f->a, &o);
        fixture_until(f, &f->client.down);
        expect_text(&f->client.err, "cannot resolve no-such-host.invalid");
}

/* What a frozen or cut off peer looks like. */
static void silence_is_noticed(void **state)
{
        struct fixture *f = *state;

        f->env.silence_ms = 1500;
        fixture_open(f, PURPOSE_CONTROL);
        fixture_run(f, 2500);
        assert_false(f->server.down); /* heartbeats alone keep it up */
        pid_t pid = client_net(f);
        fixture_stop(f, pid);
        uint64_t begin = clock_ms();
        fixture_until(f, &f->server.down);
        assert_true(clock_ms() - begin < 4500); /* 5000 is the limit where none is set */
        expect_text(&f->server.err, "no answer from 127.0.0.1 for 2 s");
        fixture_continue(f);
}

static void a_killed_phaul_net_takes_the_link_down_and_nothing_else(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_CONTROL);
        assert_int_equal(kill(client_net(f), SIGKILL), 0);
        both_down(f);
        expect_text(&f->client.err, "ended unexpectedly");
        assert_int_equal(f->server.err.kind, ERROR_FAILED);
        expect_text(&f->server.err, "the connection to 127.0.0.1 broke");
}

static void without_its_owner_phaul_net_ends(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_CONTROL);
        pid_t client = client_net(f);
        /* Even while the other end neither reads nor closes. */
        fixture_stop(f, client);
        pid_t server = server_net(f);
        link_free(TAKE_PTR(f->server.link));
        expect_gone(f, server, 2600);
        fixture_continue(f);
        fixture_until(f, &f->client.down);
}

static void a_queue_nobody_empties_is_bounded(void **state)
{
        struct fixture *f = *state;
        static char body[90001];
        size_t sent = 0;
        int r = 0;

        memset(body, 'x', sizeof(body) - 1);
        fixture_open(f, PURPOSE_CONTROL);
        fixture_stop(f, server_net(f));
        while (r == 0 && sent < 64U << 20) {
                struct message *m = message_new(MSG_OFFER);
                message_put_text(m, FIELD_MIGRATION, "0123456789abcdef0123456789abcdef");
                message_put_text(m, FIELD_WORKLOAD_KIND, "lxc");
                message_put_text(m, FIELD_WORKLOAD_ID, "web");
                message_put_text(m, FIELD_TARGET_ID, "web");
                message_put_text(m, FIELD_DESCRIPTION, body);
                r = link_send(f->client.link, m);
                sent += r == 0 ? sizeof(body) : 0;
                if (r == -ENOBUFS && sent < 2U << 20)
                        r = 0;
        }
        assert_int_equal(r, -ENOBUFS);
        assert_true(sent > 2U << 20 && sent < 32U << 20);
        fixture_continue(f);
        for (int i = 0; i < 1000 && f->server.n_messages < 1 + sent / sizeof(body); i++)
                fixture_run(f, 10);
        assert_int_equal(f->server.n_messages, 1 + sent / sizeof(body));
}

static void free_on_message(struct side *side, const struct message *m)
{
        if (m->type != MSG_HELLO)
                link_free(TAKE_PTR(side->link));
}

static void a_link_may_be_freed_in_its_callback(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_CONTROL);
        f->server.on_message = free_on_message;
        for (uint32_t i = 1; i <= 100; i++)
                send_round(f->client.link, i, true);
        fixture_until(f, &f->client.down);
        assert_int_equal(f->server.last_round, 1);
        assert_null(f->server.link);
}

static _Noreturn void other_process(int record_fd)
{
        struct side side = {0};
        struct loop *loop;

        if (loop_new(&loop) < 0 || link_adopt(loop, record_fd, &side_handlers, &side, &side.link) < 0 ||
            link_welcome(side.link, 1) < 0)
                _exit(1);
        while (side.last != MSG_COMMIT && !side.down)
                (void)loop_run_once(loop, 100);
        if (side.down || link_send(side.link, message_new(MSG_RUNNING)) < 0)
                _exit(2);
        link_free(side.link);
        _exit(0);
}

static void an_accepted_link_can_change_hands(void **state)
{
        struct fixture *f = *state;
        int status;

        fixture_greet(f, PURPOSE_CONTROL);
        int fd = link_release(TAKE_PTR(f->server.link));
        assert_true(fd >= 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                other_process(fd);
        (void)close(fd);
        fixture_until(f, &f->client.up);
        assert_int_equal(link_send(f->client.link, message_new(MSG_COMMIT)), 0);
        fixture_until(f, &f->client.down);
        assert_int_equal(f->client.last, MSG_RUNNING);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void expect_status(const char *status, const char *field, const char *value)
{
        const char *at = strstr(status, field);

        assert_non_null(at);
        at += strlen(field) + 1;
        at += strspn(at, "\t ");
        if (strncmp(at, value, strlen(value)) != 0)
                fail_msg("%s is %.20s", field, at);
}

/* What a taken-over phaul-net has to work with: nothing. */
static void it_runs_without_any_privilege(void **state)
{
        struct fixture *f = *state;

        fixture_open(f, PURPOSE_CONTROL);
        const pid_t pids[] = {client_net(f), server_net(f)};
        for (size_t i = 0; i < 2; i++) {
                AUTO_FREE char *status = NULL, *limits = NULL;
                char path[64], link[PATH_MAX] = "";

                (void)snprintf(path, sizeof(path), "/proc/%d/status", pids[i]);
                assert_int_equal(fd_read_file(AT_FDCWD, path, 65536, &status, NULL), 0);
                expect_status(status, "\nCapInh:", "0000000000000000");
                expect_status(status, "\nCapPrm:", "0000000000000000");
                expect_status(status, "\nCapEff:", "0000000000000000");
                expect_status(status, "\nCapBnd:", "0000000000000000");
                expect_status(status, "\nCapAmb:", "0000000000000000");
                expect_status(status, "\nNoNewPrivs:", "1");
                expect_status(status, "\nSeccomp:", "2");
                assert_non_null(strstr(status, "\nGroups:\t \n"));
                assert_null(strstr(status, "\nUid:\t0"));
                assert_null(strstr(status, "\nGid:\t0"));

                (void)snprintf(path, sizeof(path), "/proc/%d/root", pids[i]);
                assert_true(readlink(path, link, sizeof(link) - 1) > 0);
                assert_string_equal(link, f->root);
                (void)snprintf(path, sizeof(path), "/proc/%d/limits", pids[i]);
                assert_int_equal(fd_read_file(AT_FDCWD, path, 65536, &limits, NULL), 0);
                expect_status(limits, "Max processes", "0 ");
                expect_status(limits, "Max file size", "0 ");

                /* /dev/null three times, the record socket, the connection: no other descriptor. */
                (void)snprintf(path, sizeof(path), "/proc/%d/fd/5", pids[i]);
                assert_int_equal(access(path, F_OK), -1);
        }
}

/* Its root is made by whoever needs it first; a session, which keeps what it makes to itself, may be that one. */
static void its_root_is_open_to_it_whoever_makes_it(void **state)
{
        struct fixture *f = *state;
        struct stat st;

        assert_int_equal(rmdir(f->root), 0);
        mode_t old = umask(0077);
        fixture_open(f, PURPOSE_CONTROL);
        assert_int_equal(umask(old), 0077);
        assert_int_equal(stat(f->root, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0755);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        const struct CMUnitTest tests[] = {
                T(messages_go_both_ways),
                T(it_runs_without_any_privilege),
                T(its_root_is_open_to_it_whoever_makes_it),
                T(a_refusal_carries_kind_and_text),
                T(a_host_that_was_unpaired_is_cut_in_the_handshake),
                T(an_impostor_is_not_connected_to),
                T(another_paired_host_is_not_the_expected_one),
                T(a_stranger_may_pair_while_pairing_is_open),
                T(a_stranger_may_do_nothing_else),
                T(pairing_that_is_not_offered_is_explained),
                T(an_expired_certificate_is_named_on_both_sides),
                T(an_expired_or_early_host_is_not_connected_to),
                T(an_authority_is_not_a_leaf),
                T(versions_without_overlap_are_refused_with_both_ranges),
                T(versions_with_overlap_agree),
                T(nobody_listens_and_nobody_is_called_that),
                T(silence_is_noticed),
                T(a_killed_phaul_net_takes_the_link_down_and_nothing_else),
                T(without_its_owner_phaul_net_ends),
                T(a_queue_nobody_empties_is_bounded),
                T(a_link_may_be_freed_in_its_callback),
                T(an_accepted_link_can_change_hands),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
