/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "wire/bytes.h"

/* A peer that does not keep to the protocol gains nothing: the link ends with a reason, and its owner goes on. */

struct raw {
        int fd;
        SSL_CTX *tls;
        SSL *ssl;
};

static int raw_connect(const struct fixture *f)
{
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(f->port)};
        struct timeval limit = {.tv_sec = 5};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
        return fd;
}

/* TLS as host a would do it, by hand; `with_certificate` false: anonymous. */
static struct raw raw_tls(struct fixture *f, bool with_certificate, int max_version)
{
        struct raw r = {.fd = raw_connect(f), .tls = SSL_CTX_new(TLS_client_method())};
        const struct credentials *c = f->a.credentials;
        const unsigned char *p = c->key.data;

        fixture_accept(f, &f->b, false);
        (void)SSL_CTX_set_max_proto_version(r.tls, max_version);
        if (with_certificate) {
                EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &p, (long)c->key.size);
                assert_int_equal(SSL_CTX_use_certificate_ASN1(r.tls, (int)c->leaf.size, c->leaf.data), 1);
                assert_int_equal(SSL_CTX_use_PrivateKey(r.tls, key), 1);
                EVP_PKEY_free(key);
        }
        r.ssl = SSL_new(r.tls);
        assert_int_equal(SSL_set_fd(r.ssl, r.fd), 1);
        (void)SSL_connect(r.ssl);
        return r;
}

static void raw_done(struct raw *r)
{
        SSL_free(r->ssl);
        SSL_CTX_free(r->tls);
        (void)close(r->fd);
}

static void raw_frame(struct raw *r, uint32_t announced, uint8_t kind, const void *body, size_t size)
{
        uint8_t header[8] = {0};

        put_be32(header, announced);
        header[4] = kind;
        assert_int_equal(SSL_write(r->ssl, header, sizeof(header)), sizeof(header));
        if (size)
                assert_int_equal(SSL_write(r->ssl, body, (int)size), (int)size);
}

static void raw_message(struct raw *r, struct message *m)
{
        uint8_t *data;
        size_t size;

        assert_int_equal(message_encode(m, &data, &size), 0);
        raw_frame(r, (uint32_t)size, 1, data, size);
        free(data);
        message_free(m);
}

static void raw_hello_up_to(struct raw *r, enum purpose purpose, uint32_t version)
{
        struct message *m = message_new(MSG_HELLO);

        message_put_u32(m, FIELD_VERSION_MIN, 1);
        message_put_u32(m, FIELD_VERSION_MAX, version);
        message_put_u32(m, FIELD_PURPOSE, purpose);
        raw_message(r, m);
}

static void raw_hello(struct raw *r, enum purpose purpose)
{
        raw_hello_up_to(r, purpose, 1);
}

static void raw_read(struct raw *r, uint8_t *data, size_t size)
{
        for (size_t done = 0, n = 0; done < size; done += n)
                assert_int_equal(SSL_read_ex(r->ssl, data + done, size - done, &n), 1);
}

/* Only who has read its WELCOME may go on: it is with phaul-net, not yet on its way, when link_welcome() returns. */
static void raw_wait_for_welcome(struct raw *r)
{
        uint8_t header[8], body[1024] = {0};

        do {
                raw_read(r, header, sizeof(header));
                assert_in_range(get_be32(header), 2, sizeof(body));
                raw_read(r, body, get_be32(header));
        } while (get_be16(body) != MSG_WELCOME);
}

static void expect_down(struct fixture *f, const char *text)
{
        fixture_until(f, &f->server.down);
        expect_text(&f->server.err, text);
}

static void garbage_is_no_handshake(void **state)
{
        struct fixture *f = *state;
        int fd = raw_connect(f);

        fixture_accept(f, &f->b, false);
        assert_true(send(fd, "GET / HTTP/1.1\r\nHost: beta\r\n\r\n", 30, MSG_NOSIGNAL) > 0);
        expect_down(f, "does not speak the protocol of phaul");
        (void)close(fd);
}

static void who_says_nothing_is_cut(void **state)
{
        struct fixture *f = *state;
        int fd = raw_connect(f);

        f->env.handshake_ms = 700;
        fixture_accept(f, &f->b, false);
        uint64_t begin = clock_ms();
        expect_down(f, "no answer from 127.0.0.1 to the handshake");
        assert_true(clock_ms() - begin < 1900); /* 2000 is the limit of all others */
        (void)close(fd);
}

static void who_greets_not_is_cut(void **state)
{
        struct fixture *f = *state;

        f->env.handshake_ms = 700;
        struct raw r = raw_tls(f, true, TLS1_3_VERSION);
        expect_down(f, "did not say what it wants");
        raw_done(&r);
}

static void old_tls_and_no_certificate_are_refused(void **state)
{
        struct fixture *f = *state;
        struct raw r = raw_tls(f, true, TLS1_2_VERSION);

        expect_down(f, "does not speak the protocol of phaul");
        raw_done(&r);
        link_free(f->server.link);
        f->server = (struct side){0};
        r = raw_tls(f, false, TLS1_3_VERSION);
        expect_down(f, "127.0.0.1 showed no certificate");
        raw_done(&r);
}

/* The announced size is refused before a byte of the body came. */
static void oversized_frames_are_refused(void **state)
{
        static const struct {
                uint32_t size;
                uint8_t kind;
                const char *text;
        } lies[] = {
                {MESSAGE_MAX + 1, 1, "a message of an impossible size"},
                {UINT32_MAX, 1, "a message of an impossible size"},
                {3, 1, "a message of an impossible size"},
                {28 + BULK_MAX + 1, 2, "a bulk frame of an impossible size"},
                {27, 2, "a bulk frame of an impossible size"},
                {1, 3, "does not belong there"},
                {100, 4, "does not belong there"}, /* not in the first version */
                {8, 77, "does not belong there"},
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
                struct raw r = raw_tls(f, true, TLS1_3_VERSION);
                raw_hello(&r, PURPOSE_BULK);
                while (f->server.last != MSG_HELLO && !f->server.down)
                        fixture_run(f, 5);
                assert_int_equal(link_welcome(f->server.link, 1), 0);
                raw_wait_for_welcome(&r);
                raw_frame(&r, lies[i].size, lies[i].kind, NULL, 0);
                expect_down(f, lies[i].text);
                raw_done(&r);
                link_free(f->server.link);
                f->server = (struct side){0};
        }
}

/* Sizes that do not fit, methods nobody knows, originals of another size, and noise; `header` of a frame that is not
 * packed. */
static void packed_frames_that_lie(struct fixture *f, uint32_t version, uint32_t header)
{
        const struct {
                uint32_t announced, original;
                uint8_t method, reserved;
                const char *text;
        } lies[] = {
                {header + 8, 4096, 1, 0, "a packed frame of an impossible size"},
                {header + 8 + BULK_MAX + 1, 4096, 1, 0, "a packed frame of an impossible size"},
                {UINT32_MAX, 4096, 1, 0, "a packed frame of an impossible size"},
                {100, 0, 1, 0, "a packed frame with an impossible header"},
                {100, BULK_MAX + 1, 1, 0, "a packed frame with an impossible header"},
                {100, UINT32_MAX, 2, 0, "a packed frame with an impossible header"},
                {100, 4096, 1, 1, "a packed frame with an impossible header"},
                {100, 4096, 0, 0, "a packed frame that cannot be unpacked"},
                {100, 4096, 1, 0, "a packed frame that cannot be unpacked"},
                {100, 4096, 2, 0, "a packed frame that cannot be unpacked"},
                {100, 4096, 3, 0, "a packed frame that cannot be unpacked"},
        };
        uint8_t body[100] = {0};

        memset(body + header + 8, 0xA5, sizeof(body) - header - 8);
        for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
                struct raw r = raw_tls(f, true, TLS1_3_VERSION);
                raw_hello_up_to(&r, PURPOSE_BULK, version);
                while (f->server.last != MSG_HELLO && !f->server.down)
                        fixture_run(f, 5);
                assert_int_equal(link_welcome(f->server.link, version), 0);
                raw_wait_for_welcome(&r);
                body[header] = lies[i].method;
                body[header + 1] = lies[i].reserved;
                put_be32(body + header + 4, lies[i].original);
                raw_frame(&r, lies[i].announced, 4, body, lies[i].announced == sizeof(body) ? sizeof(body) : 0);
                expect_down(f, lies[i].text);
                raw_done(&r);
                link_free(f->server.link);
                f->server = (struct side){0};
        }
}

static void packed_frames_that_lie_are_refused(void **state)
{
        packed_frames_that_lie(*state, VERSION_PIECES, 28);
        packed_frames_that_lie(*state, VERSION_BUNDLES, 36);
}

static void messages_out_of_turn_are_refused(void **state)
{
        struct fixture *f = *state;
        struct raw r = raw_tls(f, true, TLS1_3_VERSION);

        raw_hello(&r, PURPOSE_CONTROL);
        raw_message(&r, message_new(MSG_COMMIT)); /* before the welcome */
        expect_down(f, "before it was welcomed");
        raw_done(&r);
        link_free(f->server.link);

        f->server = (struct side){0};
        r = raw_tls(f, true, TLS1_3_VERSION);
        raw_hello(&r, PURPOSE_CONTROL);
        raw_hello(&r, PURPOSE_CONTROL);
        expect_down(f, "greeted twice");
        raw_done(&r);
        link_free(f->server.link);

        f->server = (struct side){0};
        r = raw_tls(f, true, TLS1_3_VERSION);
        raw_message(&r, message_new(MSG_PREPARED)); /* the other side's line */
        expect_down(f, "may not come from that side");
        raw_done(&r);
        link_free(f->server.link);

        f->server = (struct side){0};
        r = raw_tls(f, true, TLS1_3_VERSION);
        raw_frame(&r, 6, 1, "\0\1\0\0\1\1", 6);
        expect_down(f, "malformed message HELLO");
        raw_done(&r);
}

/* Thousands of pings without reading the answers: no queue grows, and the rest of the link still works. */
static void a_flood_of_pings_does_no_harm(void **state)
{
        struct fixture *f = *state;
        struct raw r = raw_tls(f, true, TLS1_3_VERSION);
        uint8_t ping[12] = {0, 0, 0, 4, 1, 0, 0, 0, 0, MSG_PING, 0, 0};

        raw_hello(&r, PURPOSE_CONTROL);
        while (f->server.last != MSG_HELLO && !f->server.down)
                fixture_run(f, 5);
        assert_int_equal(link_welcome(f->server.link, 1), 0);
        raw_wait_for_welcome(&r);
        for (int i = 0; i < 20000; i++)
                assert_int_equal(SSL_write(r.ssl, ping, sizeof(ping)), sizeof(ping));
        raw_message(&r, message_new(MSG_COMMIT));
        for (int i = 0; i < 500 && f->server.last != MSG_COMMIT && !f->server.down; i++)
                fixture_run(f, 10);
        if (f->server.down)
                fail_msg("%s", f->server.err.text);
        assert_int_equal(f->server.last, MSG_COMMIT);
        raw_done(&r);
}

/* Noise inside TLS, from a paired host that went mad. */
static void noise_from_a_paired_host_does_no_harm(void **state)
{
        struct fixture *f = *state;
        unsigned seed = 4711;

        for (int round = 0; round < 15; round++) {
                struct raw r = raw_tls(f, true, TLS1_3_VERSION);
                uint8_t noise[4096];
                if (round % 2)
                        raw_hello(&r, PURPOSE_CONTROL + rand_r(&seed) % 5);
                for (size_t i = 0; i < sizeof(noise); i++)
                        noise[i] = (uint8_t)rand_r(&seed);
                if (round % 3 == 0)
                        memset(noise, 0, 3);
                (void)SSL_write(r.ssl, noise, sizeof(noise));
                raw_done(&r);
                fixture_until(f, &f->server.down);
                assert_int_not_equal(f->server.err.kind, ERROR_NONE);
                if (strstr(f->server.err.text, "ended unexpectedly"))
                        fail_msg("phaul-net crashed");
                link_free(f->server.link);
                f->server = (struct side){0};
        }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        const struct CMUnitTest tests[] = {
                T(garbage_is_no_handshake),
                T(who_says_nothing_is_cut),
                T(who_greets_not_is_cut),
                T(old_tls_and_no_certificate_are_refused),
                T(oversized_frames_are_refused),
                T(messages_out_of_turn_are_refused),
                T(packed_frames_that_lie_are_refused),
                T(a_flood_of_pings_does_no_harm),
                T(noise_from_a_paired_host_does_no_harm),
        };

        (void)signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
