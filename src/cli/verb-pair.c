/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "cli/text.h"

#define CODE_FILE_MAX 4096

static int offer(struct cli *cli, struct error *err)
{
        json_t *answer = NULL;
        char host[128];

        int r = cli_call(cli, "POST", "/pairing-offers", NULL, &answer, err);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(answer, err);
        else {
                (void)printf("%s\n", cli_text(answer, "code"));
                (void)fflush(stdout);
                (void)fprintf(stderr,
                              "The code above is good once, until %s. On the other host:\n"
                              "  phaul pair %s:%lld --code-file -\n"
                              "and type it there.\n",
                              cli_text(answer, "expires"), cli_safe(cli_text(answer, "name"), host, sizeof(host)),
                              (long long)json_integer_value(json_object_get(answer, "port")));
        }
        json_decref(answer);
        return r;
}

/* "host", "host:port", "10.0.0.1:port", "fd00::1", "[fd00::1]:port". `host` has room for 256. */
static int parse_address(const char *text, char *host, int64_t *port, struct error *err)
{
        const char *end, *digits = NULL;
        char quoted[160];

        if (*text == '[') {
                end = strchr(++text, ']');
                if (end && end[1] == ':')
                        digits = end + 2;
                else if (end && end[1])
                        end = NULL;
        } else {
                end = strchr(text, ':');
                if (!end || strchr(end + 1, ':'))
                        end = text + strlen(text); /* an IPv6 address by itself has no port */
                else
                        digits = end + 1;
        }
        if (!end || end == text || end - text > 253)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not ADDRESS[:PORT]",
                                      name_quote(text, quoted, sizeof(quoted)));
        (void)snprintf(host, 256, "%.*s", (int)(end - text), text);
        return digits ? text_parse_number("port", digits, 1, 65535, port, err) : 0;
}

/* From a file or stdin, never from the command line, where every user of the machine could read it. */
static int read_code(const char *file, char *ret, size_t size, struct error *err)
{
        AUTO_FREE char *text = NULL;

        if (strcmp(file, "-") == 0) {
                (void)fprintf(stderr, "Pairing code: ");
                (void)fflush(stderr);
                text = calloc(1, CODE_FILE_MAX);
                if (!text || !fgets(text, CODE_FILE_MAX, stdin))
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "there is no code on standard input");
        } else {
                int r = fd_read_file(AT_FDCWD, file, CODE_FILE_MAX, &text, NULL);
                if (r < 0)
                        return error_errno(err, -r, "cannot read %s", file);
        }
        text[strcspn(text, "\r\n")] = '\0';
        if (!*text || strlen(text) >= size)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s holds no pairing code", file);
        (void)strcpy(ret, text);
        return 0;
}

static int connect_to(struct cli *cli, const char *address, const char *name, const char *file, struct error *err)
{
        char host[256], code[128], safe[160];
        int64_t port = 12345;
        json_t *answer = NULL;

        int r = parse_address(address, host, &port, err);
        if (r == 0 && name)
                r = cli_check_host(name, err);
        if (r == 0)
                r = read_code(file, code, sizeof(code), err);
        if (r < 0)
                return r;
        json_t *body = json_pack("{s:s, s:I, s:s, s:s*}", "address", host, "port", (json_int_t)port, "code", code,
                                 "name", name);
        explicit_bzero(code, sizeof(code));
        r = body ? cli_call(cli, "POST", "/hosts", body, &answer, err)
                 : error_set_kind(err, ERROR_USAGE, EINVAL, "the address or the code is not text");
        json_decref(body);
        if (r < 0)
                return r;
        if (cli->json)
                r = cli_print_json(answer, err);
        else
                (void)printf("paired with %s\n", cli_safe(cli_text(answer, "name"), safe, sizeof(safe)));
        json_decref(answer);
        return r;
}

int verb_pair(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *name = NULL, *file = NULL;
        bool offering = false;
        const struct cli_option options[] = {{.name = "offer", .flag = &offering},
                                             {.name = "name", .value = &name},
                                             {.name = "code-file", .value = &file},
                                             {.name = NULL}};
        char **rest;
        int n;

        int r = cli_options(cli, argc, argv, options, 0, 1, &rest, &n, err);
        if (r < 0)
                return r;
        if (offering && n == 0 && !name && !file)
                return offer(cli, err);
        if (offering || n != 1 || !file)
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "usage: phaul pair --offer, or phaul pair ADDRESS[:PORT] [--name NAME] "
                                      "--code-file FILE (- for standard input)");
        return connect_to(cli, rest[0], name, file, err);
}
