/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "files/files.h"

/* Splits what a process says into lines of bounded length; longer ones are cut. Zero-initialised is empty. */
struct line_reader {
        char line[320];
        size_t used;
};
typedef void (*line_fn)(const char *line, void *context);
void line_feed(struct line_reader *r, const char *data, size_t size, line_fn fn, void *context);
void line_end(struct line_reader *r, line_fn fn, void *context);

/* What rsync and phaul-tree complained about: the last lines are kept, and whether any is more than a live tree's
   usual unrest (files that vanish or shrink while they are read). */
#define COMPLAINTS_KEPT 6
struct complaints {
        struct line_reader reader;
        char lines[COMPLAINTS_KEPT][320];
        size_t n; /* seen, kept are the last */
        bool serious;
        int code; /* ENOSPC or EDQUOT when a line names it */
};
void complaints_feed(struct complaints *c, const char *data, size_t size);
void complaints_end(struct complaints *c);

/* 0 when a process that ended with wait `status` did its job, or the error. `live`: the tree was in use. */
int complaints_judge(const struct complaints *c, int status, bool live, struct error *err);

/* rsync's --stats and phaul-tree's notes, line by line. */
void result_line(const char *line, void *result);
