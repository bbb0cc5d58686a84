/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"
#include "cli/order.h"

int verb_check(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *dst = NULL;
        const struct cli_option options[] = {{.name = "dst-id", .value = &dst}, {.name = NULL}};
        json_t *body = NULL;
        char **rest;
        int n;

        int r = cli_options(cli, argc, argv, options, 2, 2, &rest, &n, err);
        if (r == 0)
                r = order_body(rest[0], rest[1], dst, &body, err);
        if (r == 0)
                r = order_check(cli, body, err);
        json_decref(body);
        return r;
}
