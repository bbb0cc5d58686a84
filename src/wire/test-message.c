/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/message.h"
#include "wire/version.h"

/* What one end says arrives at the other as it was said, and nothing else is let in. */

static struct message *round_trip(struct message *m)
{
        struct message *back = NULL;
        struct error err = {0};
        uint8_t *bytes;
        size_t size;

        assert_int_equal(message_encode(m, &bytes, &size), 0);
        message_free(m);
        if (message_decode(bytes, size, &back, &err) < 0)
                fail_msg("%s", err.text);
        free(bytes);
        return back;
}

static void every_kind_of_value_survives(void **state)
{
        uint8_t token[16] = {1, 2, 3, 0, 255};
        const uint8_t *bytes;
        char text[64], tiny[3];
        uint32_t u32;
        uint64_t u64;
        size_t size;

        (void)state;
        struct message *m = message_new(MSG_HELLO);
        message_put_u32(m, FIELD_VERSION_MIN, 1);
        message_put_u32(m, FIELD_VERSION_MAX, UINT32_MAX);
        message_put_u32(m, FIELD_PURPOSE, PURPOSE_BULK);
        message_put_text(m, FIELD_SOFTWARE, "phaul ü");
        message_put_text(m, FIELD_MIGRATION, NULL); /* not put */
        message_put_bytes(m, FIELD_TOKEN, token, sizeof(token));
        m = round_trip(m);
        assert_int_equal(m->type, MSG_HELLO);
        assert_int_equal(message_get_u32(m, FIELD_VERSION_MAX, &u32), 0);
        assert_int_equal(u32, UINT32_MAX);
        assert_int_equal(message_get_text(m, FIELD_SOFTWARE, text, sizeof(text)), 0);
        assert_string_equal(text, "phaul ü");
        assert_int_equal(message_get_text(m, FIELD_SOFTWARE, tiny, sizeof(tiny)), -ENAMETOOLONG);
        assert_int_equal(message_get_text(m, FIELD_MIGRATION, text, sizeof(text)), -ENOENT);
        assert_int_equal(message_get_bytes(m, FIELD_TOKEN, &bytes, &size), 0);
        assert_int_equal(size, 16);
        assert_memory_equal(bytes, token, 16);
        assert_int_equal(message_get_u64(m, FIELD_VERSION_MAX, &u64), -EINVAL);
        message_free(m);

        m = message_new(MSG_OFFER);
        message_put_text(m, FIELD_MIGRATION, "0123456789abcdef0123456789abcdef");
        message_put_text(m, FIELD_WORKLOAD_KIND, "lxc");
        message_put_text(m, FIELD_WORKLOAD_ID, "web");
        message_put_text(m, FIELD_TARGET_ID, "web");
        message_put_text(m, FIELD_DESCRIPTION, "{}");
        message_put_u64(m, FIELD_MEMORY_BYTES, UINT64_C(0x0123456789abcdef));
        m = round_trip(m);
        assert_int_equal(message_get_u64(m, FIELD_MEMORY_BYTES, &u64), 0);
        assert_true(u64 == UINT64_C(0x0123456789abcdef));
        message_free(m);
}

static void repeated_fields_keep_their_order(void **state)
{
        struct message *m = message_new(MSG_VERDICT);
        char *text;

        (void)state;
        message_put_text(m, FIELD_GRADE, "warning");
        message_put_text(m, FIELD_ITEM, "one");
        message_put_text(m, FIELD_ITEM, "");
        message_put_text(m, FIELD_ITEM, "three");
        m = round_trip(m);
        const char *expected[] = {"one", "", "three"};
        for (size_t i = 0; i < 3; i++) {
                assert_int_equal(message_dup_text_at(m, FIELD_ITEM, i, &text), 0);
                assert_string_equal(text, expected[i]);
                free(text);
        }
        assert_int_equal(message_dup_text_at(m, FIELD_ITEM, 3, &text), -ENOENT);
        message_free(m);
}

/* The sender learns of its own mistakes, once, at the end. */
static void puts_are_sticky(void **state)
{
        struct message *m = message_new(MSG_WELCOME);
        uint8_t *bytes;
        size_t size;

        (void)state;
        assert_int_equal(message_result(m), -ENODATA);
        message_put_u32(m, FIELD_VERSION, 1);
        assert_int_equal(message_result(m), 0);
        message_put_u32(m, FIELD_VERSION, 2);
        assert_int_equal(message_result(m), -EEXIST);
        message_put_text(m, FIELD_SOFTWARE, "fine");
        assert_int_equal(message_encode(m, &bytes, &size), -EEXIST);
        message_free(m);

        m = message_new(MSG_WELCOME);
        message_put_text(m, FIELD_BODY, "not in a WELCOME");
        assert_int_equal(message_result(m), -EINVAL);
        message_free(m);

        m = message_new(MSG_READY);
        message_put_text(m, FIELD_TOKEN, "not bytes");
        assert_int_equal(message_result(m), -EINVAL);
        message_free(m);

        m = message_new(4711);
        assert_int_equal(message_result(m), -EINVAL);
        message_free(m);

        message_put_u32(NULL, FIELD_VERSION, 1);
        assert_int_equal(message_result(NULL), -ENOMEM);
        message_free(NULL);
}

static void a_message_has_a_ceiling(void **state)
{
        struct message *m = message_new(MSG_VERDICT);
        char item[8001];
        int n = 0;

        (void)state;
        memset(item, 'x', sizeof(item) - 1);
        item[sizeof(item) - 1] = '\0';
        message_put_text(m, FIELD_GRADE, "ok");
        while (message_result(m) == 0 && n < 100) {
                message_put_text(m, FIELD_ITEM, item);
                n++;
        }
        assert_int_equal(message_result(m), -EMSGSIZE);
        assert_true(m->size <= MESSAGE_MAX - 4);
        assert_int_equal(n, MESSAGE_MAX / 8006 + 1);
        message_free(m);
}

struct lie {
        const char *what; /* part of the text the lie is answered with */
        uint8_t bytes[64];
        size_t size;
};

static void lies_are_refused(void **state)
{
        static const struct lie lies[] = {
                {"3 bytes", {0, 2, 0}, 3},
                {"unknown type 0", {0, 0, 0, 0}, 4},
                {"unknown type 9", {0, 9, 0, 0}, 4},
                {"unknown type 65535", {255, 255, 0, 0}, 4},
                {"PING: reserved", {0, 4, 0, 1}, 4},
                {"missing", {0, 2, 0, 0}, 4},
                {"cut off", {0, 2, 0, 0, 0, 3, 0, 0, 0}, 9},
                {"longer than the message", {0, 2, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 1}, 14},
                {"longer than the message", {0, 2, 0, 0, 0, 3, 255, 255, 255, 255, 0, 0, 0, 1}, 14},
                {"wrong size", {0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 1}, 13},
                {"unknown field", {0, 2, 0, 0, 0, 0, 0, 0, 0, 0}, 10},
                {"unknown field", {0, 2, 0, 0, 0, 63, 0, 0, 0, 0}, 10},
                {"unknown field", {0, 2, 0, 0, 255, 255, 0, 0, 0, 0}, 10},
                {"does not belong", {0, 4, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1}, 14},
                {"given twice", {0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1}, 24},
                {"not text", {0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2, 'a', 0}, 22},
                {"not text", {0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2, 0xc0, 0x80}, 22},
                {"wrong size", {0, 64, 0, 0, 0, 25, 0, 0, 0, 0}, 10}, /* an empty query */
        };

        (void)state;
        for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
                struct message *m = NULL;
                struct error err = {0};
                /* In memory of exactly that size, so that reading past the end shows. */
                uint8_t *copy = malloc(lies[i].size);
                memcpy(copy, lies[i].bytes, lies[i].size);
                assert_int_equal(message_decode(copy, lies[i].size, &m, &err), -EBADMSG);
                assert_null(m);
                if (!strstr(err.text, lies[i].what))
                        fail_msg("lie %zu: \"%s\" does not say \"%s\"", i, err.text, lies[i].what);
                free(copy);
        }

        uint8_t *huge = calloc(1, MESSAGE_MAX + 1);
        struct message *m;
        huge[1] = MSG_PING;
        assert_int_equal(message_decode(huge, MESSAGE_MAX + 1, &m, NULL), -EBADMSG);
        free(huge);
}

/* Noise, and noise that looks almost right: never a crash, and what is accepted encodes to the same bytes. */
static void random_bytes_do_no_harm(void **state)
{
        unsigned seed = 20240501;
        int accepted = 0;

        (void)state;
        for (int i = 0; i < 100000; i++) {
                size_t size = (size_t)rand_r(&seed) % 96;
                uint8_t *bytes = malloc(size ?: 1);
                for (size_t k = 0; k < size; k++)
                        bytes[k] = (uint8_t)rand_r(&seed);
                if (i % 4 && size >= 4) {
                        put_be16(bytes, (uint16_t)(rand_r(&seed) % 90));
                        put_be16(bytes + 2, 0);
                        for (size_t at = 4; at + 6 <= size;) {
                                uint32_t length = (uint32_t)rand_r(&seed) % 10;
                                put_be16(bytes + at, (uint16_t)(rand_r(&seed) % 40));
                                put_be32(bytes + at + 2, length);
                                at += 6 + length;
                        }
                }
                struct message *m = NULL;
                struct error err = {0};
                if (message_decode(bytes, size, &m, &err) == 0) {
                        uint8_t *again;
                        size_t again_size;
                        assert_int_equal(message_encode(m, &again, &again_size), 0);
                        assert_int_equal(again_size, size);
                        assert_memory_equal(again, bytes, size);
                        free(again);
                        message_free(m);
                        accepted++;
                } else {
                        assert_int_not_equal(err.text[0], 0);
                }
                free(bytes);
        }
        assert_true(accepted > 10);
}

static void each_side_says_its_own_part(void **state)
{
        struct message *m = message_new(MSG_COMMIT);
        struct error err = {0};

        (void)state;
        assert_int_equal(message_check_place(m, PURPOSE_CONTROL, true, &err), 0);
        assert_int_equal(message_check_place(m, 0, true, &err), 0);
        assert_int_equal(message_check_place(m, PURPOSE_CONTROL, false, &err), -EPROTO);
        assert_int_equal(message_check_place(m, PURPOSE_PAIR, true, &err), -EPROTO);
        assert_non_null(strstr(err.text, "COMMIT"));
        message_free(m);
}

static void the_highest_common_version_wins(void **state)
{
        struct error err = {0};
        uint32_t v = 0;

        (void)state;
        assert_int_equal(wire_negotiate(1, 1, &v, &err), 0);
        assert_int_equal(v, 1);
        assert_int_equal(wire_negotiate(1, 9, &v, &err), 0);
        assert_int_equal(v, WIRE_VERSION_MAX);
        assert_int_equal(wire_negotiate_range(2, 5, 3, 4, &v, &err), 0);
        assert_int_equal(v, 4);
        assert_true(wire_negotiate_range(2, 5, 6, 8, &v, &err) < 0);
        assert_int_equal(err.kind, ERROR_REFUSED);
        assert_non_null(strstr(err.text, "2 to 5"));
        assert_non_null(strstr(err.text, "6 to 8"));
        assert_true(wire_negotiate(3, 0, &v, &err) < 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_kind_of_value_survives),
                cmocka_unit_test(repeated_fields_keep_their_order),
                cmocka_unit_test(puts_are_sticky),
                cmocka_unit_test(a_message_has_a_ceiling),
                cmocka_unit_test(lies_are_refused),
                cmocka_unit_test(random_bytes_do_no_harm),
                cmocka_unit_test(each_side_says_its_own_part),
                cmocka_unit_test(the_highest_common_version_wins),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
