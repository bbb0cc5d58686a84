/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli/cli.h"

#define FOLLOW_PATIENCE_MS 60000 /* for phauld to come back */
#define FOLLOW_DETACHED 130      /* the user went away; the migration goes on */

/*
 * Stay with a migration until it ends, or cannot go on without a person: progress on stderr, warnings of its log too.
 * That the other host does not answer is waited for. Ctrl-C cancels it, a second one leaves it alone. Survives a
 * restart of phauld. 0: *ret is the migration's document with its report; FOLLOW_DETACHED; negative: lost sight of it.
 */
int follow(struct cli *cli, const char *id, json_t **ret, struct error *err);

/* Prints the result as `migrate` does; the exit code. */
int follow_result(struct cli *cli, const json_t *migration, struct error *err);
