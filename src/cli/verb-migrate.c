/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/order.h"

/* With a key of its own, so that asking again after a lost answer cannot start it twice. */
static int order(struct cli *cli, const json_t *body, json_t **ret, struct error *err)
{
        char key[ID_LENGTH + 1];

        int r = id_new(key);
        if (r < 0)
                return error_errno(err, -r, "no random numbers");
        r = cli_connect(cli, err);
        if (r == 0)
                r = client_call(cli->client, "POST", "/migrations", body, key, ret, err);
        if (r == -ECONNRESET) {
                error_clear(err);
                r = client_call(cli->client, "POST", "/migrations", body, key, ret, err);
        }
        return r;
}

static int migrate(struct cli *cli, const json_t *body, bool detach, struct error *err)
{
        json_t *migration = NULL;
        char id[ID_LENGTH + 1];

        int r = order(cli, body, &migration, err);
        if (r < 0)
                return r;
        (void)snprintf(id, sizeof(id), "%s", cli_text(migration, "id"));
        if (detach) {
                if (cli->json)
                        r = cli_print_json(migration, err);
                else
                        (void)printf("%s\n", id);
                json_decref(migration);
                return r;
        }
        json_decref(migration);
        r = follow(cli, id, &migration, err);
        if (r != 0)
                return r;
        r = follow_result(cli, migration, err);
        json_decref(migration);
        return r;
}

static int tell_more(struct cli *cli, const json_t *body, const char *log_file, struct error *err)
{
        cli->verbose = json_is_true(json_object_get(json_object_get(body, "options"), "verbose"));
        if (!log_file)
                return 0;
        int fd = open(log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        cli->log = fd >= 0 ? fdopen(fd, "a") : NULL;
        if (cli->log)
                return 0;
        int r = error_set_kind(err, ERROR_USAGE, errno, "cannot write to the log file %s: %s", log_file,
                               strerrordesc_np(errno));
        if (fd >= 0)
                (void)close(fd);
        return r;
}

int verb_migrate(struct cli *cli, int argc, char **argv, struct error *err)
{
        bool detach = false, dry = false;
        const char *log_file = NULL;
        const struct cli_option own[] = {
                {.name = "detach", .flag = &detach},
                {.name = "dry-run", .flag = &dry},
                {.name = "log-file", .value = &log_file},
                {.name = NULL},
        };
        json_t *body = NULL;

        int r = order_parse(cli, argc, argv, own, &body, err);
        if (r == 0)
                r = tell_more(cli, body, log_file, err);
        if (r == 0)
                r = dry ? order_check(cli, body, err) : migrate(cli, body, detach, err);
        json_decref(body);
        return r;
}
