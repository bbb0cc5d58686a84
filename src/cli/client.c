/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BASE "http://phauld/api/v1"
#define CALL_LIMIT_S 120L

struct client {
        char *socket;
        CURL *curl; /* for calls: keeps its connection */
};

struct answer {
        char *text;
        size_t size;
};

int client_new(const char *socket, struct client **ret, struct error *err)
{
        CLEANUP(client_free_ptr) struct client *c = calloc(1, sizeof(*c));

        if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return error_set(err, ENOMEM, "out of memory");
        c->socket = strdup(socket);
        c->curl = curl_easy_init();
        if (!c->socket || !c->curl)
                return error_set(err, ENOMEM, "out of memory");
        *ret = TAKE_PTR(c);
        return 0;
}

void client_free(struct client *c)
{
        if (!c)
                return;
        curl_easy_cleanup(c->curl);
        free(c->socket);
        free(c);
}

static size_t on_body(char *bytes, size_t one, size_t size, void *context)
{
        struct answer *a = context;

        (void)one;
        if (a->size + size > CLIENT_ANSWER_MAX)
                return 0;
        char *grown = realloc(a->text, a->size + size + 1);
        if (!grown)
                return 0;
        memcpy(grown + a->size, bytes, size);
        a->text = grown;
        a->size += size;
        a->text[a->size] = '\0';
        return size;
}

static int from_curl(const struct client *c, CURLcode code, struct error *err)
{
        switch (code) {
        case CURLE_COULDNT_CONNECT:
                if (access(c->socket, W_OK) < 0 && errno == EACCES)
                        return error_set_kind(err, ERROR_DENIED, EACCES,
                                              "you may not use phauld at %s: root and members of group phaul only",
                                              c->socket);
                return error_set(err, ECONNREFUSED, "cannot reach phauld at %s: is it running?", c->socket);
        case CURLE_GOT_NOTHING:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_PARTIAL_FILE:
                return error_set(err, ECONNRESET, "phauld at %s closed the connection: was it restarted?", c->socket);
        case CURLE_OPERATION_TIMEDOUT:
                return error_set(err, ETIMEDOUT, "phauld at %s did not answer within %ld s", c->socket, CALL_LIMIT_S);
        default:
                return error_set(err, EIO, "phauld at %s: %s", c->socket, curl_easy_strerror(code));
        }
}

/* A problem document as the error it stands for. */
static int from_problem(long status, const json_t *problem, struct error *err)
{
        const char *kind = json_string_value(json_object_get(problem, "kind"));
        const char *detail = json_string_value(json_object_get(problem, "detail"));

        return error_set_kind(err, error_kind_from_name(kind), EPROTO, "%s",
                              detail ? detail : "phauld answered with an error without a text") < 0
                       ? (status == 404 ? -ENOENT : -EPROTO)
                       : -EPROTO;
}

static void prepare(CURL *curl, const struct client *c, const char *url)
{
        curl_easy_reset(curl);
        (void)curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
        (void)curl_easy_setopt(curl, CURLOPT_URL, url);
        (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
        (void)curl_easy_setopt(curl, CURLOPT_USERAGENT, "phaul/" PHAUL_VERSION);
}

static int perform(struct client *c, const char *method, const char *path, const char *body, const char *key,
                   struct answer *answer, long *ret_status, struct error *err)
{
        char url[1024], header[192];
        struct curl_slist *headers = NULL;

        if (snprintf(url, sizeof(url), BASE "%s", path) >= (int)sizeof(url))
                return error_set(err, ENAMETOOLONG, "request too long");
        prepare(c->curl, c, url);
        (void)curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
        (void)curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, CALL_LIMIT_S);
        (void)curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
        (void)curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, answer);
        if (body) {
                headers = curl_slist_append(headers, "Content-Type: application/json");
                (void)curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
        }
        if (key) {
                (void)snprintf(header, sizeof(header), "Idempotency-Key: %s", key);
                headers = curl_slist_append(headers, header);
        }
        (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
        CURLcode code = curl_easy_perform(c->curl);
        curl_slist_free_all(headers);
        if (code != CURLE_OK)
                return from_curl(c, code, err);
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, ret_status);
        return 0;
}

int client_call(struct client *c, const char *method, const char *path, const json_t *body, const char *key,
                json_t **ret, struct error *err)
{
        AUTO_FREE char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
        struct answer answer = {0};
        json_t *value = NULL;
        long status = 0;

        if (body && !text)
                return error_set(err, ENOMEM, "out of memory");
        int r = perform(c, method, path, text, key, &answer, &status, err);
        if (r == 0 && answer.size > 0)
                value = json_loadb(answer.text, answer.size, JSON_REJECT_DUPLICATES, NULL);
        if (r == 0 && (status < 200 || status > 299))
                r = from_problem(status, value, err);
        else if (r == 0 && answer.size > 0 && !value)
                r = error_set(err, EBADMSG, "phauld's answer is not JSON");
        free(answer.text);
        if (r == 0 && ret)
                *ret = value;
        else
                json_decref(value);
        return r;
}

int client_query(struct client *c, char *buffer, size_t size, const char *name, const char *value)
{
        size_t used = strlen(buffer);
        char *escaped = curl_easy_escape(c->curl, value, 0);

        if (!escaped)
                return -ENOMEM;
        int n = snprintf(buffer + used, size - used, "%c%s=%s", strchr(buffer, '?') ? '&' : '?', name, escaped);
        curl_free(escaped);
        return n < (int)(size - used) ? 0 : -ENAMETOOLONG;
}

/* -- the event stream --------------------------------------------------------------------------------------------- */

struct stream {
        struct client *client;
        CURLM *multi;
        CURL *curl;
        struct curl_slist *headers;
        char url[256];
        struct sse sse;
        stream_fn fn;
        void *context;
        bool running;
};

static size_t on_events(char *bytes, size_t one, size_t size, void *context)
{
        struct stream *s = context;
        long status = 0;

        (void)one;
        (void)curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
        if (status != 200)
                return 0;
        return sse_feed(&s->sse, bytes, size, s->fn, s->context) < 0 ? 0 : size;
}

static void stop(struct stream *s)
{
        if (s->curl) {
                (void)curl_multi_remove_handle(s->multi, s->curl);
                curl_easy_cleanup(TAKE_PTR(s->curl));
        }
        curl_slist_free_all(TAKE_PTR(s->headers));
        s->running = false;
}

int stream_reopen(struct stream *s)
{
        char header[64];

        stop(s);
        s->curl = curl_easy_init();
        if (!s->curl)
                return -ENOMEM;
        prepare(s->curl, s->client, s->url);
        (void)curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_events);
        (void)curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, s);
        if (s->sse.last_id[0]) {
                (void)snprintf(header, sizeof(header), "Last-Event-ID: %s", s->sse.last_id);
                s->headers = curl_slist_append(NULL, header);
                (void)curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, s->headers);
        }
        /* Half an event of the old connection is no beginning of one on the new. */
        s->sse.line_size = s->sse.data_size = 0;
        s->sse.failed = 0;
        if (curl_multi_add_handle(s->multi, s->curl) != CURLM_OK)
                return -ENOMEM;
        s->running = true;
        return 0;
}

int stream_open(struct client *c, const char *migration, stream_fn fn, void *context, struct stream **ret,
                struct error *err)
{
        CLEANUP(stream_free_ptr) struct stream *s = calloc(1, sizeof(*s));

        if (!s)
                return error_set(err, ENOMEM, "out of memory");
        s->client = c;
        s->fn = fn;
        s->context = context;
        if (migration) /* from the beginning: nothing is missed between ordering it and listening */
                (void)strcpy(s->sse.last_id, "0");
        s->multi = curl_multi_init();
        (void)snprintf(s->url, sizeof(s->url), BASE "/events%s%s", migration ? "?migration=" : "",
                       migration ? migration : "");
        if (!s->multi || stream_reopen(s) < 0)
                return error_set(err, ENOMEM, "out of memory");
        *ret = TAKE_PTR(s);
        return 0;
}

int stream_wait(struct stream *s, int wake_fd, int timeout_ms)
{
        struct curl_waitfd wake = {.fd = wake_fd, .events = CURL_WAIT_POLLIN};
        int running = 0;

        if (!s->running)
                return -ENOTCONN;
        if (curl_multi_perform(s->multi, &running) != CURLM_OK)
                return -EIO;
        if (running && curl_multi_poll(s->multi, &wake, wake_fd >= 0 ? 1 : 0, timeout_ms, NULL) != CURLM_OK)
                return -EIO;
        if (running && curl_multi_perform(s->multi, &running) != CURLM_OK)
                return -EIO;
        if (!running)
                s->running = false;
        return s->running ? 0 : -ECONNRESET;
}

void stream_free(struct stream *s)
{
        if (!s)
                return;
        stop(s);
        if (s->multi)
                (void)curl_multi_cleanup(s->multi);
        sse_done(&s->sse);
        free(s);
}
