/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/order.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int order_body(const char *workload, const char *host, const char *dst_id, json_t **ret, struct error *err)
{
        char kind[NAME_MAX_LENGTH + 1], id[NAME_MAX_LENGTH + 1];

        int r = workload_parse(workload, kind, id, err);
        if (r == 0)
                r = cli_check_host(host, err);
        if (r == 0 && dst_id)
                r = cli_check_host(dst_id, err);
        if (r < 0)
                return r;
        *ret = json_pack("{s:s, s:s, s:s, s:s*}", "kind", kind, "id", id, "host", host, "target_id", dst_id);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

static void print_items(const json_t *items)
{
        char id[128], host[128], reason[1024];
        json_t *item;
        size_t i;

        json_array_foreach(items, i, item)
        {
                (void)printf("%-8s %-12s %-12s %s\n", cli_text(item, "grade"),
                             cli_safe(cli_text(item, "id"), id, sizeof(id)),
                             cli_safe(cli_text(item, "host"), host, sizeof(host)),
                             cli_safe(cli_text(item, "reason"), reason, sizeof(reason)));
        }
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
