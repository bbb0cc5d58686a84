/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/order.h"

static int verb_help(struct cli *cli, int argc, char **argv, struct error *err);
static int verb_version(struct cli *cli, int argc, char **argv, struct error *err);

const struct verb verbs[] = {
        {"ps", "[HOST] [--kind KIND] [--filter TEXT]", "containers and processes that can be migrated", verb_ps},
        {"hosts", "", "paired hosts and their state", verb_hosts},
        {"pair", "--offer | ADDRESS[:PORT] [--name NAME] --code-file FILE|-", "pair with another host", verb_pair},
        {"unpair", "HOST", "trust a host no longer", verb_unpair},
        {"check", "KIND/ID HOST|ssh://[USER@]HOST[:PORT] [OPTION]...", "would a migration work? Touches nothing",
         verb_check},
        {"migrate", "KIND/ID HOST|ssh://[USER@]HOST[:PORT] [OPTION]...", "migrate, while it runs or by a restart",
         verb_migrate},
        {"receive", "--stdio | --fd-control N --fd-data N", "the far half of a migration over ssh or descriptors",
         verb_receive},
        {"reconnect", "ID --fd-control N --fd-data N", "new descriptors for a migration that has lost its own",
         verb_reconnect},
        {"list", "[--limit N]", "migrations, the youngest first", verb_list},
        {"show", "ID", "one migration, with its log", verb_show},
        {"watch", "[ID]", "events as they happen, or one migration until its end", verb_watch},
        {"cancel", "ID", "take a migration back, until it is committed", verb_cancel},
        {"forget", "ID", "remove what a migrated container left behind here", verb_forget},
        {"bugreport", "[--output FILE|-]", "gather what helps to understand a failure, without secrets",
         verb_bugreport},
        {"version", "", "version of this program and of phauld", verb_version},
        {"help", "[VERB]", "this text", verb_help},
        {NULL, NULL, NULL, NULL},
};

static const char dst_id_option[] = "  --dst-id NAME          name on the other host (default: the same)\n"
                                    "  --fd-control N, --fd-data N  instead of HOST: open sockets to `phaul receive`\n";
static const char migrate_options[] = "  --dry-run              only check\n"
                                      "  --detach               print the id and do not wait\n"
                                      "  --log-file FILE        append what is told to FILE, too\n";

static const struct verb *find_verb(const char *name)
{
        for (const struct verb *v = verbs; v->name; v++)
                if (strcmp(v->name, name) == 0)
                        return v;
        return NULL;
}

static void print_usage(FILE *out)
{
        (void)fputs("Usage: phaul [--socket PATH] VERB [ARGUMENT]...\n"
                    "Live migration of containers and process trees between hosts. Every verb knows --json.\n\n",
                    out);
        for (const struct verb *v = verbs; v->name; v++)
                (void)fprintf(out, "  %-9s %s\n", v->name, v->summary);
        (void)fputs("\n`phaul help VERB` and phaul(1) tell more.\n", out);
}

static int verb_help(struct cli *cli, int argc, char **argv, struct error *err)
{
        char **rest, quoted[96];
        int n;

        int r = cli_options(cli, argc, argv, NULL, 0, 1, &rest, &n, err);
        if (r < 0)
                return r;
        if (n == 0) {
                print_usage(stdout);
                return 0;
        }
        const struct verb *v = find_verb(rest[0]);
        if (!v)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "there is no verb '%s'",
                                      name_quote(rest[0], quoted, sizeof(quoted)));
        (void)printf("Usage: phaul %s %s\n%s.\n", v->name, v->arguments, v->summary);
        if (v->run == verb_migrate || v->run == verb_check) {
                (void)printf("\nOptions:\n%s%s", dst_id_option, v->run == verb_migrate ? migrate_options : "");
                order_print_options();
        }
        return 0;
}

static int verb_version(struct cli *cli, int argc, char **argv, struct error *err)
{
        struct error ignored = {0};
        json_t *host = NULL;
        char **rest;
        int n;

        int r = cli_options(cli, argc, argv, NULL, 0, 0, &rest, &n, err);
        if (r < 0)
                return r;
        (void)cli_call(cli, "GET", "/host", NULL, &host, &ignored);
        const char *version = host ? cli_text(host, "version") : NULL;
        if (cli->json) {
                json_t *o = json_pack("{s:s, s:s?}", "phaul", PHAUL_VERSION, "phauld", version);
                r = cli_print_json(o, err);
                json_decref(o);
        } else
                (void)printf("phaul %s\nphauld %s\n", PHAUL_VERSION, version ? version : "not running");
        json_decref(host);
        return r;
}

/* -- what verbs use ----------------------------------------------------------------------------------------------- */

int cli_connect(struct cli *cli, struct error *err)
{
        return cli->client ? 0 : client_new(cli->socket, &cli->client, err);
}

int cli_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret, struct error *err)
{
        int r = cli_connect(cli, err);

        return r < 0 ? r : client_call(cli->client, method, path, body, NULL, ret, err);
}

int cli_print_json(const json_t *value, struct error *err)
{
        if (!value || json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER) < 0)
                return error_set(err, ENOMEM, "cannot print the result");
        (void)putchar('\n');
        return 0;
}

void cli_log(FILE *log, const char *text)
{
        char line[ERROR_TEXT_MAX * 2], stamp[32];
        struct tm utc;
        time_t now = time(NULL);

        if (!log || !gmtime_r(&now, &utc) || strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
                return;
        (void)fprintf(log, "%s %s\n", stamp, cli_safe(text, line, sizeof(line)));
        (void)fflush(log);
}

static const struct cli_option *find_option(const struct cli_option *options, const char *name, size_t n)
{
        for (; options && options->name; options++)
                if (strlen(options->name) == n && strncmp(options->name, name, n) == 0)
                        return options;
        return NULL;
}

/* One "--…" at argv[*at]; moves on over its value. */
static int take_option(const struct cli_option *own, const struct cli_option *common, int argc, char **argv, int *at,
                       struct error *err)
{
        const char *name = argv[*at] + 2, *equals = strchr(name, '=');
        size_t n = equals ? (size_t)(equals - name) : strlen(name);
        const struct cli_option *o = find_option(own, name, n);
        char quoted[96];

        if (!o)
                o = find_option(common, name, n);
        (void)name_quote(argv[*at], quoted, sizeof(quoted));
        if (!o)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s: unknown option '%s'", argv[0], quoted);
        if (o->flag) {
                if (equals)
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "%s: --%s takes no value", argv[0], o->name);
                *o->flag = true;
                return 0;
        }
        if (!equals && *at + 1 >= argc)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s: --%s needs a value", argv[0], o->name);
        *o->value = equals ? equals + 1 : argv[++*at];
        return 0;
}

int cli_options(struct cli *cli, int argc, char **argv, const struct cli_option *options, int min, int max,
                char ***ret_rest, int *ret_n, struct error *err)
{
        const struct cli_option common[] = {
                {.name = "json", .flag = &cli->json}, {.name = "socket", .value = &cli->socket}, {.name = NULL}};
        int n = 0;
        bool ended = false;

        for (int i = 1; i < argc; i++) {
                if (!ended && strcmp(argv[i], "--") == 0)
                        ended = true;
                else if (!ended && strncmp(argv[i], "--", 2) == 0) {
                        int r = take_option(options, common, argc, argv, &i, err);
                        if (r < 0)
                                return r;
                } else
                        argv[1 + n++] = argv[i];
        }
        if (n < min || n > max) {
                const struct verb *v = find_verb(argv[0]);
                return error_set_kind(err, ERROR_USAGE, EINVAL, "usage: phaul %s %s", argv[0], v ? v->arguments : "");
        }
        *ret_rest = argv + 1;
        *ret_n = n;
        return 0;
}

int cli_check_host(const char *name, struct error *err)
{
        char quoted[160];

        if (name_is_valid(name))
                return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL,
                              "'%s' is not a valid name: 1 to %d of letters, digits, '_', '.', '-', starting with a "
                              "letter or digit",
                              name_quote(name, quoted, sizeof(quoted)), NAME_MAX_LENGTH);
}

int cli_check_id(const char *id, struct error *err)
{
        char quoted[160];

        if (id_is_valid(id))
                return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a migration id: %d hexadecimal digits",
                              name_quote(id, quoted, sizeof(quoted)), ID_LENGTH);
}

int cli_id_argument(struct cli *cli, int argc, char **argv, const char **ret, struct error *err)
{
        char **rest;
        int n;

        int r = cli_options(cli, argc, argv, NULL, 1, 1, &rest, &n, err);
        if (r == 0)
                r = cli_check_id(rest[0], err);
        if (r == 0)
                *ret = rest[0];
        return r;
}

const char *cli_text(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));

        return text ? text : "";
}

const char *cli_safe(const char *text, char *buffer, size_t size)
{
        size_t used = 0;

        for (; *text && used + 5 < size; text++) {
                unsigned char c = (unsigned char)*text;
                if (c < ' ' || c == 0x7f)
                        used += (size_t)snprintf(buffer + used, 5, "\\x%02x", c);
                else
                        buffer[used++] = (char)c;
        }
        buffer[used] = '\0';
        return buffer;
}

/* -- the program -------------------------------------------------------------------------------------------------- */

/* Errors may have several lines; each is said to be ours. */
static void print_error(const struct cli *cli, const struct error *err)
{
        char line[ERROR_TEXT_MAX * 2], copy[ERROR_TEXT_MAX];

        (void)snprintf(copy, sizeof(copy), "%s", err->text);
        for (char *save = NULL, *part = strtok_r(copy, "\n", &save); part; part = strtok_r(NULL, "\n", &save)) {
                cli_log(cli->log, part);
                (void)fprintf(stderr, "phaul: %s\n", cli_safe(part, line, sizeof(line)));
        }
}

int cli_main(int argc, char **argv)
{
        struct cli cli = {.socket = CLIENT_SOCKET_DEFAULT};
        struct error err = {0};
        char quoted[96];
        int first = 1;

        for (; first < argc && strncmp(argv[first], "--", 2) == 0; first++) {
                if (strcmp(argv[first], "--json") == 0)
                        cli.json = true;
                else if (strcmp(argv[first], "--socket") == 0 && first + 1 < argc)
                        cli.socket = argv[++first];
                else if (strcmp(argv[first], "--help") == 0)
                        argv[first] = (char *)"help";
                else if (strcmp(argv[first], "--version") == 0)
                        argv[first] = (char *)"version";
                else
                        break;
                if (argv[first][0] != '-' && (strcmp(argv[first], "help") == 0 || strcmp(argv[first], "version") == 0))
                        break;
        }
        if (first >= argc) {
                print_usage(stderr);
                return error_exit_code(ERROR_USAGE);
        }
        for (int i = first + 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--help") == 0 && find_verb(argv[first])) {
                        char *help[] = {(char *)"help", argv[first], NULL};
                        return verb_help(&cli, 2, help, &err) < 0 ? 1 : 0;
                }
        const struct verb *v = find_verb(argv[first]);
        int r = v ? v->run(&cli, argc - first, argv + first, &err)
                  : error_set_kind(&err, ERROR_USAGE, EINVAL, "there is no verb '%s'; `phaul help` lists them",
                                   name_quote(argv[first], quoted, sizeof(quoted)));
        client_free(cli.client);
        if (r < 0) {
                if (err.kind == ERROR_NONE)
                        (void)error_set(&err, -r, "%s", strerrordesc_np(-r));
                print_error(&cli, &err);
                r = error_exit_code(err.kind);
        }
        if (cli.log && fclose(cli.log) != 0)
                (void)fprintf(stderr, "phaul: not all could be written to the log file\n");
        if (err.kind != ERROR_NONE)
                return r;
        if (fflush(stdout) != 0) {
                (void)fprintf(stderr, "phaul: cannot write the result\n");
                return 1;
        }
        return r;
}
