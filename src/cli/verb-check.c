/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"
#include "cli/order.h"

int verb_check(struct cli *cli, int argc, char **argv, struct error *err)
{
        json_t *body = NULL;

        int r = order_parse(cli, argc, argv, NULL, &body, err);
        if (r == 0)
                r = order_check(cli, body, err);
        json_decref(body);
        return r;
}
