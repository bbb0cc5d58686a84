/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int verb_hosts(struct cli *cli, int argc, char **argv, struct error *err)
{
        char **rest, address[280], text[600];
        json_t *list = NULL, *host;
        size_t i;
        int n;

        int r = cli_options(cli, argc, argv, NULL, 0, 0, &rest, &n, err);
        if (r == 0)
                r = cli_call(cli, "GET", "/hosts", NULL, &list, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(list, err);
        else if (json_array_size(list) == 0)
                (void)fprintf(stderr, "no host is paired with this one; `phaul pair` does that\n");
        else {
                (void)printf("%-20s %-12s %-28s %s\n", "HOST", "STATE", "ADDRESS", "");
                json_array_foreach(list, i, host)
                {
                        const char *at = cli_text(host, "address");
                        (void)snprintf(address, sizeof(address), strchr(at, ':') ? "[%s]:%lld" : "%s:%lld", at,
                                       (long long)json_integer_value(json_object_get(host, "port")));
                        (void)printf("%-20s %-12s %-28s %s\n", cli_text(host, "name"), cli_text(host, "state"), address,
                                     cli_safe(cli_text(host, "reason"), text, sizeof(text)));
                }
        }
        json_decref(list);
        return r;
}
