/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "cli/redact.h"
#include "cli/tar.h"

#define COMMAND_MS 20000
#define LISTING_MAX 5000

void bundle_done(struct bundle *b)
{
        free(b->missing);
        b->missing = NULL;
}

void bundle_miss(struct bundle *b, const char *what, const char *why)
{
        char *longer;

        if (asprintf(&longer, "%s%s: %s\n", b->missing ? b->missing : "", what, why) < 0)
                return;
        free(b->missing);
        b->missing = longer;
}

/* What was redacted already. */
static void add(struct bundle *b, const char *name, const char *text)
{
        char path[256];

        if (b->failed)
                return;
        (void)snprintf(path, sizeof(path), "%s/%s", b->folder, name);
        b->failed = tar_add(b->fd, path, text, strlen(text), b->now_s);
}

/* Takes `text`; NULL: there was no memory to make it. */
static void add_or_miss(struct bundle *b, const char *name, char *text)
{
        if (text)
                add(b, name, text);
        else
                bundle_miss(b, name, "out of memory");
        free(text);
}

void bundle_text(struct bundle *b, const char *name, const char *text)
{
        add_or_miss(b, name, redact_text(text));
}

void bundle_json(struct bundle *b, const char *name, json_t *value)
{
        char *text = redact_json(value) == 0 ? json_dumps(value, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;

        add_or_miss(b, name, text);
}

int bundle_read(const char *path, char **ret)
{
        struct stat st;

        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (st.st_size > BUNDLE_TEXT_MAX && lseek(fd, st.st_size - BUNDLE_TEXT_MAX, SEEK_SET) < 0)
                return -errno;
        AUTO_FREE char *text = malloc(BUNDLE_TEXT_MAX + 1);
        if (!text)
                return -ENOMEM;
        ssize_t n = fd_read_full(fd, text, BUNDLE_TEXT_MAX);
        if (n < 0)
                return (int)n;
        for (ssize_t i = 0; i < n; i++)
                if (!text[i])
                        text[i] = '?';
        text[n] = '\0';
        /* What was cut may begin in the middle of a secret. */
        const char *whole = st.st_size > BUNDLE_TEXT_MAX ? strchr(text, '\n') : text;
        *ret = strdup(whole ? whole : "");
        return *ret ? 0 : -ENOMEM;
}

void bundle_file(struct bundle *b, const char *name, const char *path, bundle_redact_fn redact)
{
        AUTO_FREE char *text = NULL;

        int r = bundle_read(path, &text);
        if (r < 0)
                bundle_miss(b, path, strerrordesc_np(-r));
        else
                add_or_miss(b, name, redact(text));
}

static void write_json_line(FILE *out, const char *line, size_t size)
{
        json_t *value = json_loadb(line, size, 0, NULL);
        AUTO_FREE char *text = NULL;

        if (value && redact_json(value) == 0)
                text = json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER);
        (void)fprintf(out, "%s\n", text ? text : "[not JSON, left out]");
        json_decref(value);
}

void bundle_json_file(struct bundle *b, const char *name, const char *path)
{
        AUTO_FREE char *text = NULL;
        char *result = NULL;
        size_t size;

        int r = bundle_read(path, &text);
        if (r < 0) {
                bundle_miss(b, path, strerrordesc_np(-r));
                return;
        }
        json_t *whole = json_loads(text, 0, NULL);
        if (whole) {
                bundle_json(b, name, whole);
                json_decref(whole);
                return;
        }
        FILE *out = open_memstream(&result, &size);
        for (const char *line = text ? text : ""; out && *line;) {
                size_t n = strcspn(line, "\n");
                if (n)
                        write_json_line(out, line, n);
                line += n + (line[n] == '\n');
        }
        if (!out || fclose(out) != 0) {
                free(result);
                result = NULL;
        }
        add_or_miss(b, name, result);
}

void bundle_command(struct bundle *b, const char *name, const char *const *argv)
{
        const struct spawn_options options = {
                .argv = argv, .die_with_parent = true, .merge_stderr = true, .new_session = true};
        AUTO_FREE char *output = NULL;
        AUTO_FREE char *text = NULL;
        struct error err = {0};
        char line[256] = "";

        for (size_t i = 0, n = 0; argv[i] && n < sizeof(line); i++)
                n += (size_t)snprintf(line + n, sizeof(line) - n, " %s", argv[i]);
        int code = spawn_capture(&options, COMMAND_MS, BUNDLE_TEXT_MAX, &output, &err);
        if (code < 0) {
                bundle_miss(b, line + 1, code == -ENOENT ? "not installed" : err.text);
                return;
        }
        if (asprintf(&text, "$%s\n%s\nexit status %d\n", line, output, code) < 0)
                text = NULL;
        if (text)
                bundle_text(b, name, text);
        else
                bundle_miss(b, name, "out of memory");
}

static void list_entry(FILE *out, const FTSENT *e, int sizes)
{
        if (sizes && e->fts_statp && e->fts_info != FTS_NS)
                (void)fprintf(out, "%06o %6u %10lld ", e->fts_statp->st_mode, e->fts_statp->st_uid,
                              (long long)e->fts_statp->st_size);
        (void)fprintf(out, "%s\n", e->fts_path);
}

void bundle_listing(struct bundle *b, const char *name, const char *directory, int depth, int sizes)
{
        char *roots[] = {(char *)directory, NULL}, *text = NULL;
        size_t size, n = 0;

        /* Each hierarchy of cgroup v1 is a file system of its own; a released tree may have another one mounted. */
        FTS *tree = fts_open(roots, FTS_PHYSICAL | (sizes ? FTS_XDEV : 0), NULL);
        FILE *out = tree ? open_memstream(&text, &size) : NULL;
        for (FTSENT *e; out && tree && (e = fts_read(tree));) {
                bool is_dir = e->fts_info == FTS_D || e->fts_info == FTS_DNR;
                if (e->fts_info == FTS_DP || (!sizes && !is_dir))
                        continue;
                if (n++ == LISTING_MAX) {
                        (void)fprintf(out, "… more than %d\n", LISTING_MAX);
                        break;
                }
                list_entry(out, e, sizes);
                if (e->fts_level >= depth)
                        (void)fts_set(tree, e, FTS_SKIP);
        }
        if (tree)
                (void)fts_close(tree);
        if (!out || fclose(out) != 0) {
                free(text);
                text = NULL;
        }
        if (text)
                bundle_text(b, name, text);
        else
                bundle_miss(b, directory, "cannot be listed");
        free(text);
}
