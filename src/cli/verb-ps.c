/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

struct tree {
        const json_t *processes;
        const char *filter;
        unsigned depth;
};

static bool matches(const json_t *process, const char *filter)
{
        return !filter || strcasestr(cli_text(process, "command"), filter) ||
               strcasestr(cli_text(process, "user"), filter);
}

static json_int_t number(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

static bool is_child(const json_t *process, json_int_t parent)
{
        return number(process, "ppid") == parent;
}

static bool has_parent(const json_t *processes, const json_t *process)
{
        json_t *other;
        size_t i;

        json_array_foreach(processes, i, other)
        {
                if (number(other, "pid") == number(process, "ppid"))
                        return true;
        }
        return false;
}

static void print_process(const json_t *p, unsigned indent)
{
        char command[160], user[64], memory[32];

        (void)printf("%*s%-8lld %-12s %9s  %s\n", (int)indent * 2, "", (long long)number(p, "pid"),
                     cli_safe(cli_text(p, "user"), user, sizeof(user)),
                     text_bytes((double)number(p, "memory_bytes"), memory, sizeof(memory)),
                     cli_safe(cli_text(p, "command"), command, sizeof(command)));
}

static void print_children(const struct tree *t, json_int_t parent, unsigned indent)
{
        json_t *p;
        size_t i;

        if (indent > 40)
                return;
        json_array_foreach(t->processes, i, p)
        {
                if (!is_child(p, parent) || number(p, "pid") == parent)
                        continue;
                if (matches(p, t->filter))
                        print_process(p, indent);
                print_children(t, number(p, "pid"), indent + (matches(p, t->filter) ? 1 : 0));
        }
}

static void print_tree(const json_t *processes, const char *filter, unsigned indent)
{
        const struct tree t = {.processes = processes, .filter = filter};
        json_t *p;
        size_t i;

        json_array_foreach(processes, i, p)
        {
                if (has_parent(processes, p))
                        continue;
                if (matches(p, filter))
                        print_process(p, indent);
                print_children(&t, number(p, "pid"), indent + (matches(p, filter) ? 1 : 0));
        }
}

static void print_workload(const json_t *w, const char *filter)
{
        const json_t *processes = json_object_get(w, "processes");
        char name[128], state[64], memory[32];
        double bytes = 0;
        json_t *p;
        size_t i;

        json_array_foreach(processes, i, p)
        {
                bytes += (double)number(p, "memory_bytes");
        }
        (void)snprintf(name, sizeof(name), "%s/%s", cli_text(w, "kind"), cli_text(w, "id"));
        (void)printf("%-28s %-10s %4zu processes %9s\n", name, cli_safe(cli_text(w, "state"), state, sizeof(state)),
                     json_array_size(processes), text_bytes(bytes, memory, sizeof(memory)));
        print_tree(processes, filter && !strcasestr(name, filter) ? filter : NULL, 1);
}

static bool workload_matches(const json_t *w, const char *filter)
{
        json_t *p;
        size_t i;

        if (!filter || strcasestr(cli_text(w, "id"), filter))
                return true;
        json_array_foreach(json_object_get(w, "processes"), i, p)
        {
                if (matches(p, filter))
                        return true;
        }
        return false;
}

static void print_inventory(const json_t *inventory, const char *kind, const char *filter)
{
        char text[512];
        json_t *item;
        size_t i;

        json_array_foreach(json_object_get(inventory, "warnings"), i, item)
        {
                (void)fprintf(stderr, "warning: %s\n", cli_safe(json_string_value(item) ?: "", text, sizeof(text)));
        }
        json_array_foreach(json_object_get(inventory, "workloads"), i, item)
        {
                if (workload_matches(item, filter))
                        print_workload(item, filter);
        }
        if (!kind || strcmp(kind, "pid") == 0)
                print_tree(json_object_get(inventory, "processes"), filter, 0);
}

int verb_ps(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *kind = NULL, *filter = NULL;
        const struct cli_option options[] = {
                {.name = "kind", .value = &kind}, {.name = "filter", .value = &filter}, {.name = NULL}};
        char **rest, path[512] = "/workloads", quoted[96];
        json_t *inventory = NULL;
        int n;

        int r = cli_options(cli, argc, argv, options, 0, 1, &rest, &n, err);
        if (r == 0 && kind && !kind_is_valid(kind))
                r = error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a kind of workload",
                                   name_quote(kind, quoted, sizeof(quoted)));
        if (r == 0 && n == 1)
                r = cli_check_host(rest[0], err);
        if (r == 0)
                r = cli_connect(cli, err);
        if (r < 0)
                return r;
        if (n == 1)
                r = client_query(cli->client, path, sizeof(path), "host", rest[0]);
        if (r == 0 && kind)
                r = client_query(cli->client, path, sizeof(path), "kind", kind);
        if (r == 0)
                r = cli_call(cli, "GET", path, NULL, &inventory, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(inventory, err);
        else
                print_inventory(inventory, kind, filter);
        json_decref(inventory);
        return r;
}
