/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json_text.h"
#include "base/spawn.h"

#define ANSWER_MAX (4 << 20)
#define ARGUMENTS_MAX 8

const char *lxc_program(const char *name, char *buffer, size_t size)
{
        /* Set when programs are run from a build directory; our own environment is made by whoever started us. */
        const char *directory = secure_getenv("PHAUL_LIBEXECDIR");

        (void)snprintf(buffer, size, "%s/%s", directory ? directory : PHAUL_LIBEXECDIR, name);
        return buffer;
}

int lxc_tool(int timeout_ms, json_t **ret, struct error *err, const char *verb, ...)
{
        char program[256];
        const char *argv[ARGUMENTS_MAX + 3] = {lxc_program("phaul-lxc", program, sizeof(program)), verb};
        AUTO_FREE char *output = NULL;
        json_error_t where;
        va_list list;
        size_t n = 2;

        va_start(list, verb);
        for (const char *a; n < ARGUMENTS_MAX + 2 && (a = va_arg(list, const char *));)
                argv[n++] = a;
        va_end(list);

        const struct spawn_options options = {.argv = argv, .die_with_parent = true};
        int code = spawn_capture(&options, timeout_ms, ANSWER_MAX, &output, err);
        if (code < 0)
                return code;
        json_t *answer = json_loads(output, JSON_REJECT_DUPLICATES, &where);
        if (code == 0 && answer) {
                *ret = answer;
                return 0;
        }
        const char *text = json_text(answer, "error");
        int r = text[0] ? error_set_kind(err, error_kind_from_name(json_text(answer, "kind")), EIO, "%s", text)
                        : error_set(err, EPROTO, "phaul-lxc %s ended with %d and no answer", verb, code);
        json_decref(answer);
        return r;
}

int lxc_tool_path(char **ret, struct error *err)
{
        json_t *answer;

        int r = lxc_tool(5000, &answer, err, "path", NULL);
        if (r < 0)
                return r;
        const char *path = json_text(answer, "lxcpath");
        if (path[0] != '/' || strpbrk(path, ":,\\\n#"))
                r = error_set_kind(err, ERROR_REFUSED, EINVAL, "lxc.lxcpath '%.128s' is not usable", path);
        else if (!(*ret = strdup(path)))
                r = error_set(err, ENOMEM, "out of memory");
        json_decref(answer);
        return r;
}
