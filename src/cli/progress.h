/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * What a person sees while a migration runs, on `out` (stderr): on a terminal one line that is drawn again and again,
 * elsewhere one line for each phase and round.
 */
struct meter {
        FILE *out, *log; /* log: NULL, or where notes and phases go as well */
        bool terminal, colour;
        unsigned width; /* 0: asked from the terminal */
        char phase[32];
        int64_t round;
        bool drawn;
        uint64_t drawn_ms;
};

void meter_init(struct meter *meter, FILE *out);

/* The members of an event "migration.progress" or "migration.state". */
void meter_progress(struct meter *meter, const json_t *progress);
void meter_phase(struct meter *meter, const char *phase);

/* A line of its own, above the progress. */
void meter_note(struct meter *meter, const char *text);
void meter_end(struct meter *meter);

/* The line, without control sequences, in at most `width` columns. For tests. */
const char *meter_line(const json_t *progress, const char *phase, unsigned width, char *buffer, size_t size);
