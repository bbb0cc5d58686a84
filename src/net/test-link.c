/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Control links: greeting, messages, refusals; who is let in and what the others are told. */

static void send_round(struct link *link, uint32_t round, bool from_source)
{
        struct message *m = message_new(from_source ? MSG_FILES_ROUND : MSG_FILES_DONE);

        message_put_u32(m, FIELD_ROUND, round);
        message_put_u32(m, FIELD_TREE, 0);
        if (from_source)
                message_put_u32(m, FIELD_STREAM, round), message_put_u32(m, FIELD_ROUND_KIND, 0);
        else
                message_put_u32(m, FIELD_STATUS, 0);
        assert_int_equal(link_send(link, m), 0);
}

static void messages_go_both_ways(void **state)
{
        struct fixture *f = *state;
        uint64_t sent, received;

        fixture_open(f, PURPOSE_CONTROL);
        assert_int_equal(f->client.version, 1);
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

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(messages_go_both_ways, fixture_setup, fixture_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
