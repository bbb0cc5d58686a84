/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/events.h"
#include "loop/loop.h"

/*
 * The HTTP server on the Unix socket: libmicrohttpd without threads, inside our loop. It checks who calls, collects
 * bodies within limits and hands each request to one handler, which answers now or later. One thread.
 */
#define HTTP_BODY_MAX (64U * 1024)
#define HTTP_CONNECTIONS_MAX 512
#define HTTP_HEARTBEAT_MS 15000

struct http;
struct request;

typedef void (*http_handler_fn)(struct request *request, void *context);

struct http_options {
        gid_t group;        /* members may call, besides root; (gid_t)-1: nobody else */
        bool check_callers; /* false: whoever can connect (unit tests) */
        uint64_t heartbeat_ms;
};

/* `listen_fd` is taken over in any case. */
int http_new(struct loop *loop, int listen_fd, const struct http_options *options, http_handler_fn handler,
             void *context, struct http **ret, struct error *err);

/* Drops all connections, also of requests that wait for an answer: whoever keeps a request lets go of it before. */
void http_free(struct http *http);
DEFINE_CLEANUP(struct http, http_free)

const char *request_method(const struct request *request);
const char *request_path(const struct request *request);
const char *request_header(const struct request *request, const char *name); /* NULL when absent */
const char *request_query(const struct request *request, const char *name);  /* NULL when absent */
uid_t request_uid(const struct request *request);
const char *request_body(const struct request *request); /* NUL-terminated; "" for none */

/* The body as a JSON object; duplicate members are refused. Caller releases. ERROR_USAGE. */
int request_json(const struct request *request, json_t **ret, struct error *err);

/* Before the reply. */
void request_set_header(struct request *request, const char *name, const char *value);

/* Exactly one reply per request, at once or later; `body` is taken over (NULL: out of memory, a 500). */
void request_reply_json(struct request *request, unsigned status, json_t *body);
void request_reply_problem(struct request *request, unsigned status, const struct error *err); /* status 0: by kind */
void request_reply_text(struct request *request, unsigned status, const char *type, const char *text);
void request_reply_empty(struct request *request); /* 204 */
void request_reply_events(struct request *request, struct events *events, bool resume, uint64_t last_id,
                          const char *migration);
