/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>

#include "cli/cli.h"
#include "cli/handoff.h"

int verb_reconnect(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *control_text = NULL, *data_text = NULL;
        const struct cli_option options[] = {{.name = "fd-control", .value = &control_text},
                                             {.name = "fd-data", .value = &data_text},
                                             {.name = NULL}};
        json_t *ticket = NULL;
        char **rest;
        int n, control, data;

        int r = cli_options(cli, argc, argv, options, 1, 1, &rest, &n, err);
        if (r == 0)
                r = cli_check_id(rest[0], err);
        if (r == 0)
                r = handoff_parse_pair(control_text, data_text, &control, &data, err);
        if (r == 0 && control < 0)
                r = error_set_kind(err, ERROR_USAGE, EINVAL, "reconnect needs --fd-control and --fd-data");
        if (r == 0)
                r = handoff_keep(cli, control, data, &ticket, err);
        if (r < 0)
                return r;
        json_t *body = json_pack("{s:s, s:o}", "id", rest[0], "descriptors", ticket);
        r = body ? cli_call(cli, "POST", "/reconnections", body, NULL, err) : error_set(err, ENOMEM, "out of memory");
        json_decref(body);
        return r;
}
