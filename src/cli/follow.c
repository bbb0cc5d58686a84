/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/progress.h"
#include "cli/text.h"

#define LOOK_MS 5000 /* how often to ask, in case an event was missed */
#define RETRY_MS 300
#define WAITING "waiting" /* a state of the migration, told like a phase */

struct follower {
        struct cli *cli;
        const char *id;
        struct meter meter;
        struct stream *stream;
        bool look_now;    /* an event says that the document is worth a look */
        uint64_t lost_ms; /* since when phauld is gone; 0: it is there */
        uint64_t looked_ms;
        unsigned interrupts;
        json_t *document;
};

/* For whoever comes late. It goes on by itself when the other host answers, so we wait, however long that takes. */
static void is_waiting(struct follower *f, const char *why)
{
        if (strcmp(f->meter.phase, WAITING) == 0)
                return;
        meter_note(&f->meter, why);
        meter_phase(&f->meter, WAITING);
}

static void on_event(const struct stream_event *event, void *context)
{
        struct follower *f = context;
        const char *level = cli_text(event->data, "level");

        if (strcmp(event->name, "migration.progress") == 0)
                meter_progress(&f->meter, event->data);
        else if (strcmp(event->name, "migration.state") == 0) {
                const char *state = cli_text(event->data, "state");
                /* Why is in its log, which has been told. */
                meter_phase(&f->meter, strcmp(state, WAITING) == 0 ? WAITING : cli_text(event->data, "phase"));
                f->look_now |= strcmp(state, "attention") == 0;
        } else if (strcmp(event->name, "migration.log") == 0) {
                if (f->cli->verbose || strcmp(level, "warning") == 0 || strcmp(level, "error") == 0)
                        meter_note(&f->meter, cli_text(event->data, "text"));
        } else if (strcmp(event->name, "migration.result") == 0 || strcmp(event->name, "gap") == 0)
                f->look_now = true;
}

/* 1: it has ended (or stands still until a person does something), 0 it goes on, negative: phauld cannot be asked. */
static int look(struct follower *f, struct error *err)
{
        char path[64];
        json_t *document = NULL;

        (void)snprintf(path, sizeof(path), "/migrations/%s", f->id);
        f->look_now = false;
        f->looked_ms = clock_ms();
        int r = cli_call(f->cli, "GET", path, NULL, &document, err);
        if (r < 0)
                return r;
        json_decref(f->document);
        f->document = document;
        const char *state = cli_text(document, "state");
        if (strcmp(state, WAITING) == 0)
                is_waiting(f, cli_text(document, "reason"));
        return strcmp(state, "ended") == 0 || strcmp(state, "attention") == 0;
}

static bool is_away(int r)
{
        return r == -ECONNREFUSED || r == -ECONNRESET;
}

/* phauld does not answer: 0 to wait on, negative when that has been long enough. */
static int away(struct follower *f, struct error *err)
{
        uint64_t now = clock_ms();

        if (!f->lost_ms) {
                f->lost_ms = now;
                meter_note(&f->meter, "phauld does not answer; the migration goes on without it, waiting");
        }
        if (now - f->lost_ms < FOLLOW_PATIENCE_MS) {
                error_clear(err);
                return 0;
        }
        return error_wrap(err, "lost sight of migration %s", f->id);
}

static void interrupt(struct follower *f)
{
        struct error err = {0};
        char path[64], note[ERROR_TEXT_MAX + 64];

        f->interrupts++;
        if (f->interrupts > 1)
                return;
        (void)snprintf(path, sizeof(path), "/migrations/%s", f->id);
        if (cli_call(f->cli, "DELETE", path, NULL, NULL, &err) == 0)
                (void)snprintf(note, sizeof(note), "cancelling; Ctrl-C again leaves it alone");
        else
                (void)snprintf(note, sizeof(note), "cannot cancel: %s; Ctrl-C again leaves it alone", err.text);
        meter_note(&f->meter, note);
        f->look_now = true;
}

static void take_signals(struct follower *f, int signals)
{
        struct signalfd_siginfo info;

        while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
                interrupt(f);
}

/* One round: 1 ended, 0 go on, negative failed. */
static int round_of(struct follower *f, int signals, struct error *err)
{
        if (f->look_now || f->lost_ms || clock_ms() - f->looked_ms >= LOOK_MS) {
                int r = look(f, err);
                if (r > 0)
                        return r;
                if (is_away(r))
                        r = away(f, err);
                else if (r == 0 && f->lost_ms) {
                        f->lost_ms = 0;
                        meter_note(&f->meter, "phauld is back");
                        r = stream_reopen(f->stream);
                }
                if (r < 0)
                        return r;
        }
        if (f->lost_ms) {
                struct pollfd p = {.fd = signals, .events = POLLIN};
                (void)poll(&p, 1, RETRY_MS);
        } else if (stream_wait(f->stream, signals, 1000) < 0) {
                /* The stream ended: with phauld, or alone. Asking tells, and a pause keeps us from spinning. */
                struct pollfd p = {.fd = signals, .events = POLLIN};
                f->look_now = true;
                (void)poll(&p, 1, RETRY_MS);
                if (stream_reopen(f->stream) < 0)
                        return error_set(err, ENOMEM, "out of memory");
        }
        take_signals(f, signals);
        return 0;
}

int follow(struct cli *cli, const char *id, json_t **ret, struct error *err)
{
        struct follower f = {.cli = cli, .id = id, .looked_ms = clock_ms()};
        sigset_t set, old;
        int r;

        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGINT);
        (void)sigprocmask(SIG_BLOCK, &set, &old);
        AUTO_FD int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        meter_init(&f.meter, stderr);
        f.meter.log = cli->log;
        r = signals < 0 ? error_errno(err, errno, "cannot watch for Ctrl-C")
                        : stream_open(cli->client, id, on_event, &f, &f.stream, err);
        while (r == 0 && f.interrupts < 2)
                r = round_of(&f, signals, err);
        meter_end(&f.meter);
        stream_free(f.stream);
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        if (r <= 0) {
                json_decref(f.document);
                if (r < 0)
                        return r;
                (void)fprintf(stderr, "left alone; `phaul watch %s` follows it, `phaul cancel %s` takes it back\n", id,
                              id);
                return FOLLOW_DETACHED;
        }
        *ret = f.document;
        return 0;
}

int follow_result(struct cli *cli, const json_t *migration, struct error *err)
{
        const json_t *report = json_object_get(migration, "report");
        char line[ERROR_TEXT_MAX];

        if (!json_is_object(report)) /* it stands still and needs a person */
                return error_set_kind(err, ERROR_UNKNOWN, EIO, "%s", cli_text(migration, "reason"));
        enum error_kind kind = text_result_kind(report);
        if (cli->json) {
                cli_log(cli->log, kind == ERROR_NONE ? text_migrated(report, line, sizeof(line))
                                                     : text_not_migrated(report, line, sizeof(line)));
                int r = cli_print_json(report, err);
                return r < 0 ? r : error_exit_code(kind);
        }
        if (kind != ERROR_NONE)
                return error_set_kind(err, kind, EIO, "%s", text_not_migrated(report, line, sizeof(line)));
        char safe[ERROR_TEXT_MAX];
        (void)printf("%s\n", cli_safe(text_migrated(report, line, sizeof(line)), safe, sizeof(safe)));
        cli_log(cli->log, line);
        return 0;
}
