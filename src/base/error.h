/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

/*
 * The one error grammar of phaul.
 *
 * A function that can fail returns 0 (or a documented non-negative value) on success and a negative errno on
 * failure, and takes an optional `struct error *err` as its last argument. The deepest function that knows what
 * happened fills it with error_set(); callers on the way up may put their context in front with error_wrap(). It is
 * reported once, at the edge (API, command line, log). Libraries do not log.
 *
 * The object holds no allocation, so that it works when memory is short. Not thread-safe; one per operation.
 */

/* What kind of failure it is for the user; the command line maps it to its exit code (see docs of phaul(1)). */
enum error_kind {
        ERROR_NONE = 0,
        ERROR_FAILED,    /* failed, the source still runs                  exit 1 */
        ERROR_USAGE,     /* malformed name, option or request              exit 2 */
        ERROR_REFUSED,   /* refused before anything was touched            exit 3 */
        ERROR_NOT_FOUND, /* no such container, migration, host             exit 4 */
        ERROR_DENIED,    /* the caller or the peer may not                 exit 5 */
        ERROR_CANCELLED, /* cancelled, the source still runs               exit 6 */
        ERROR_UNKNOWN,   /* ownership unknown, an operator is needed       exit 8 */
        ERROR_LOST,      /* the workload was lost                          exit 9 */
};

#define ERROR_TEXT_MAX 2048

struct error {
        enum error_kind kind;
        int code;                  /* positive errno, never 0 once set */
        char text[ERROR_TEXT_MAX]; /* one or more lines, UTF-8, no trailing newline; truncated when too long */
};

/* Set kind ERROR_FAILED with a positive errno `code`; returns -code. `err` may be NULL. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same with a kind of one's own. */
int error_set_kind(struct error *err, enum error_kind kind, int code, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/* As error_set(), with ": strerror(code)" appended. */
int error_errno(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put "context: " in front of what is set; kind and code stay. Returns -err->code, or -EIO when err is NULL. */
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* All four return a negative number. Compilers and analysers cannot see that from here, so they are told. */
static inline int error_negative(int r)
{
        if (r >= 0)
                __builtin_unreachable();
        return r;
}

#define error_set(...) error_negative((error_set)(__VA_ARGS__))
#define error_set_kind(...) error_negative((error_set_kind)(__VA_ARGS__))
#define error_errno(...) error_negative((error_errno)(__VA_ARGS__))
#define error_wrap(...) error_negative((error_wrap)(__VA_ARGS__))

void error_clear(struct error *err);

/* "failed", "refused", ...: the stable word used in records and JSON. */
const char *error_kind_name(enum error_kind kind);

/* The inverse; ERROR_FAILED for a word that is not known. */
enum error_kind error_kind_from_name(const char *name);

/* The exit code of interface and manual for a kind (0 for ERROR_NONE). */
int error_exit_code(enum error_kind kind);
