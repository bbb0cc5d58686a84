/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

static void field(const char *label, const char *text)
{
        char safe[ERROR_TEXT_MAX];

        if (*text)
                (void)printf("%-10s %s\n", label, cli_safe(text, safe, sizeof(safe)));
}

static void field_time(const char *label, const json_t *value)
{
        char when[32];

        if (json_is_integer(value))
                field(label, text_time(json_integer_value(value), when, sizeof(when)));
}

static void print_phases(const json_t *report)
{
        char duration[32], bytes[32];
        const json_t *phases = json_object_get(report, "phases");
        json_t *phase;
        size_t i;

        json_array_foreach(phases, i, phase)
        {
                (void)printf("%-10s %-12s %10s %10s\n", i == 0 ? "phases" : "", cli_text(phase, "name"),
                             text_duration(json_number_value(json_object_get(phase, "ms")), duration, sizeof(duration)),
                             text_bytes(json_number_value(json_object_get(phase, "bytes")), bytes, sizeof(bytes)));
        }
}

static void print(const json_t *m)
{
        const json_t *report = json_object_get(m, "report"), *log = json_object_get(m, "log");
        char line[ERROR_TEXT_MAX];
        json_t *text;
        size_t i;

        (void)snprintf(line, sizeof(line), "%s/%s %s -> %s", cli_text(m, "kind"), cli_text(m, "name"),
                       cli_text(m, "source"), cli_text(m, "target"));
        field("migration", cli_text(m, "id"));
        field("workload", line);
        field("state", cli_text(m, "state"));
        field("phase", cli_text(m, "phase"));
        field("result", cli_text(m, "result"));
        field("owner", cli_text(m, "owner"));
        field("reason", cli_text(m, "reason"));
        field_time("begun", json_object_get(m, "created_ms"));
        field_time("ended", json_object_get(m, "ended_ms"));
        if (json_is_object(report) && text_result_kind(report) == ERROR_NONE)
                field("summary", text_migrated(report, line, sizeof(line)));
        print_phases(report);
        json_array_foreach(log, i, text)
        {
                field(i == 0 ? "log" : "", json_string_value(text));
        }
}

int verb_show(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *id = NULL;
        char path[64];
        json_t *m = NULL;

        int r = cli_id_argument(cli, argc, argv, &id, err);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/migrations/%s", id);
        r = cli_call(cli, "GET", path, NULL, &m, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(m, err);
        else
                print(m);
        json_decref(m);
        return r;
}
