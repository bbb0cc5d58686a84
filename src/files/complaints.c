/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/complaints.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/name.h"
#include "files/rsync-args.h"
#include "files/tree-fds.h"

void line_end(struct line_reader *r, line_fn fn, void *context)
{
        if (r->used == 0)
                return;
        r->line[r->used] = '\0';
        r->used = 0;
        fn(r->line, context);
}

void line_feed(struct line_reader *r, const char *data, size_t size, line_fn fn, void *context)
{
        for (size_t i = 0; i < size; i++) {
                if (data[i] == '\n' || data[i] == '\r')
                        line_end(r, fn, context);
                else if (r->used < sizeof(r->line) - 1)
                        r->line[r->used++] = (char)(data[i] ? data[i] : '?');
        }
}

static bool has(const char *line, const char *part)
{
        return strstr(line, part) != NULL;
}

/* What reading a tree in use brings about by itself; the round that follows makes up for it. */
static bool is_unrest(const char *line)
{
        static const char *const parts[] = {
                "vanished",                  /* listed, then gone */
                "read errors mapping",       /* shrank while it was read */
                "failed verification",       /* the same, seen from the receiver */
                "No such file or directory", /* gone between two looks at it */
                "No data available",         /* an attribute went, or the above */
                "Stale file handle",         /* deleted on overlayfs */
                "some files/attrs were not transferred",
        };

        for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
                if (has(line, parts[i]))
                        return true;
        return false;
}

static void complaint(const char *line, void *context)
{
        struct complaints *c = context;

        if (has(line, "No space left on device"))
                c->code = ENOSPC;
        else if (has(line, "Disk quota exceeded"))
                c->code = EDQUOT;
        if (!is_unrest(line))
                c->serious = true;
        /* The summaries only repeat the exit code, and push the reason out. */
        if (strncmp(line, "rsync error:", 12) == 0 || strncmp(line, "rsync warning:", 14) == 0)
                return;
        char *slot = c->lines[c->n++ % COMPLAINTS_KEPT];
        memcpy(slot, line, strlen(line) + 1);
}

void complaints_feed(struct complaints *c, const char *data, size_t size)
{
        line_feed(&c->reader, data, size, complaint, c);
}

void complaints_end(struct complaints *c)
{
        line_end(&c->reader, complaint, c);
}

/* One text of all kept lines; what is not UTF-8 or not printable is made harmless. */
static void join(const struct complaints *c, char *text, size_t size)
{
        size_t first = c->n > COMPLAINTS_KEPT ? c->n - COMPLAINTS_KEPT : 0, used = 0;

        for (size_t i = first; i < c->n; i++) {
                const char *line = c->lines[i % COMPLAINTS_KEPT];
                bool plain = utf8_is_valid(line, strlen(line));

                for (const char *p = i > first ? "; " : ""; *p && used + 1 < size; p++)
                        text[used++] = *p;
                for (; *line && used + 1 < size; line++) {
                        unsigned char b = (unsigned char)*line;
                        text[used++] = (char)(b < 32 || b == 127 || (b > 127 && !plain) ? '?' : *line);
                }
        }
        text[used] = '\0';
}

int complaints_judge(const struct complaints *c, int status, bool live, struct error *err)
{
        char text[ERROR_TEXT_MAX - 128];
        int code = c->code ? c->code : EIO;

        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        if (live && WIFEXITED(status) && !c->serious && !c->code &&
            (WEXITSTATUS(status) == 23 || WEXITSTATUS(status) == 24))
                return 0;

        join(c, text, sizeof(text));
        if (WIFSIGNALED(status))
                return error_set(err, code, "copying files ended by signal %d%s%s", WTERMSIG(status), *text ? ": " : "",
                                 text);
        if (WEXITSTATUS(status) == TREE_EXIT_OWN)
                return error_set(err, code, "copying files failed: %s", *text ? text : "the job was given up");
        const char *words = rsync_exit_text(WEXITSTATUS(status));
        return error_set(err, code, "copying files failed, %s (rsync code %d)%s%s", words ? words : "unknown error",
                         WEXITSTATUS(status), *text ? ": " : "", text);
}

/* Digits, with rsync's separators of thousands if it has any. */
static uint64_t number(const char *text)
{
        uint64_t n = 0;

        for (; *text == ' ' || *text == ',' || isdigit((unsigned char)*text); text++) {
                if (!isdigit((unsigned char)*text))
                        continue;
                if (n > UINT64_MAX / 10 - 9)
                        return UINT64_MAX;
                n = n * 10 + (uint64_t)(*text - '0');
        }
        return n;
}

void result_line(const char *line, void *context)
{
        static const char files[] = "Number of regular files transferred:", deleted[] = "Number of deleted files:",
                          literal[] = "Literal data:";
        struct files_result *r = context;

        if (strncmp(line, files, sizeof(files) - 1) == 0)
                r->files = number(line + sizeof(files) - 1);
        else if (strncmp(line, deleted, sizeof(deleted) - 1) == 0)
                r->deleted += number(line + sizeof(deleted) - 1);
        else if (strncmp(line, literal, sizeof(literal) - 1) == 0)
                r->bytes_changed = number(line + sizeof(literal) - 1);
        else if (strncmp(line, TREE_NOTE_DELETED, sizeof(TREE_NOTE_DELETED) - 1) == 0)
                r->deleted += number(line + sizeof(TREE_NOTE_DELETED) - 1);
        else if (strcmp(line, TREE_NOTE_VOID) == 0)
                r->mark_was_void = true;
}
