/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/order.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/ssh_address.h"
#include "cli/handoff.h"
#include "cli/text.h"
#include "migration/options.h"

#define OPTIONS_MAX 48
#define OWN_MAX 12 /* options of ours and of the verb */
#define FLAG_MAX 32

/* What stands on the command line beside the options of a migration; NULL: does not. */
struct order_words {
        const char *workload, *host, *dst_id, *control, *data;
};

/* What the command line said of each option of the table. */
struct said {
        char flag[FLAG_MAX];
        const char *text;
        bool is_set;
};

static int value_of(const struct option_info *info, const struct said *said, json_t **ret, struct error *err)
{
        char flag[FLAG_MAX + 2];
        int64_t n = 0;
        int r = 0;

        (void)snprintf(flag, sizeof(flag), "--%.*s", FLAG_MAX - 1, said->flag);
        if (info->type == OPTION_FLAG) {
                *ret = json_true();
        } else if (info->type == OPTION_NUMBER) {
                r = text_parse_number(flag, said->text, (int64_t)info->min, (int64_t)info->max, &n, err);
                *ret = r == 0 ? json_integer(n) : NULL;
        } else if (info->type == OPTION_RATE) {
                r = text_parse_rate(said->text, &n, err);
                *ret = r == 0 ? json_integer(n) : NULL;
        } else {
                *ret = json_string(said->text);
                if (!*ret)
                        r = error_set_kind(err, ERROR_USAGE, EINVAL, "%s: not UTF-8", flag);
        }
        return r;
}

static int collect(const struct said *said, const char *kind, json_t **ret, struct error *err)
{
        struct migration_options checked;
        json_t *options = json_object();
        int r = options ? 0 : error_set(err, ENOMEM, "out of memory");

        for (size_t i = 0; r == 0 && migration_option_table[i].key; i++) {
                const struct option_info *info = &migration_option_table[i];
                json_t *value = NULL;
                if (!said[i].text && !said[i].is_set)
                        continue;
                r = value_of(info, &said[i], &value, err);
                if (r == 0 && json_object_set_new(options, info->key, value) < 0)
                        r = error_set(err, ENOMEM, "out of memory");
        }
        if (r == 0)
                r = migration_options_parse(options, kind, &checked, err);
        if (r < 0)
                json_decref(options);
        else
                *ret = options;
        return r;
}

/* ssh runs as us, so our agent is ours to offer. */
static int ssh_way(const char *text, json_t **ret, struct error *err)
{
        struct ssh_address address;
        const char *agent = getenv("SSH_AUTH_SOCK");

        int r = ssh_address_parse(text, &address, err);
        if (r < 0)
                return r;
        if (agent && (agent[0] != '/' || strlen(agent) > SSH_AGENT_MAX))
                agent = NULL;
        *ret = json_pack("{s:s, s:s*, s:s*}", "host", address.host, "user", address.user[0] ? address.user : NULL,
                         "agent", agent);
        if (*ret && address.port)
                (void)json_object_set_new(*ret, "port", json_integer(address.port));
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* Where to: under which key of the request, and what. */
static int find_way(const struct cli *cli, const struct order_words *words, const char **ret_key, json_t **ret,
                    struct error *err)
{
        int control, data;

        int r = handoff_parse_pair(words->control, words->data, &control, &data, err);
        if (r < 0)
                return r;
        if ((control >= 0) == (words->host != NULL))
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      control >= 0 ? "a host and descriptors that lead to one exclude each other"
                                                   : "where to? HOST, ssh://HOST, or --fd-control and --fd-data");
        if (control >= 0) {
                *ret_key = "descriptors";
                return handoff_keep(cli, control, data, ret, err);
        }
        if (strncmp(words->host, SSH_SCHEME, sizeof(SSH_SCHEME) - 1) == 0) {
                *ret_key = "ssh";
                return ssh_way(words->host, ret, err);
        }
        r = cli_check_host(words->host, err);
        if (r < 0)
                return r;
        *ret_key = "host";
        *ret = json_string(words->host);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int body_of(const struct cli *cli, const struct order_words *words, const struct said *said, json_t **ret,
                   struct error *err)
{
        char kind[NAME_MAX_LENGTH + 1], id[NAME_MAX_LENGTH + 1];
        json_t *options = NULL, *way = NULL;
        const char *key = NULL;

        int r = workload_parse(words->workload, kind, id, err);
        if (r == 0 && words->dst_id)
                r = cli_check_host(words->dst_id, err);
        if (r == 0)
                r = collect(said, kind, &options, err);
        if (r == 0)
                r = find_way(cli, words, &key, &way, err);
        if (r < 0) {
                json_decref(options);
                return r;
        }
        *ret = json_pack("{s:s, s:s, s:o, s:s*, s:o}", "kind", kind, "id", id, key, way, "target_id", words->dst_id,
                         "options", options);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

int order_parse(struct cli *cli, int argc, char **argv, const struct cli_option *own, json_t **ret, struct error *err)
{
        struct said said[OPTIONS_MAX] = {0};
        struct cli_option options[OPTIONS_MAX + OWN_MAX];
        struct order_words words = {0};
        char **rest;
        size_t n = 0;
        int n_rest;

        options[n++] = (struct cli_option){.name = "dst-id", .value = &words.dst_id};
        options[n++] = (struct cli_option){.name = "fd-control", .value = &words.control};
        options[n++] = (struct cli_option){.name = "fd-data", .value = &words.data};
        for (; own && own->name && n < OWN_MAX; own++)
                options[n++] = *own;
        for (size_t i = 0; migration_option_table[i].key && i < OPTIONS_MAX - 1; i++) {
                const struct option_info *info = &migration_option_table[i];
                struct cli_option *o = &options[n++];
                *o = (struct cli_option){.name = migration_option_flag(info, said[i].flag, sizeof(said[i].flag))};
                if (info->type == OPTION_FLAG)
                        o->flag = &said[i].is_set;
                else
                        o->value = &said[i].text;
        }
        options[n] = (struct cli_option){.name = NULL};

        int r = cli_options(cli, argc, argv, options, 1, 2, &rest, &n_rest, err);
        if (r < 0)
                return r;
        words.workload = rest[0];
        words.host = n_rest > 1 ? rest[1] : NULL;
        return body_of(cli, &words, said, ret, err);
}

void order_print_options(void)
{
        char flag[FLAG_MAX], left[64];

        for (const struct option_info *info = migration_option_table; info->key; info++) {
                (void)snprintf(left, sizeof(left), "--%s%s%s", migration_option_flag(info, flag, sizeof(flag)),
                               info->argument ? " " : "", info->argument ? info->argument : "");
                (void)printf("  %-22s %s%s%s%s\n", left, info->help, info->kinds ? " (" : "",
                             info->kinds ? info->kinds : "", info->kinds ? ")" : "");
        }
}

#define ITEM_COLUMN 36 /* where reasons begin: "warning  " and two names of 12 or more */

/* Width of the terminal, 0 when it is none: then every item is one line, for programs that look for it. */
static unsigned terminal_width(void)
{
        struct winsize size;

        if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < ITEM_COLUMN + 24)
                return 0;
        return size.ws_col;
}

static void print_item(const json_t *item, unsigned width)
{
        char id[128], host[128], text[4096], reason[4096];
        int column =
                printf("%-8s %-13s %-12s ", cli_text(item, "grade"), cli_safe(cli_text(item, "id"), id, sizeof(id)),
                       cli_safe(cli_text(item, "host"), host, sizeof(host)));

        (void)snprintf(text, sizeof(text), "%s", cli_text(item, "reason"));
        for (char *c = text; *c; c++)
                if (*c == '\n') /* lines of CRIU's */
                        *c = ' ';
        if (json_is_true(json_object_get(item, "forcible")))
                (void)strncat(text, " (--force goes on all the same)", sizeof(text) - strlen(text) - 1);
        (void)cli_safe(text, reason, sizeof(reason));
        order_print_wrapped(stdout, reason, width, (unsigned)(column > 0 ? column : 0), ITEM_COLUMN);
}

void order_print_wrapped(FILE *out, const char *text, unsigned width, unsigned column, unsigned indent)
{
        bool first = true;

        while (*text) {
                size_t n = strcspn(text, " ");
                if (!first && width && column + 1 + n > width) {
                        (void)fprintf(out, "\n%*s", (int)indent, "");
                        column = indent;
                } else if (!first) {
                        (void)fputc(' ', out);
                        column++;
                }
                (void)fprintf(out, "%.*s", (int)n, text);
                column += (unsigned)n;
                text += n + strspn(text + n, " ");
                first = false;
        }
        (void)fputc('\n', out);
}

/* What stands in the way first, then what may matter. */
static void print_items(const json_t *items)
{
        static const char *const grades[] = {"error", "warning", "ok"};
        const unsigned width = terminal_width();
        const json_t *item;
        size_t i;

        for (size_t g = 0; g < sizeof(grades) / sizeof(grades[0]); g++)
                json_array_foreach((json_t *)items, i, item) if (strcmp(cli_text(item, "grade"), grades[g]) == 0)
                        print_item(item, width);
}

int order_check(struct cli *cli, const json_t *body, struct error *err)
{
        json_t *answer = NULL;

        int r = cli_call(cli, "POST", "/checks", body, &answer, err);
        if (r < 0)
                return r;
        if (cli->json) {
                (void)json_object_del(answer, "id");
                r = cli_print_json(answer, err);
        } else
                print_items(json_object_get(answer, "items"));
        bool refused = strcmp(cli_text(answer, "verdict"), "error") == 0;
        json_decref(answer);
        return r < 0 ? r : refused ? error_exit_code(ERROR_REFUSED) : 0;
}
