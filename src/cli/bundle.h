/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * A bug report being put together: an archive to which texts are added. Nothing comes in but through redact.h. What
 * cannot be had is noted and is no failure; only not being able to write is.
 */
struct bundle {
        int fd;
        int64_t now_s;
        char folder[128]; /* all names begin with it */
        char *missing;    /* lines; NULL: none */
        int failed;       /* sticky: negative errno of the first write that failed */
};

#define BUNDLE_TEXT_MAX (1U << 20) /* of one member, bytes; a longer file gives its end */

void bundle_done(struct bundle *b);

/* "what could not be had, and why". */
void bundle_miss(struct bundle *b, const char *what, const char *why);

void bundle_text(struct bundle *b, const char *name, const char *text);
void bundle_json(struct bundle *b, const char *name, json_t *value); /* changes `value` */

/* A file, as it is shown by `redact` (redact.h); the end of one that is too long. */
typedef char *(*bundle_redact_fn)(const char *text);
void bundle_file(struct bundle *b, const char *name, const char *path, bundle_redact_fn redact);

/* A file that is a JSON document, or one on each line. */
void bundle_json_file(struct bundle *b, const char *name, const char *path);

/* What a program prints, both streams, after its command line, and how it ended. */
void bundle_command(struct bundle *b, const char *name, const char *const *argv);

/* Names below a directory, down to `depth`, with `sizes` also modes and sizes of files; else directories only. */
void bundle_listing(struct bundle *b, const char *name, const char *directory, int depth, int sizes);

/* The end of a file as a string; caller frees. Negative errno. */
int bundle_read(const char *path, char **ret);
