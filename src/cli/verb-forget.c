/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "cli/cli.h"

int verb_forget(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *id = NULL;
        char path[64];

        int r = cli_id_argument(cli, argc, argv, &id, err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/released/%s", id);
        r = cli_call(cli, "DELETE", path, NULL, NULL, err);
        if (r < 0)
                return r;
        if (cli->json) {
                json_t *o = json_pack("{s:s}", "forgotten", id);
                r = cli_print_json(o, err);
                json_decref(o);
        } else
                (void)printf("forgotten\n");
        return r;
}
