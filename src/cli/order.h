/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdio.h>

#include "cli/cli.h"

/*
 * What `check` and `migrate` share: KIND/ID, where to (HOST, ssh://…, --fd-control and --fd-data, which are handed to
 * phauld here), --dst-id and all options of a migration (migration/options.h), beside the verb's `own` ones. The body
 * of the request with everything checked in *ret.
 */
int order_parse(struct cli *cli, int argc, char **argv, const struct cli_option *own, json_t **ret, struct error *err);

/* The options of a migration, one line each, for people. */
void order_print_options(void);

/* Words of `text`, never beyond `width` (0: one line); `column` is where the line stands, `indent` where others begin.
 */
void order_print_wrapped(FILE *out, const char *text, unsigned width, unsigned column, unsigned indent);

/* Run the pre-flight and print it: the exit code. */
int order_check(struct cli *cli, const json_t *body, struct error *err);
