/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SSE_MAX (4U << 20) /* bytes of one line, or of one event's data */

static int append(char **text, size_t *size, const char *bytes, size_t n)
{
        if (*size + n > SSE_MAX)
                return -EMSGSIZE;
        char *grown = realloc(*text, *size + n + 1);
        if (!grown)
                return -ENOMEM;
        memcpy(grown + *size, bytes, n);
        *text = grown;
        *size += n;
        grown[*size] = '\0';
        return 0;
}

static void dispatch(struct sse *s, stream_fn fn, void *context)
{
        if (s->data_size > 0) {
                json_t *data = json_loadb(s->data, s->data_size, JSON_REJECT_DUPLICATES, NULL);
                const struct stream_event event = {.name = s->name[0] ? s->name : "message", .data = data};
                if (data)
                        fn(&event, context);
                json_decref(data);
        }
        s->name[0] = '\0';
        s->data_size = 0;
}

static int take_line(struct sse *s, const char *line, stream_fn fn, void *context)
{
        size_t n = strcspn(line, ":");
        const char *value = line + n;

        if (*line == '\0') {
                dispatch(s, fn, context);
                return 0;
        }
        if (*value == ':')
                value++;
        if (*value == ' ')
                value++;
        if (n == 5 && strncmp(line, "event", n) == 0)
                (void)snprintf(s->name, sizeof(s->name), "%s", value);
        else if (n == 2 && strncmp(line, "id", n) == 0)
                (void)snprintf(s->last_id, sizeof(s->last_id), "%s", value);
        else if (n == 4 && strncmp(line, "data", n) == 0)
                return append(&s->data, &s->data_size, value, strlen(value));
        return 0; /* comments and what we do not know */
}

int sse_feed(struct sse *s, const char *bytes, size_t size, stream_fn fn, void *context)
{
        while (size > 0 && s->failed == 0) {
                const char *end = memchr(bytes, '\n', size);
                size_t n = end ? (size_t)(end - bytes) : size;
                s->failed = append(&s->line, &s->line_size, bytes, n);
                if (s->failed < 0 || !end)
                        break;
                if (s->line_size && s->line[s->line_size - 1] == '\r')
                        s->line[--s->line_size] = '\0';
                s->failed = take_line(s, s->line, fn, context);
                s->line_size = 0;
                bytes += n + 1;
                size -= n + 1;
        }
        return s->failed;
}

void sse_done(struct sse *s)
{
        free(s->line);
        free(s->data);
        *s = (struct sse){0};
}
