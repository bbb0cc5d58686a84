/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "session/way.h"

/* How the other host is reached: what may stand in a request, what becomes of it, and what failed when it did. */

static int parsed(const char *text, bool source, struct way *way)
{
        json_t *request = json_loads(text, 0, NULL);

        assert_non_null(request);
        int r = way_parse(request, source, way);
        json_decref(request);
        return r;
}

static void addresses(void **state)
{
        static const struct {
                const char *text, *user, *host;
                unsigned port;
        } right[] = {
                {"ssh://beta", "", "beta", 0},
                {"ssh://root@beta/", "root", "beta", 0},
                {"ssh://a.b-c_d@10.0.0.2:2222", "a.b-c_d", "10.0.0.2", 2222},
                {"ssh://[fd00::1]", "", "fd00::1", 0},
                {"ssh://me@[fe80::1%eth0]:22", "me", "fe80::1%eth0", 22},
                {"ssh://db_1.example.org:65535", "", "db_1.example.org", 65535},
        };
        static const char *const wrong[] = {
                "ssh://",
                "ssh:///",
                "ssh://@beta",
                "ssh://-oProxyCommand=id",
                "ssh://beta:0",
                "ssh://beta:65536",
                "ssh://beta:",
                "ssh://beta:22x",
                "ssh://beta:+22",
                "ssh://beta:-22",
                "ssh://beta: 22",
                "ssh://-l@beta",
                "ssh://.x@beta",
                "ssh://me:secret@beta",
                "ssh://a@b@beta",
                "ssh://be ta",
                "ssh://be;ta",
                "ssh://be$ta",
                "ssh://`id`",
                "ssh://be'ta",
                "ssh://beta/path",
                "ssh://beta//",
                "ssh://beta\n",
                "ssh://beta%h",
                "ssh://[beta]",
                "ssh://[::1",
                "ssh://[::1]x",
                "ssh://[::g]",
                "ssh://::1",
                "ssh://[fe80::1%]",
                "ssh://[fe80::1%a;b]",
                "ssh://.beta",
                "ssh://[]:22",
                "beta",
                "SSH://beta",
                "ssh:/beta",
                "ssh://root@-beta",
        };
        struct ssh_address a;
        struct error err = {0};
        char longest[400] = "ssh://";

        (void)state;
        for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
                if (ssh_address_parse(right[i].text, &a, &err) < 0)
                        fail_msg("%s", err.text);
                assert_string_equal(a.user, right[i].user);
                assert_string_equal(a.host, right[i].host);
                assert_int_equal(a.port, right[i].port);
        }
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                if (ssh_address_parse(wrong[i], &a, &err) == 0)
                        fail_msg("'%s' was taken", wrong[i]);
                assert_int_equal(err.kind, ERROR_USAGE);
        }
        memset(longest + 6, 'x', SSH_HOST_MAX);
        assert_int_equal(ssh_address_parse(longest, &a, &err), 0);
        longest[6 + SSH_HOST_MAX] = 'x';
        assert_true(ssh_address_parse(longest, &a, &err) < 0);
}

static void requests(void **state)
{
        static const char *const wrong[] = {
                "{\"way\": 1}",
                "{\"way\": \"carrier pigeon\"}",
                "{\"way\": \"tunnel\"}",
                "{\"way\": \"ssh\"}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\"}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"-beta\", \"uid\": 0}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"uid\": -1}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"uid\": 4294967295}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"uid\": 0, \"user\": \"-l\"}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"uid\": 0, \"port\": 65536}}",
                "{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"uid\": 0, \"agent\": \"here\"}}",
        };
        struct way way;

        (void)state;
        assert_int_equal(parsed("{}", true, &way), 0);
        assert_int_equal(way.kind, WAY_DIAL);
        assert_int_equal(parsed("{\"way\": \"descriptors\"}", true, &way), 0);
        assert_int_equal(way.kind, WAY_DESCRIPTORS);
        assert_int_equal(parsed("{\"way\": \"tunnel\"}", false, &way), 0);
        assert_int_equal(way.kind, WAY_TUNNEL);
        assert_true(parsed("{\"way\": \"descriptors\"}", false, &way) < 0);
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
                if (parsed(wrong[i], true, &way) == 0)
                        fail_msg("%s was taken", wrong[i]);
}

/* The host stands behind "--", and what runs there is a constant. */
static void arguments(void **state)
{
        struct way way;
        const char *argv[WAY_ARGV_MAX];
        char port[WAY_PORT_SIZE];
        size_t n = 0;

        (void)state;
        assert_int_equal(
                parsed("{\"way\": \"ssh\", \"ssh\": {\"host\": \"beta\", \"user\": \"me\", \"port\": 2222, \"uid\": "
                       "1000, \"agent\": \"/tmp/agent\"}}",
                       true, &way),
                0);
        assert_int_equal(way.uid, 1000);
        assert_string_equal(way.agent, "/tmp/agent");
        way_ssh_argv(&way, argv, port);
        while (argv[n])
                n++;
        static const char *const end[] = {"-p", "2222", "-l", "me", "--", "beta", "phaul receive --stdio"};
        for (size_t i = 0; i < 7; i++)
                assert_string_equal(argv[n - 7 + i], end[i]);
        assert_true(n < WAY_ARGV_MAX);
        /* What the user's configuration has for sessions is not for this one. */
        static const char *const own[] = {"IgnoreUnknown=*", "RemoteCommand=none", "ForkAfterAuthentication=no",
                                          "StdinNull=no", "SessionType=default"};
        size_t found = 0;
        for (size_t i = 0; i + 1 < n; i++)
                if (found < 5 && strcmp(argv[i], "-o") == 0 && strcmp(argv[i + 1], own[found]) == 0)
                        found++;
        assert_int_equal(found, 5);
        way.ssh.port = 0;
        way.ssh.user[0] = '\0';
        way_ssh_argv(&way, argv, port);
        assert_string_equal(argv[n - 8 + 1], "--");
        assert_null(argv[n - 4]);
}

#define EXITED(code) ((code) << 8)
static void explanations(void **state)
{
        static const struct {
                int status;
                const char *said;
                enum error_kind kind;
                const char *words;
        } cases[] = {
                {EXITED(255), "ssh: connect to host beta port 22: Connection refused", ERROR_FAILED,
                 "by ssh: ssh: connect"},
                {EXITED(255), "Host key verification failed.", ERROR_DENIED, "key of beta"},
                {EXITED(255), "root@beta: Permission denied (publickey).", ERROR_DENIED, "does not let us in"},
                {EXITED(127), "sh: 1: phaul: not found", ERROR_REFUSED, "not installed on beta: sh: 1"},
                {EXITED(2), "phaul: there is no verb 'receive'", ERROR_REFUSED, "does not know `receive`"},
                {EXITED(5), "phaul: no phauld runs here, and only root can start one", ERROR_DENIED, "beta: phaul: no"},
                {EXITED(0), "x", ERROR_FAILED, "ended before"},
                {-1, "x", ERROR_FAILED, "ended before"},
                {9, "killed", ERROR_FAILED, "ended before"},
        };
        const struct way way = {.kind = WAY_SSH, .ssh.host = "beta"};

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct error err = {0};
                (void)error_set(&err, ECONNRESET, "the connection to ssh:beta ended before anything was said: %s",
                                cases[i].said);
                way_ssh_explain(&way, cases[i].status, &err);
                assert_int_equal(err.kind, cases[i].kind);
                if (!strstr(err.text, cases[i].words))
                        fail_msg("'%s' does not say '%s'", err.text, cases[i].words);
        }
        /* What did not come from ssh is not blamed on it. */
        struct error err = {0};
        (void)error_set(&err, ETIMEDOUT, "no answer");
        way_ssh_explain(&way, EXITED(255), &err);
        assert_string_equal(err.text, "no answer");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(addresses),
                cmocka_unit_test(requests),
                cmocka_unit_test(arguments),
                cmocka_unit_test(explanations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
