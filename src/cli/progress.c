/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/text.h"

#define REDRAW_MS 80

void meter_init(struct meter *m, FILE *out)
{
        const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");

        *m = (struct meter){.out = out, .round = -1};
        m->terminal = isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
        m->colour = m->terminal && !(no_colour && *no_colour);
}

static unsigned width_of(const struct meter *m)
{
        struct winsize size;

        if (m->width)
                return m->width;
        return ioctl(fileno(m->out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* Adds a piece when it fits, two blanks before it. */
static void add(char *line, size_t size, unsigned width, const char *piece)
{
        size_t used = strlen(line), n = strlen(piece) + (used ? 2 : 0);

        if (*piece && used + n <= width && used + n < size)
                (void)snprintf(line + used, size - used, "%s%s", used ? "  " : "", piece);
}

static double number(const json_t *progress, const char *key)
{
        return json_number_value(json_object_get(progress, key));
}

const char *meter_line(const json_t *p, const char *phase, unsigned width, char *buffer, size_t size)
{
        char piece[96], a[32], b[32];
        double done = number(p, "bytes_done"), total = number(p, "bytes_total");
        double rate = number(p, "rate"), dirty = number(p, "dirty_rate");
        json_int_t round = json_integer_value(json_object_get(p, "round"));

        /* The most important first: what does not fit any more is left out. */
        buffer[0] = '\0';
        add(buffer, size, width, phase);
        if (round > 0) {
                (void)snprintf(piece, sizeof(piece), "round %lld", (long long)round);
                add(buffer, size, width, piece);
        }
        if (total > 0) {
                (void)snprintf(piece, sizeof(piece), "%s of %s", text_bytes(done, a, sizeof(a)),
                               text_bytes(total, b, sizeof(b)));
                add(buffer, size, width, piece);
        } else if (done > 0)
                add(buffer, size, width, text_bytes(done, a, sizeof(a)));
        if (rate > 0) {
                (void)snprintf(piece, sizeof(piece), "%s/s", text_bytes(rate, a, sizeof(a)));
                add(buffer, size, width, piece);
        }
        if (json_is_number(json_object_get(p, "eta_ms"))) {
                (void)snprintf(piece, sizeof(piece), "%s left", text_duration(number(p, "eta_ms"), a, sizeof(a)));
                add(buffer, size, width, piece);
        }
        if (dirty > 0) {
                (void)snprintf(piece, sizeof(piece), "dirty %s/s", text_bytes(dirty, a, sizeof(a)));
                add(buffer, size, width, piece);
        }
        if (json_is_number(json_object_get(p, "predicted_downtime_ms"))) {
                (void)snprintf(piece, sizeof(piece), "downtime ~%s",
                               text_duration(number(p, "predicted_downtime_ms"), a, sizeof(a)));
                add(buffer, size, width, piece);
        }
        return buffer;
}

static void draw(struct meter *m, const char *line)
{
        (void)fprintf(m->out, m->colour ? "\r\033[36m%s\033[0m\033[K" : "\r%s\033[K", line);
        (void)fflush(m->out);
        m->drawn = true;
        m->drawn_ms = clock_ms();
}

void meter_phase(struct meter *m, const char *phase)
{
        char safe[64];

        if (!*phase || strcmp(m->phase, phase) == 0)
                return;
        (void)snprintf(m->phase, sizeof(m->phase), "%s", cli_safe(phase, safe, sizeof(safe)));
        m->round = -1;
        cli_log(m->log, m->phase);
        if (m->terminal)
                draw(m, m->phase);
        else
                (void)fprintf(m->out, "%s\n", m->phase);
}

void meter_progress(struct meter *m, const json_t *p)
{
        json_int_t round = json_integer_value(json_object_get(p, "round"));
        char line[512];

        meter_phase(m, cli_text(p, "phase"));
        bool next = round > 0 && round != m->round;
        if (m->terminal) {
                if (next || !m->drawn || clock_ms() - m->drawn_ms >= REDRAW_MS)
                        draw(m, meter_line(p, m->phase, width_of(m) - 1, line, sizeof(line)));
        } else if (next && m->round >= 0)
                (void)fprintf(m->out, "%s\n", meter_line(p, m->phase, 200, line, sizeof(line)));
        m->round = round > 0 ? round : m->round;
}

void meter_note(struct meter *m, const char *text)
{
        char safe[2048];

        meter_end(m);
        cli_log(m->log, text);
        (void)fprintf(m->out, "%s\n", cli_safe(text, safe, sizeof(safe)));
}

void meter_end(struct meter *m)
{
        if (m->drawn)
                (void)fputs("\r\033[K", m->out);
        (void)fflush(m->out);
        m->drawn = false;
}
