/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/follow.h"

/* Each event as a line; with --json as a document of its own on a line. */
static void print_event(const struct stream_event *event, void *context)
{
        const struct cli *cli = context;
        char *text;

        if (cli->json) {
                json_t *o = json_pack("{s:s, s:O}", "event", event->name, "data", event->data);
                text = o ? json_dumps(o, JSON_COMPACT) : NULL;
                json_decref(o);
                if (text)
                        (void)printf("%s\n", text);
        } else {
                text = json_dumps(event->data, JSON_COMPACT | JSON_PRESERVE_ORDER);
                if (text)
                        (void)printf("%-20s %s\n", event->name, text);
        }
        free(text);
        (void)fflush(stdout);
}

/* For ever, until Ctrl-C ends the program. */
static int watch_all(struct cli *cli, struct error *err)
{
        CLEANUP(stream_free_ptr) struct stream *stream = NULL;
        json_t *host = NULL;

        int r = cli_call(cli, "GET", "/host", NULL, &host, err);
        json_decref(host);
        if (r == 0)
                r = stream_open(cli->client, NULL, print_event, cli, &stream, err);
        while (r == 0) {
                if (stream_wait(stream, -1, 60000) == 0 && !ferror(stdout))
                        continue;
                if (ferror(stdout))
                        return error_set(err, EPIPE, "nobody reads any more");
                (void)poll(NULL, 0, 500);
                r = stream_reopen(stream);
        }
        return r;
}

int verb_watch(struct cli *cli, int argc, char **argv, struct error *err)
{
        json_t *migration = NULL;
        char **rest, path[64];
        int n;

        int r = cli_options(cli, argc, argv, NULL, 0, 1, &rest, &n, err);
        if (r == 0 && n == 0)
                return watch_all(cli, err);
        if (r == 0)
                r = cli_check_id(rest[0], err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/migrations/%s", rest[0]);
        r = cli_call(cli, "GET", path, NULL, &migration, err);
        if (r == 0 && strcmp(cli_text(migration, "state"), "ended") != 0) {
                json_decref(migration);
                migration = NULL;
                r = follow(cli, rest[0], &migration, err);
        }
        if (r == 0)
                r = follow_result(cli, migration, err);
        json_decref(migration);
        return r;
}
