/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#undef error_set
#undef error_set_kind
#undef error_errno
#undef error_wrap

static const struct {
        const char *name;
        int exit_code;
} kinds[] = {
        [ERROR_NONE] = {"none", 0},           [ERROR_FAILED] = {"failed", 1},       [ERROR_USAGE] = {"usage", 2},
        [ERROR_REFUSED] = {"refused", 3},     [ERROR_NOT_FOUND] = {"not-found", 4}, [ERROR_DENIED] = {"denied", 5},
        [ERROR_CANCELLED] = {"cancelled", 6}, [ERROR_UNKNOWN] = {"unknown", 8},     [ERROR_LOST] = {"lost", 9},
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

__attribute__((format(printf, 4, 0))) static int set(struct error *err, enum error_kind kind, int code,
                                                     const char *format, va_list args)
{
        if (code <= 0)
                code = EIO;
        if (!err)
                return -code;

        err->kind = kind;
        err->code = code;
        (void)vsnprintf(err->text, sizeof(err->text), format, args);
        return -code;
}

int error_set(struct error *err, int code, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        int r = set(err, ERROR_FAILED, code, format, args);
        va_end(args);
        return r;
}

int error_set_kind(struct error *err, enum error_kind kind, int code, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        int r = set(err, kind, code, format, args);
        va_end(args);
        return r;
}

int error_errno(struct error *err, int code, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        int r = set(err, ERROR_FAILED, code, format, args);
        va_end(args);
        if (!err)
                return r;

        size_t used = strlen(err->text);
        (void)snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerrordesc_np(-r) ?: "unknown error");
        return r;
}

int error_wrap(struct error *err, const char *format, ...)
{
        char inner[ERROR_TEXT_MAX];
        va_list args;

        if (!err)
                return -EIO;
        if (err->kind == ERROR_NONE)
                err->kind = ERROR_FAILED;
        if (err->code <= 0)
                err->code = EIO;

        (void)snprintf(inner, sizeof(inner), "%s", err->text);
        va_start(args, format);
        (void)vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);

        size_t used = strlen(err->text);
        (void)snprintf(err->text + used, sizeof(err->text) - used, "%s%s", inner[0] ? ": " : "", inner);
        return -err->code;
}

void error_clear(struct error *err)
{
        if (!err)
                return;
        err->kind = ERROR_NONE;
        err->code = 0;
        err->text[0] = '\0';
}

const char *error_kind_name(enum error_kind kind)
{
        return (size_t)kind < KINDS ? kinds[kind].name : "failed";
}

enum error_kind error_kind_from_name(const char *name)
{
        for (size_t i = 0; i < KINDS; i++)
                if (name && strcmp(kinds[i].name, name) == 0)
                        return (enum error_kind)i;
        return ERROR_FAILED;
}

int error_exit_code(enum error_kind kind)
{
        return (size_t)kind < KINDS ? kinds[kind].exit_code : 1;
}
