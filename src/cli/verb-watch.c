/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/text.h"

#define LOOK_MS 1000

struct watch {
        struct cli *cli;
        bool one, ended;      /* one migration only; it has ended */
        enum error_kind kind; /* how, when it ended */
};

/* Each event as a line; with --json as a document of its own on a line. */
static void print_event(const struct stream_event *event, void *context)
{
        struct watch *w = context;
        char *text;

        if (strcmp(event->name, "migration.result") == 0) {
                w->ended = w->one;
                w->kind = text_result_kind(event->data);
        }
        if (w->cli->json) {
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

/* The end may have come before the stream was open: then no event will tell. */
static int look_whether_ended(struct watch *w, const char *path, struct error *err)
{
        json_t *migration = NULL;

        int r = cli_call(w->cli, "GET", path, NULL, &migration, err);
        if (r == 0 && strcmp(cli_text(migration, "state"), "ended") == 0) {
                w->ended = true;
                w->kind = text_result_kind(json_object_get(migration, "report"));
        }
        json_decref(migration);
        return r;
}

/* Of one migration until it ends, of all (NULL) until Ctrl-C ends the program. `path` is asked whether it goes on. */
static int watch_events(struct cli *cli, const char *id, const char *path, struct error *err)
{
        CLEANUP(stream_free_ptr) struct stream *stream = NULL;
        struct watch w = {.cli = cli, .one = id != NULL};
        json_t *first = NULL;

        int r = cli_call(cli, "GET", path, NULL, &first, err);
        json_decref(first);
        if (r == 0)
                r = stream_open(cli->client, id, print_event, &w, &stream, err);
        while (r == 0 && !w.ended) {
                if (stream_wait(stream, -1, LOOK_MS) < 0) {
                        (void)poll(NULL, 0, 500);
                        r = stream_reopen(stream);
                } else if (ferror(stdout)) {
                        return error_set(err, EPIPE, "nobody reads any more");
                } else if (id && !w.ended) {
                        r = look_whether_ended(&w, path, err);
                }
        }
        return r < 0 ? r : error_exit_code(w.kind);
}

int verb_watch(struct cli *cli, int argc, char **argv, struct error *err)
{
        json_t *migration = NULL;
        char **rest, path[64];
        int n;

        int r = cli_options(cli, argc, argv, NULL, 0, 1, &rest, &n, err);
        if (r == 0 && n == 0)
                return watch_events(cli, NULL, "/host", err);
        if (r == 0)
                r = cli_check_id(rest[0], err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/migrations/%s", rest[0]);
        r = cli_call(cli, "GET", path, NULL, &migration, err);
        bool ended = r == 0 && strcmp(cli_text(migration, "state"), "ended") == 0;
        if (r == 0 && !ended && cli->json) {
                r = watch_events(cli, rest[0], path, err);
        } else {
                if (r == 0 && !ended) {
                        json_decref(migration);
                        migration = NULL;
                        r = follow(cli, rest[0], &migration, err);
                }
                if (r == 0)
                        r = follow_result(cli, migration, err);
        }
        json_decref(migration);
        return r;
}
