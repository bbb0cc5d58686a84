/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What `phaul` says and how it reads: the last line, the progress line, exit codes, options, the event stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/order.h"
#include "cli/progress.h"
#include "cli/text.h"

static void the_last_line_of_migrate(void **state)
{
        char line[512];
        json_t *r = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:i}", "kind", "lxc", "name", "web", "source",
                              "alpha", "target", "beta", "result", "done", "total_ms", 2310, "downtime_ms", 143,
                              "bytes_sent", (json_int_t)268000000, "rounds", 4);

        (void)state;
        assert_string_equal(text_migrated(r, line, sizeof(line)),
                            "migrated lxc/web alpha -> beta in 2.31 s, downtime 143 ms, 268 MB sent, 4 rounds");
        (void)json_object_set_new(r, "rounds", json_integer(1));
        (void)json_object_set_new(r, "target_name", json_string("web2"));
        assert_string_equal(text_migrated(r, line, sizeof(line)),
                            "migrated lxc/web alpha -> beta as web2 in 2.31 s, downtime 143 ms, 268 MB sent, 1 round");
        (void)json_object_set_new(r, "downtime_ms", json_null());
        assert_string_equal(text_migrated(r, line, sizeof(line)),
                            "migrated lxc/web alpha -> beta as web2 in 2.31 s, 268 MB sent, 1 round");
        json_decref(r);
}

/* A long reason keeps its column; without a terminal it stays one line; a word that is too long is not cut. */
static void reasons_are_wrapped(void **state)
{
        static const struct {
                unsigned width;
                const char *text, *expected;
        } cases[] = {
                {0, "a few words in one line", "a few words in one line\n"},
                {12, "a few words more", "a few words\n    more\n"},
                {12, "0123456789abcdef x", "0123456789abcdef\n    x\n"},
                {12, "", "\n"},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                char *text = NULL;
                size_t size;
                FILE *out = open_memstream(&text, &size);
                order_print_wrapped(out, cases[i].text, cases[i].width, 0, 4);
                (void)fclose(out);
                assert_string_equal(text, cases[i].expected);
                free(text);
        }
}

static void results_and_their_exit_codes(void **state)
{
        static const struct {
                const char *result, *failure;
                int exit_code;
        } cases[] = {
                {"done", NULL, 0},         {"failed", NULL, 1},        {"failed", "failed", 1},
                {"failed", "refused", 3},  {"failed", "not-found", 4}, {"failed", "denied", 5},
                {"failed", "lost", 9},     {"failed", "none", 1},      {"cancelled", "cancelled", 6},
                {"unknown", "unknown", 8}, {"nonsense", NULL, 1},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                json_t *r =
                        json_pack("{s:s, s:{s:s*}}", "result", cases[i].result, "failure", "kind", cases[i].failure);
                assert_int_equal(error_exit_code(text_result_kind(r)), cases[i].exit_code);
                json_decref(r);
        }
}

/* Whoever reads a failure learns where the workload is. */
static void failures_say_who_has_it(void **state)
{
        char text[1024];
        json_t *r = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "kind", "lxc", "name", "web", "source", "alpha",
                              "target", "beta", "result", "failed", "owner", "source", "reason", "no bridge br0");

        (void)state;
        assert_string_equal(text_not_migrated(r, text, sizeof(text)),
                            "lxc/web was not migrated: no bridge br0\nit still runs on alpha");
        (void)json_object_set_new(r, "owner", json_string("unknown"));
        assert_non_null(strstr(text_not_migrated(r, text, sizeof(text)), "it is not known where it runs"));
        json_decref(r);
}

static void numbers_for_people(void **state)
{
        char b[32];

        (void)state;
        assert_string_equal(text_bytes(0, b, sizeof(b)), "0 B");
        assert_string_equal(text_bytes(999, b, sizeof(b)), "999 B");
        assert_string_equal(text_bytes(1000, b, sizeof(b)), "1.00 kB");
        assert_string_equal(text_bytes(12340000, b, sizeof(b)), "12.3 MB");
        assert_string_equal(text_bytes(999999, b, sizeof(b)), "1.00 MB");
        assert_string_equal(text_duration(0, b, sizeof(b)), "0 ms");
        assert_string_equal(text_duration(1000, b, sizeof(b)), "1.00 s");
        assert_string_equal(text_duration(200000, b, sizeof(b)), "3 min 20 s");
}

static void rates(void **state)
{
        static const char *const wrong[] = {"", "fast", "-5M", "10X", "10Mb", "5", "nan", "inf", "1e99"};
        int64_t n;
        struct error err = {0};

        (void)state;
        assert_int_equal(text_parse_rate("100M", &n, &err), 0);
        assert_int_equal(n, 100000000);
        assert_int_equal(text_parse_rate("1.5G", &n, &err), 0);
        assert_int_equal(n, 1500000000);
        assert_int_equal(text_parse_rate("1000", &n, &err), 0);
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                assert_true(text_parse_rate(wrong[i], &n, &err) < 0);
                assert_int_equal(err.kind, ERROR_USAGE);
        }
}

/* What does not fit is left out, the least important first; never cut in the middle. */
static void the_progress_line_fits(void **state)
{
        char line[256];
        json_t *p = json_pack("{s:i, s:i, s:i, s:i, s:i, s:n}", "round", 2, "bytes_done", 34000000, "bytes_total",
                              268000000, "rate", 118000000, "eta_ms", 2000, "predicted_downtime_ms");

        (void)state;
        assert_string_equal(meter_line(p, "memory", 200, line, sizeof(line)),
                            "memory  round 2  34.0 MB of 268 MB  118 MB/s  2.00 s left");
        for (unsigned width = 1; width < 80; width++)
                assert_true(strlen(meter_line(p, "memory", width, line, sizeof(line))) <= width);
        assert_string_equal(meter_line(p, "memory", 20, line, sizeof(line)), "memory  round 2");
        json_decref(p);
}

static void nothing_of_a_peer_reaches_the_terminal_raw(void **state)
{
        char safe[64];

        (void)state;
        assert_string_equal(cli_safe("a\033[2Jb\n", safe, sizeof(safe)), "a\\x1b[2Jb\\x0a");
}

#define W(text) ((char *)(text))
static void options_may_stand_anywhere(void **state)
{
        struct cli cli = {0};
        const char *name = NULL;
        bool flag = false;
        const struct cli_option options[] = {{.name = "name", .value = &name}, {.name = "flag", .flag = &flag}, {0}};
        char *argv[] = {W("migrate"), W("one"),    W("--name"), W("x"),       W("two"),
                        W("--flag"),  W("--json"), W("--"),     W("--three"), NULL};
        struct error err = {0};
        char **rest;
        int n;

        (void)state;
        assert_int_equal(cli_options(&cli, 9, argv, options, 3, 3, &rest, &n, &err), 0);
        assert_string_equal(rest[0], "one");
        assert_string_equal(rest[2], "--three");
        assert_string_equal(name, "x");
        assert_true(flag && cli.json);

        char *unknown[] = {W("migrate"), W("--nmae=x"), NULL}, *without[] = {W("migrate"), W("--name"), NULL};
        char *too_few[] = {W("migrate"), W("one"), NULL}, *with[] = {W("migrate"), W("--flag=1"), NULL};
        assert_true(cli_options(&cli, 2, unknown, options, 0, 0, &rest, &n, &err) < 0);
        assert_non_null(strstr(err.text, "unknown option '--nmae=x'"));
        assert_true(cli_options(&cli, 2, without, options, 0, 0, &rest, &n, &err) < 0);
        assert_true(cli_options(&cli, 2, with, options, 0, 0, &rest, &n, &err) < 0);
        assert_true(cli_options(&cli, 2, too_few, options, 2, 2, &rest, &n, &err) < 0);
        assert_int_equal(err.kind, ERROR_USAGE);
}

/* Bad names never get as far as a request. */
static void names_are_checked_first(void **state)
{
        static char *const wrong[][5] = {
                {W("web"), W("beta")},
                {W("lxc/"), W("beta")},
                {W("lxc/../x"), W("beta")},
                {W("lxc/a b"), W("beta")},
                {W("LXC/web"), W("beta")},
                {W("lxc/web"), W("be/ta")},
                {W("lxc/web"), W("-o")},
                {W("lxc/web"), W("beta"), W("--dst-id"), W("a;b")},
                {W("lxc/web"), W("beta"), W("--via"), W("beta")},
                {W("lxc/web"), W("beta"), W("--timeout"), W("never")},
                {W("lxc/web"), W("beta"), W("--bandwidth=1")},
                {W("lxc/web")},
                {W("lxc/web"), W("ssh://-oProxyCommand=id")},
                {W("lxc/web"), W("ssh://beta:port")},
                {W("lxc/web"), W("--fd-control"), W("0")},
                {W("lxc/web"), W("--fd-control=0"), W("--fd-data=1")},
                {W("lxc/web"), W("--fd-control=1000000"), W("--fd-data=1000001")},
        };
        char *right[] = {W("check"),       W("lxc/web"), W("--dst-id"), W("web2"),
                         W("--bandwidth"), W("2M"),      W("beta"),     NULL};
        struct cli cli = {0};
        struct error err = {0};
        json_t *body = NULL;

        (void)state;
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                char *argv[7] = {W("check")};
                int n = 1;
                for (; n < 6 && wrong[i][n - 1]; n++)
                        argv[n] = wrong[i][n - 1];
                assert_true(order_parse(&cli, n, argv, NULL, &body, &err) < 0);
                assert_int_equal(err.kind, ERROR_USAGE);
        }
        assert_int_equal(order_parse(&cli, 7, right, NULL, &body, &err), 0);
        char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
        assert_string_equal(text,
                            "{\"host\":\"beta\",\"id\":\"web\",\"kind\":\"lxc\",\"options\":{\"bandwidth\":2000000},"
                            "\"target_id\":\"web2\"}");
        free(text);
        json_decref(body);
}

/* An address of ssh becomes its parts; the agent is the caller's own. */
static void ways_by_ssh(void **state)
{
        char *argv[] = {W("migrate"), W("lxc/web"), W("ssh://me@[fd00::1]:2222"), NULL};
        struct cli cli = {0};
        struct error err = {0};
        json_t *body = NULL;

        (void)state;
        (void)setenv("SSH_AUTH_SOCK", "/tmp/agent", 1);
        assert_int_equal(order_parse(&cli, 3, argv, NULL, &body, &err), 0);
        char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
        assert_string_equal(text, "{\"id\":\"web\",\"kind\":\"lxc\",\"options\":{},\"ssh\":{\"agent\":\"/tmp/agent\","
                                  "\"host\":\"fd00::1\",\"port\":2222,\"user\":\"me\"}}");
        free(text);
        json_decref(body);
        (void)setenv("SSH_AUTH_SOCK", "not a path", 1);
        assert_int_equal(order_parse(&cli, 3, argv, NULL, &body, &err), 0);
        assert_null(json_object_get(json_object_get(body, "ssh"), "agent"));
        json_decref(body);
}

struct heard {
        unsigned n;
        char last[64];
};

static void hear(const struct stream_event *event, void *context)
{
        struct heard *h = context;

        h->n++;
        (void)snprintf(h->last, sizeof(h->last), "%s %lld", event->name,
                       (long long)json_integer_value(json_object_get(event->data, "n")));
}

/* However the bytes are cut up, the same events come out. */
static void the_stream_in_pieces_of_any_size(void **state)
{
        static const char text[] =
                ": hello\n\nid: 7\nevent: a\ndata: {\"n\":\ndata: 1}\n\nevent: b\r\ndata: {\"n\": 2}\r\n\r\n"
                "event: c\ndata: not json\n\nid: 9\ndata: {\"n\": 3}\n\nevent: half\ndata: {}\n";

        (void)state;
        for (size_t piece = 1; piece < sizeof(text); piece++) {
                struct sse sse = {0};
                struct heard heard = {0};
                for (size_t at = 0; at < sizeof(text) - 1; at += piece) {
                        size_t n = sizeof(text) - 1 - at < piece ? sizeof(text) - 1 - at : piece;
                        assert_int_equal(sse_feed(&sse, text + at, n, hear, &heard), 0);
                }
                assert_int_equal(heard.n, 3);
                assert_string_equal(heard.last, "message 3");
                assert_string_equal(sse.last_id, "9");
                sse_done(&sse);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_last_line_of_migrate),
                cmocka_unit_test(reasons_are_wrapped),
                cmocka_unit_test(results_and_their_exit_codes),
                cmocka_unit_test(failures_say_who_has_it),
                cmocka_unit_test(numbers_for_people),
                cmocka_unit_test(rates),
                cmocka_unit_test(the_progress_line_fits),
                cmocka_unit_test(nothing_of_a_peer_reaches_the_terminal_raw),
                cmocka_unit_test(options_may_stand_anywhere),
                cmocka_unit_test(names_are_checked_first),
                cmocka_unit_test(ways_by_ssh),
                cmocka_unit_test(the_stream_in_pieces_of_any_size),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
