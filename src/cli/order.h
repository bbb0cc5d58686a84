/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli/cli.h"

/* What `check` and `migrate` share. The body of the request, all names checked. */
int order_body(const char *workload, const char *host, const char *dst_id, json_t **ret, struct error *err);

/* Run the pre-flight and print it: the exit code. */
int order_check(struct cli *cli, const json_t *body, struct error *err);
