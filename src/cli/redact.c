/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/redact.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

#define HIDDEN "[redacted]"
#define CODE_GROUPS 5 /* of as many letters: a code of pairing */
#define DEPTH_MAX 32

/* Parts of names that are given secrets, in lower case. */
static const char *const secret_words[] = {
        "passw",    "passphrase", "secret", "token", "credential", "apikey", "api_key", "api-key", "privat",
        "authoriz", "cookie",     "bearer", "auth_", "auth-",      "_auth",  "-auth",   "pwd",     "signature",
        "key=",     "key:",       "_key",   "-key",  "pairing",    "auth=",  "auth:",
};

static bool sounds_secret(const char *name, size_t n)
{
        for (size_t i = 0; i < sizeof(secret_words) / sizeof(secret_words[0]); i++) {
                size_t m = strlen(secret_words[i]);
                for (size_t at = 0; at + m <= n; at++)
                        if (strncasecmp(name + at, secret_words[i], m) == 0)
                                return true;
        }
        return false;
}

static bool is_name_char(char c)
{
        return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.';
}

/*
 * Where the value begins, when the word at `word` (of `n` characters) sounds like a secret and is given one: after '='
 * or ':', blanks and quotes around them, or after a blank if the word is an option of a command line. NULL: no.
 */
static const char *value_after(const char *word, size_t n)
{
        const char *p = word + n;
        bool blank = false;

        /* The '=' belongs to what is looked for. */
        if (!sounds_secret(word, *p == '=' || *p == ':' ? n + 1 : n))
                return NULL;
        while (*p == '"' || *p == '\'' || *p == ' ' || *p == '\t') {
                blank |= *p == ' ' || *p == '\t';
                p++;
        }
        if (*p == '=' || *p == ':') {
                p++;
                while (*p == ' ' || *p == '\t' || *p == '"' || *p == '\'')
                        p++;
                return *p && *p != '\n' ? p : NULL;
        }
        return word[0] == '-' && blank && *p && *p != '\n' ? p : NULL;
}

/* Length of a code of pairing at `p`, 0: there is none. */
static size_t code_length(const char *p)
{
        const char *start = p;

        for (int group = 0; group < CODE_GROUPS; group++) {
                if (group && *p++ != '-')
                        return 0;
                for (int i = 0; i < CODE_GROUPS; i++, p++)
                        if (!isalnum((unsigned char)*p))
                                return 0;
        }
        return is_name_char(*p) ? 0 : (size_t)(p - start);
}

/* Length of "user:password" at `p`, which follows "://"; 0: the URL has none. */
static size_t userinfo_length(const char *p)
{
        size_t n = strcspn(p, "@/ \t\n\"'");

        return p[n] == '@' ? n : 0;
}

static void copy_char(FILE *out, char c)
{
        bool odd = ((unsigned char)c < ' ' && c != '\t') || c == 0x7f;

        (void)fputc(odd ? '?' : c, out);
}

/* One line, without its end. */
static void redact_line(FILE *out, const char *line, size_t size)
{
        const char *p = line, *end = line + size;

        while (p < end) {
                bool begins = p == line || !is_name_char(p[-1]);
                size_t n = 0;
                if (begins && (n = code_length(p))) {
                        (void)fputs(HIDDEN, out);
                        p += n;
                        continue;
                }
                if (p - line >= 3 && strncmp(p - 3, "://", 3) == 0 && (n = userinfo_length(p))) {
                        (void)fputs(HIDDEN, out);
                        p += n;
                        continue;
                }
                while (begins && p + n < end && is_name_char(p[n]))
                        n++;
                const char *value = n ? value_after(p, n) : NULL;
                if (value) {
                        (void)fwrite(p, 1, (size_t)(value - p), out);
                        (void)fputs(HIDDEN, out);
                        return;
                }
                copy_char(out, *p++);
        }
}

static bool has(const char *line, size_t size, const char *word)
{
        return memmem(line, size, word, strlen(word)) != NULL;
}

/* What comes out of `write` as a string of its own; NULL when out of memory. */
static char *collect(void (*write)(FILE *out, const char *text), const char *text)
{
        char *result = NULL;
        size_t size;

        FILE *out = open_memstream(&result, &size);
        if (!out)
                return NULL;
        write(out, text);
        bool whole = !ferror(out);
        if (fclose(out) != 0 || !whole) {
                free(result);
                return NULL;
        }
        return result;
}

static void write_text(FILE *out, const char *text)
{
        bool in_pem = false;

        while (*text) {
                size_t n = strcspn(text, "\n");
                /* A block may begin and end in one line, its line ends written as "\n". */
                if (in_pem) {
                        in_pem = !has(text, n, "-----END");
                } else if (has(text, n, "-----BEGIN")) {
                        in_pem = !has(text, n, "-----END");
                        (void)fputs(HIDDEN "\n", out);
                } else {
                        redact_line(out, text, n);
                        if (text[n])
                                (void)fputc('\n', out);
                }
                text += n + (text[n] == '\n');
        }
}

char *redact_text(const char *text)
{
        return collect(write_text, text);
}

/* -- configurations of containers --------------------------------------------------------------------------------- */

/* Keys whose values say how a container is built, not what it was told. */
static const char *const open_keys[] = {
        "lxc.net.",      "lxc.rootfs.", "lxc.cgroup",     "lxc.mount.",  "lxc.idmap",      "lxc.uts.",
        "lxc.arch",      "lxc.autodev", "lxc.console.",   "lxc.tty.",    "lxc.pty.",       "lxc.cap.",
        "lxc.apparmor.", "lxc.seccomp", "lxc.namespace.", "lxc.include", "lxc.start.auto", "lxc.prlimit.",
};

static void write_lxc_config(FILE *out, const char *text)
{
        while (*text) {
                size_t n = strcspn(text, "\n"), blanks = strspn(text, " \t");
                const char *key = text + blanks;
                bool is_open = blanks >= n;

                if (*key == '#') {
                        (void)fputs("# " HIDDEN "\n", out);
                        text += n + (text[n] == '\n');
                        continue;
                }
                for (size_t i = 0; i < sizeof(open_keys) / sizeof(open_keys[0]); i++)
                        is_open |= strncmp(key, open_keys[i], strlen(open_keys[i])) == 0;
                if (is_open) {
                        redact_line(out, text, n);
                } else {
                        redact_line(out, key, strcspn(key, " \t=\n"));
                        (void)fputs(" = " HIDDEN, out);
                }
                (void)fputc('\n', out);
                text += n + (text[n] == '\n');
        }
}

char *redact_lxc_config(const char *text)
{
        return collect(write_lxc_config, text);
}

/* -- JSON --------------------------------------------------------------------------------------------------------- */

/* What stands under these is a workload's own, whatever it looks like. */
static const char *const own_keys[] = {"command", "cmdline", "argv", "args", "arguments", "env", "environment"};

static bool is_hidden_key(const char *key)
{
        for (size_t i = 0; i < sizeof(own_keys) / sizeof(own_keys[0]); i++)
                if (strcasecmp(key, own_keys[i]) == 0)
                        return true;
        return sounds_secret(key, strlen(key));
}

static int redact_value(const char *key, json_t *value, json_t **ret, unsigned depth);

static int redact_string(const char *key, json_t *value, json_t **ret, unsigned depth)
{
        const char *text = json_string_value(value);
        AUTO_FREE char *clean = NULL;

        if (text[0] == '{') {
                json_t *inner = json_loads(text, 0, NULL), *same = NULL;
                int r = inner ? redact_value(key, inner, &same, depth + 1) : 0;
                if (inner && r == 0)
                        clean = json_dumps(same ? same : inner, JSON_COMPACT);
                json_decref(inner);
                json_decref(same);
                if (r < 0 || (inner && !clean))
                        return -ENOMEM;
        }
        if (!clean)
                clean = strcmp(key, "config") == 0 ? redact_lxc_config(text) : redact_text(text);
        *ret = clean ? json_string_nocheck(clean) : NULL;
        return *ret ? 0 : -ENOMEM;
}

/* *ret: what to put in its place; NULL: itself. */
static int redact_value(const char *key, json_t *value, json_t **ret, unsigned depth)
{
        json_t *member, *other;
        const char *name;
        size_t i;
        int r = 0;

        *ret = NULL;
        if (is_hidden_key(key) || depth > DEPTH_MAX) {
                if (json_is_null(value) || json_is_boolean(value))
                        return 0;
                *ret = json_string(HIDDEN);
                return *ret ? 0 : -ENOMEM;
        }
        if (json_is_string(value))
                return redact_string(key, value, ret, depth);
        json_object_foreach(value, name, member)
        {
                if (r == 0)
                        r = redact_value(name, member, &other, depth + 1);
                if (r == 0 && other)
                        r = json_object_set_new(value, name, other) < 0 ? -ENOMEM : 0;
        }
        json_array_foreach(value, i, member)
        {
                if (r == 0)
                        r = redact_value("", member, &other, depth + 1);
                if (r == 0 && other)
                        r = json_array_set_new(value, i, other) < 0 ? -ENOMEM : 0;
        }
        return r;
}

int redact_json(json_t *value)
{
        json_t *other = NULL;
        int r = redact_value("", value, &other, 0);

        /* A document is an object or an array: those are changed in place. */
        json_decref(other);
        return r;
}
