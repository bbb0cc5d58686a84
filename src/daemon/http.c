/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/caller.h"
#include "daemon/problem.h"

#define HEADERS_MEMORY (32U * 1024) /* request line and headers, with their parsed form */
#define IDLE_SECONDS 15U /* of a client that has something to say; who waits for us, or for events, may wait */

struct http {
        struct loop *loop;
        struct MHD_Daemon *server;
        struct source *io, *timer, *beat;
        struct http_options options;
        http_handler_fn handler;
        void *context;
        struct request *requests;
        struct events *events; /* whose heartbeat is due; NULL before the first stream */
        bool stopping;
};

struct request {
        struct http *http;
        struct request *next;
        struct MHD_Connection *connection;
        char *method, *path;
        char *body;
        size_t size;
        uid_t uid;
        struct MHD_Response *response;
        unsigned status;
        char *header_name, *header_value;
        struct event_reader *reader;
        bool dispatched, suspended, queued, stream_waits;
};

static void kick(struct http *http)
{
        (void)source_set_timer(http->timer, 0);
}

static void run(struct http *http)
{
        MHD_UNSIGNED_LONG_LONG ms = 0;

        (void)MHD_run(http->server);
        if (MHD_get_timeout(http->server, &ms) == MHD_YES)
                (void)source_set_timer(http->timer, ms);
}

static void on_io(int fd, uint32_t events, void *context)
{
        (void)fd;
        (void)events;
        run(context);
}

static void on_timer(void *context)
{
        run(context);
}

static void on_beat(void *context)
{
        struct http *http = context;

        if (http->events)
                events_heartbeat(http->events);
        (void)source_set_timer(http->beat, http->options.heartbeat_ms);
}

/* -- replies ------------------------------------------------------------------------------------------------------ */

static void reply(struct request *r, unsigned status, struct MHD_Response *response)
{
        if (r->response || r->queued) {
                if (response)
                        MHD_destroy_response(response);
                return;
        }
        r->response = response;
        r->status = status;
        if (response && r->header_name)
                (void)MHD_add_response_header(response, r->header_name, r->header_value);
        if (r->suspended) {
                r->suspended = false;
                MHD_resume_connection(r->connection);
                kick(r->http);
        }
}

static void reply_copy(struct request *r, unsigned status, const char *type, const char *text)
{
        struct MHD_Response *response =
                MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);

        if (response) {
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        }
        reply(r, status, response);
}

static void reply_document(struct request *r, unsigned status, const char *type, json_t *body)
{
        AUTO_FREE char *text = body ? json_dumps(body, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;

        json_decref(body);
        if (text)
                reply_copy(r, status, type, text);
        else
                reply_copy(r, 500, PROBLEM_TYPE,
                           "{\"type\": \"about:blank\", \"title\": \"Internal Server Error\", \"status\": 500, "
                           "\"kind\": \"failed\", \"detail\": \"out of memory\"}");
}

void request_reply_json(struct request *r, unsigned status, json_t *body)
{
        reply_document(r, status, "application/json", body);
}

void request_reply_problem(struct request *r, unsigned status, const struct error *err)
{
        if (status == 0)
                status = problem_status(err);
        reply_document(r, status, PROBLEM_TYPE, problem_document(status, err));
}

void request_reply_text(struct request *r, unsigned status, const char *type, const char *text)
{
        reply_copy(r, status, type, text);
}

void request_reply_empty(struct request *r)
{
        reply(r, 204, MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
}

void request_set_header(struct request *r, const char *name, const char *value)
{
        free(r->header_name);
        free(r->header_value);
        r->header_name = strdup(name);
        r->header_value = strdup(value);
        if (!r->header_name || !r->header_value) {
                free(TAKE_PTR(r->header_name));
                free(TAKE_PTR(r->header_value));
        }
}

/* -- event streams ------------------------------------------------------------------------------------------------ */

static void on_event(void *context)
{
        struct request *r = context;

        if (r->stream_waits) {
                r->stream_waits = false;
                MHD_resume_connection(r->connection);
                kick(r->http);
        }
}

static ssize_t read_events(void *context, uint64_t position, char *buffer, size_t size)
{
        struct request *r = context;

        (void)position;
        if (r->http->stopping)
                return MHD_CONTENT_READER_END_OF_STREAM;
        size_t n = event_reader_read(r->reader, buffer, size);
        if (n == 0) {
                r->stream_waits = true;
                MHD_suspend_connection(r->connection);
        }
        return (ssize_t)n;
}

void request_reply_events(struct request *r, struct events *events, bool resume, uint64_t last_id,
                          const char *migration)
{
        struct error err = {0};

        if (event_reader_new(events, resume, last_id, migration, on_event, r, &r->reader) < 0) {
                (void)error_set(&err, ENOMEM, "out of memory");
                request_reply_problem(r, 0, &err);
                return;
        }
        r->http->events = events;
        struct MHD_Response *response =
                MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, r, NULL);
        if (response) {
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        }
        reply(r, 200, response);
}

/* -- requests ----------------------------------------------------------------------------------------------------- */

const char *request_method(const struct request *r)
{
        return r->method;
}

const char *request_path(const struct request *r)
{
        return r->path;
}

const char *request_header(const struct request *r, const char *name)
{
        return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

const char *request_query(const struct request *r, const char *name)
{
        return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

uid_t request_uid(const struct request *r)
{
        return r->uid;
}

const char *request_body(const struct request *r)
{
        return r->body ? r->body : "";
}

int request_json(const struct request *r, json_t **ret, struct error *err)
{
        json_error_t where;
        const char *type = request_header(r, MHD_HTTP_HEADER_CONTENT_TYPE);

        if (type && strncmp(type, "application/json", 16) != 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body must be application/json");
        json_t *value = json_loadb(request_body(r), r->size, JSON_REJECT_DUPLICATES, &where);
        if (!value)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body is not valid JSON: line %d: %s", where.line,
                                      where.text);
        if (!json_is_object(value)) {
                json_decref(value);
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body must be a JSON object");
        }
        *ret = value;
        return 0;
}

static void request_free(struct request *r)
{
        for (struct request **p = &r->http->requests; *p; p = &(*p)->next)
                if (*p == r) {
                        *p = r->next;
                        break;
                }
        event_reader_free(r->reader);
        if (r->response)
                MHD_destroy_response(r->response);
        free(r->method);
        free(r->path);
        free(r->body);
        free(r->header_name);
        free(r->header_value);
        free(r);
}

static struct request *request_new(struct http *http, struct MHD_Connection *c, const char *url, const char *method)
{
        struct request *r = calloc(1, sizeof(*r));

        if (!r)
                return NULL;
        r->http = http;
        r->connection = c;
        r->uid = (uid_t)-1;
        r->method = strdup(method);
        r->path = strdup(url);
        r->next = http->requests;
        http->requests = r;
        if (!r->method || !r->path) {
                request_free(r);
                return NULL;
        }
        return r;
}

static int check_caller(struct request *r, struct error *err)
{
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        if (!info)
                return error_set_kind(err, ERROR_DENIED, EACCES, "cannot find out who calls");
        int n = caller_check(info->connect_fd, r->http->options.group, &r->uid, err);
        if (n < 0 && !r->http->options.check_callers) {
                error_clear(err);
                return 0;
        }
        return n;
}

static enum MHD_Result queue(struct request *r)
{
        enum MHD_Result result = MHD_NO;

        r->queued = true;
        if (r->response) {
                result = MHD_queue_response(r->connection, r->status, r->response);
                MHD_destroy_response(TAKE_PTR(r->response));
        }
        return result;
}

static void begin(struct request *r)
{
        const char *length = request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
        struct error err = {0};

        if (check_caller(r, &err) < 0)
                request_reply_problem(r, 0, &err);
        else if (length && strtoull(length, NULL, 10) > HTTP_BODY_MAX) {
                (void)error_set_kind(&err, ERROR_USAGE, E2BIG, "the body is larger than %u bytes", HTTP_BODY_MAX);
                request_reply_problem(r, 0, &err);
        }
}

static void collect(struct request *r, const char *data, size_t size)
{
        struct error err = {0};

        if (r->response)
                return; /* refused already: the rest is read and dropped */
        if (r->size + size > HTTP_BODY_MAX) {
                (void)error_set_kind(&err, ERROR_USAGE, E2BIG, "the body is larger than %u bytes", HTTP_BODY_MAX);
                request_reply_problem(r, 0, &err);
                return;
        }
        char *grown = realloc(r->body, r->size + size + 1);
        if (!grown) {
                (void)error_set(&err, ENOMEM, "out of memory");
                request_reply_problem(r, 0, &err);
                return;
        }
        memcpy(grown + r->size, data, size);
        r->body = grown;
        r->size += size;
        r->body[r->size] = '\0';
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **state)
{
        struct http *http = context;
        struct request *r = *state;

        (void)version;
        if (!r) {
                r = request_new(http, c, url, method);
                if (!r)
                        return MHD_NO;
                *state = r;
                begin(r);
                /* Answering before the body was read is allowed here, and ends the connection after the answer. */
                return r->response ? queue(r) : MHD_YES;
        }
        if (*size > 0) {
                collect(r, data, *size);
                *size = 0;
                return MHD_YES;
        }
        if (!r->dispatched && !r->response) {
                r->dispatched = true;
                http->handler(r, http->context);
        }
        if (r->response || http->stopping)
                return queue(r);
        r->suspended = true;
        MHD_suspend_connection(c);
        return MHD_YES;
}

static void on_completed(void *context, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode code)
{
        (void)context;
        (void)c;
        (void)code;
        if (*state)
                request_free(*state);
        *state = NULL;
}

int http_new(struct loop *loop, int listen_fd, const struct http_options *options, http_handler_fn handler,
             void *context, struct http **ret, struct error *err)
{
        CLEANUP(http_free_ptr) struct http *http = calloc(1, sizeof(*http));

        if (!http) {
                (void)close(listen_fd);
                return error_set(err, ENOMEM, "out of memory");
        }
        http->loop = loop;
        http->options = *options;
        http->handler = handler;
        http->context = context;
        http->server = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, http,
                                        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
                                        (unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                        (size_t)HEADERS_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
                                        MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_END);
        if (!http->server) {
                (void)close(listen_fd);
                return error_set(err, EIO, "cannot start the HTTP server");
        }
        const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->server, MHD_DAEMON_INFO_EPOLL_FD);
        if (!info)
                return error_set(err, EIO, "the HTTP server has no epoll descriptor");
        int r = loop_add_io(loop, info->epoll_fd, EPOLLIN, on_io, http, &http->io);
        if (r == 0)
                r = loop_add_timer(loop, 0, on_timer, http, &http->timer);
        if (r == 0 && options->heartbeat_ms)
                r = loop_add_timer(loop, options->heartbeat_ms, on_beat, http, &http->beat);
        if (r < 0)
                return error_errno(err, -r, "cannot watch the HTTP server");
        *ret = TAKE_PTR(http);
        return 0;
}

void http_free(struct http *http)
{
        if (!http)
                return;
        http->stopping = true;
        for (struct request *r = http->requests; r; r = r->next)
                if (r->suspended || r->stream_waits) {
                        r->suspended = r->stream_waits = false;
                        MHD_resume_connection(r->connection);
                }
        source_free(http->io);
        source_free(http->timer);
        source_free(http->beat);
        if (http->server) {
                (void)MHD_run(http->server); /* takes the resumed ones back into its lists */
                MHD_stop_daemon(http->server);
        }
        free(http);
}
