/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "cli/cli.h"

int verb_forget(struct cli *cli, int argc, char **argv, struct error *err)
{
        char **rest, path[64];
        int n;

        int r = cli_options(cli, argc, argv, NULL, 1, 1, &rest, &n, err);
        if (r == 0)
                r = cli_check_id(rest[0], err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/released/%s", rest[0]);
        r = cli_call(cli, "DELETE", path, NULL, NULL, err);
        if (r < 0)
                return r;
        if (cli->json) {
                json_t *o = json_pack("{s:s}", "forgotten", rest[0]);
                r = cli_print_json(o, err);
                json_decref(o);
        } else
                (void)printf("forgotten\n");
        return r;
}
