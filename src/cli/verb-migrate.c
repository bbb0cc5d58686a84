/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/order.h"
#include "cli/text.h"

static int add_options(json_t *body, const char *timeout, const char *bandwidth, const char *via, struct error *err)
{
        json_t *options = json_pack("{s:s}", "mode", "live");
        int64_t n = 0;
        int r = 0;

        if (timeout && (r = text_parse_number("--timeout", timeout, 1, 604800, &n, err)) == 0)
                (void)json_object_set_new(options, "timeout_s", json_integer(n));
        if (r == 0 && bandwidth && (r = text_parse_rate(bandwidth, &n, err)) == 0)
                (void)json_object_set_new(options, "bandwidth", json_integer(n));
        if (r == 0 && via)
                (void)json_object_set_new(options, "via", json_string(via));
        if (json_object_set_new(body, "options", options) < 0 && r == 0)
                r = error_set(err, ENOMEM, "out of memory");
        return r;
}

/* With a key of its own, so that asking again after a lost answer cannot start it twice. */
static int order(struct cli *cli, const json_t *body, json_t **ret, struct error *err)
{
        char key[ID_LENGTH + 1];

        int r = id_new(key);
        if (r < 0)
                return error_errno(err, -r, "no random numbers");
        r = cli_connect(cli, err);
        if (r == 0)
                r = client_call(cli->client, "POST", "/migrations", body, key, ret, err);
        if (r == -ECONNRESET) {
                error_clear(err);
                r = client_call(cli->client, "POST", "/migrations", body, key, ret, err);
        }
        return r;
}

static int migrate(struct cli *cli, const json_t *body, bool detach, struct error *err)
{
        json_t *migration = NULL;
        char id[ID_LENGTH + 1];

        int r = order(cli, body, &migration, err);
        if (r < 0)
                return r;
        (void)snprintf(id, sizeof(id), "%s", cli_text(migration, "id"));
        if (detach) {
                if (cli->json)
                        r = cli_print_json(migration, err);
                else
                        (void)printf("%s\n", id);
                json_decref(migration);
                return r;
        }
        json_decref(migration);
        r = follow(cli, id, &migration, err);
        if (r != 0)
                return r;
        r = follow_result(cli, migration, err);
        json_decref(migration);
        return r;
}

int verb_migrate(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *dst = NULL, *timeout = NULL, *bandwidth = NULL, *via = NULL;
        bool detach = false, dry = false;
        const struct cli_option options[] = {
                {.name = "dst-id", .value = &dst},
                {.name = "timeout", .value = &timeout},
                {.name = "bandwidth", .value = &bandwidth},
                {.name = "via", .value = &via},
                {.name = "detach", .flag = &detach},
                {.name = "dry-run", .flag = &dry},
                {.name = NULL},
        };
        char **rest;
        json_t *body = NULL;
        int n;

        int r = cli_options(cli, argc, argv, options, 2, 2, &rest, &n, err);
        if (r == 0)
                r = order_body(rest[0], rest[1], dst, &body, err);
        if (r == 0)
                r = add_options(body, timeout, bandwidth, via, err);
        if (r == 0)
                r = dry ? order_check(cli, body, err) : migrate(cli, body, detach, err);
        json_decref(body);
        return r;
}
