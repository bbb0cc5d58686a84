/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

static void print_one(const json_t *m)
{
        char when[32], what[128], route[160];
        const char *result = cli_text(m, "result"), *state = cli_text(m, "state");

        (void)snprintf(what, sizeof(what), "%s/%s", cli_text(m, "kind"), cli_text(m, "name"));
        (void)snprintf(route, sizeof(route), "%s -> %s", cli_text(m, "source"), cli_text(m, "target"));
        (void)printf("%s  %s  %-20s %-24s %s\n", cli_text(m, "id"),
                     text_time(json_integer_value(json_object_get(m, "created_ms")), when, sizeof(when)), what, route,
                     *result ? result : state);
}

int verb_list(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *limit = NULL;
        const struct cli_option options[] = {{.name = "limit", .value = &limit}, {.name = NULL}};
        char **rest, path[64];
        json_t *list = NULL, *m;
        int64_t count = 20;
        size_t i;
        int n;

        int r = cli_options(cli, argc, argv, options, 0, 0, &rest, &n, err);
        if (r == 0 && limit)
                r = text_parse_number("--limit", limit, 1, 1000, &count, err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/migrations?limit=%lld", (long long)count);
        r = cli_call(cli, "GET", path, NULL, &list, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(list, err);
        else
                json_array_foreach(list, i, m)
                {
                        print_one(m);
                }
        json_decref(list);
        return r;
}
