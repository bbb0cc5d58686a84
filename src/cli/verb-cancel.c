/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "cli/cli.h"

int verb_cancel(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *id = NULL;
        char path[64], text[512];
        json_t *answer = NULL;

        int r = cli_id_argument(cli, argc, argv, &id, err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/migrations/%s", id);
        r = cli_call(cli, "DELETE", path, NULL, &answer, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(answer, err);
        else
                (void)printf("%s\n", cli_safe(cli_text(answer, "text"), text, sizeof(text)));
        json_decref(answer);
        return r;
}
