/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/* HTTP, JSON and the event stream of phauld's Unix socket. One thread; requests block, the stream does not. */
#define CLIENT_SOCKET_DEFAULT "/run/phaul/phauld.sock"
#define CLIENT_ANSWER_MAX (64U << 20)

struct client;

int client_new(const char *socket, struct client **ret, struct error *err);
void client_free(struct client *client);
DEFINE_CLEANUP(struct client, client_free)

/*
 * `path` below /api/v1. `body` may be NULL (borrowed), `key` is an Idempotency-Key or NULL. *ret (may be NULL) is the
 * answer, NULL for an empty one. A problem document becomes an error of its kind; -ECONNREFUSED when phauld is not
 * there, -ECONNRESET when it went away before the answer.
 */
int client_call(struct client *client, const char *method, const char *path, const json_t *body, const char *key,
                json_t **ret, struct error *err);

/* Adds "name=value" to a path being built in `buffer`, escaped, after '?' or '&'. */
int client_query(struct client *client, char *buffer, size_t size, const char *name, const char *value);

/* The events, of one migration or (NULL) all. After a loss it goes on after the last event seen. */
struct stream;
struct stream_event {
        const char *name;
        json_t *data; /* borrowed */
};
typedef void (*stream_fn)(const struct stream_event *event, void *context);

int stream_open(struct client *client, const char *migration, stream_fn fn, void *context, struct stream **ret,
                struct error *err);
/* Wait for events, until `wake_fd` (-1: none) is readable, or `timeout_ms`. 0; negative errno: lost, open it again. */
int stream_wait(struct stream *stream, int wake_fd, int timeout_ms);
/* Connect again, after the last event seen. */
int stream_reopen(struct stream *stream);
void stream_free(struct stream *stream);
DEFINE_CLEANUP(struct stream, stream_free)

/* The parser of a server-sent stream, for itself: any pieces in, whole events out. */
struct sse {
        char *line, *data;
        size_t line_size, data_size;
        char name[64], last_id[32];
        int failed;
};
int sse_feed(struct sse *sse, const char *bytes, size_t size, stream_fn fn, void *context);
void sse_done(struct sse *sse);
