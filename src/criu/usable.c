/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/spawn.h"
#include "criu/criu.h"
#include "criu/log.h"

#define TIMEOUT_MS 20000
#define OUTPUT_MAX (64U * 1024)

/* "Version: 4.2.1\nGitID: …"; only digits and dots are taken. */
static int parse_version(const char *output, char ret[static 32])
{
        const char *mark = strstr(output, "Version: ");

        if (!mark)
                return -EBADMSG;
        mark += strlen("Version: ");
        size_t length = strspn(mark, "0123456789.");
        if (length == 0 || length > 31)
                return -EBADMSG;
        memcpy(ret, mark, length);
        ret[length] = '\0';
        return 0;
}

static int refuse(struct error *err, const char *what, int code, const char *output)
{
        char lines[1024] = "";

        AUTO_FILE FILE *file = output && *output ? fmemopen((char *)output, strlen(output), "r") : NULL;
        if (file && criu_log_pick(file, lines, sizeof(lines)) <= 0) {
                rewind(file);
                (void)criu_log_tail(file, lines, sizeof(lines));
        }
        return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP, "CRIU does not work here: '%s' ended with %d%s%s", what,
                              code, lines[0] ? ":\n" : "", lines);
}

int criu_usable(char ret_version[static 32], struct error *err)
{
        static const char *const version_argv[] = {"criu", "--version", NULL};
        static const char *const check_argv[] = {"criu", "--no-default-config", "check", NULL};
        const struct spawn_options version = {.argv = version_argv, .die_with_parent = true, .merge_stderr = true};
        const struct spawn_options check = {.argv = check_argv, .die_with_parent = true, .merge_stderr = true};
        uint64_t deadline = clock_ms() + TIMEOUT_MS;
        AUTO_FREE char *version_text = NULL;
        AUTO_FREE char *check_text = NULL;
        struct error inner = {};

        int r = spawn_capture(&version, TIMEOUT_MS, OUTPUT_MAX, &version_text, &inner);
        if (r == -ENOENT)
                return error_set_kind(err, ERROR_REFUSED, ENOENT, "CRIU is not installed (no 'criu' in %s)",
                                      SPAWN_PATH);
        if (r < 0)
                return error_set_kind(err, ERROR_REFUSED, -r, "CRIU does not work here: %s", inner.text);
        if (r > 0)
                return refuse(err, "criu --version", r, version_text);
        if (parse_version(version_text, ret_version) < 0)
                return error_set_kind(err, ERROR_REFUSED, EBADMSG,
                                      "CRIU does not work here: 'criu --version' names none");

        uint64_t now = clock_ms();
        r = spawn_capture(&check, now < deadline ? (int)(deadline - now) : 1, OUTPUT_MAX, &check_text, &inner);
        if (r < 0)
                return error_set_kind(err, ERROR_REFUSED, -r, "CRIU does not work here: %s", inner.text);
        if (r > 0)
                return refuse(err, "criu check", r, check_text);
        return 0;
}
