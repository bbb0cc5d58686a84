/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "base/name.h"
#include "cli/client.h"

/*
 * The verbs of `phaul`: one file each. A verb gets its own arguments (argv[0] is its name), prints its result on stdout
 * and anything else on stderr, and returns its exit code, or a negative errno with *err filled: the exit code then
 * follows from err->kind.
 */
struct cli {
        struct client *client; /* made when first needed, see cli_connect() */
        const char *socket;
        bool json;
        bool verbose; /* migrate: all that is logged is told */
        FILE *log;    /* migrate: what is told is told here, too; NULL: nowhere */
};

struct verb {
        const char *name, *arguments, *summary;
        int (*run)(struct cli *cli, int argc, char **argv, struct error *err);
};
extern const struct verb verbs[]; /* ends with a NULL name */

int verb_bugreport(struct cli *cli, int argc, char **argv, struct error *err);
int verb_cancel(struct cli *cli, int argc, char **argv, struct error *err);
int verb_check(struct cli *cli, int argc, char **argv, struct error *err);
int verb_forget(struct cli *cli, int argc, char **argv, struct error *err);
int verb_hosts(struct cli *cli, int argc, char **argv, struct error *err);
int verb_list(struct cli *cli, int argc, char **argv, struct error *err);
int verb_migrate(struct cli *cli, int argc, char **argv, struct error *err);
int verb_pair(struct cli *cli, int argc, char **argv, struct error *err);
int verb_ps(struct cli *cli, int argc, char **argv, struct error *err);
int verb_receive(struct cli *cli, int argc, char **argv, struct error *err);
int verb_reconnect(struct cli *cli, int argc, char **argv, struct error *err);
int verb_show(struct cli *cli, int argc, char **argv, struct error *err);
int verb_unpair(struct cli *cli, int argc, char **argv, struct error *err);
int verb_watch(struct cli *cli, int argc, char **argv, struct error *err);

/* The whole program but main(). */
int cli_main(int argc, char **argv);

int cli_connect(struct cli *cli, struct error *err);

/* Connects and calls; see client_call(). */
int cli_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret,
             struct error *err);

/* A line with the time in front to `log`, in one write; NULL is fine. */
void cli_log(FILE *log, const char *text);

/* One JSON document on stdout. */
int cli_print_json(const json_t *value, struct error *err);

/*
 * Options of a verb, of the form --name, --name VALUE or --name=VALUE, anywhere between the other arguments; "--" ends
 * them. --json and --socket are known to all. What is left is moved to the front of argv; the number is checked.
 */
struct cli_option {
        const char *name;   /* without dashes; NULL ends the list */
        const char **value; /* for one that takes a value */
        bool *flag;         /* for one that does not */
};
int cli_options(struct cli *cli, int argc, char **argv, const struct cli_option *options, int min, int max,
                char ***ret_rest, int *ret_n, struct error *err);

/* ERROR_USAGE with a quoted text. */
int cli_check_host(const char *name, struct error *err);
int cli_check_id(const char *id, struct error *err);

/* For verbs without options of their own whose one argument is the id of a migration; *ret is part of argv. */
int cli_id_argument(struct cli *cli, int argc, char **argv, const char **ret, struct error *err);

/* A member that is a string; "" when it is not there. Control characters are the printer's business (cli_safe()). */
const char *cli_text(const json_t *object, const char *key);

/* What came from elsewhere, fit for a terminal: control characters escaped. `buffer` is returned. */
const char *cli_safe(const char *text, char *buffer, size_t size);
