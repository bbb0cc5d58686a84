/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"
#include "session/protocol.h"
#include "session/peer.h"
#include "session/tunnel.h"

#define WATCHERS_MAX 8

struct watcher {
        struct session *session;
        int fd;
        struct source *source;
};

struct session_control {
        struct session *session;
        int listen_fd;
        struct source *source;
        struct watcher watchers[WATCHERS_MAX];
};

static void watcher_drop(struct watcher *w)
{
        source_free(w->source);
        w->source = NULL;
        if (w->fd >= 0)
                (void)close(w->fd);
        w->fd = -1;
}

static void watcher_send(struct watcher *w, const json_t *object)
{
        AUTO_FREE char *text = json_dumps(object, JSON_COMPACT);

        if (w->fd < 0 || !text || strlen(text) > SESSION_PACKET_MAX)
                return;
        /* A watcher that does not read must not hold the workload up: it is dropped and may come back. */
        if (fd_send_packet(w->fd, text, strlen(text), -1) < 0)
                watcher_drop(w);
}

void control_event(struct session *s, json_t *object)
{
        if (s->control && object)
                for (size_t i = 0; i < WATCHERS_MAX; i++)
                        watcher_send(&s->control->watchers[i], object);
        json_decref(object);
}

static void send_state(struct watcher *w)
{
        struct session *s = w->session;
        json_t *state = json_pack("{s:s, s:s, s:s}", "event", "state", "state", handover_state_name(s->state), "phase",
                                  s->phase);

        if (state)
                watcher_send(w, state);
        json_decref(state);
        json_t *attention = session_attention_event(s);
        if (attention)
                watcher_send(w, attention);
        json_decref(attention);
        json_t *stalled = s->stalled[0] ? json_pack("{s:s, s:s}", "event", "stalled", "text", s->stalled) : NULL;
        if (stalled)
                watcher_send(w, stalled);
        json_decref(stalled);
}

static void do_cancel(struct watcher *w)
{
        struct session *s = w->session;
        struct handover_step step;
        bool late = handover_step(s->state, EVENT_CANCEL, &step) < 0 || (step.acts & ACT_REFUSE_LATE);
        json_t *answer = json_pack("{s:s, s:b, s:s}", "event", "cancel", "ok", !late, "text",
                                   late ? "too late to cancel: the decision is made" : "cancelling");

        if (!late)
                s->cancel_requested = true;
        if (answer)
                watcher_send(w, answer);
        json_decref(answer);
}

static void do_attach(struct watcher *w, json_t *request, int fd)
{
        const char *fingerprint = json_string_value(json_object_get(request, "peer"));
        const json_t *hello = json_object_get(request, "hello");
        const char *token = json_string_value(json_object_get(hello, "token"));
        const char *word = json_string_value(json_object_get(hello, "purpose")) ?: "";
        json_int_t stream = json_integer_value(json_object_get(hello, "stream"));

        if (fd < 0)
                return;
        enum purpose purpose = strcmp(word, "control") == 0  ? PURPOSE_CONTROL
                               : strcmp(word, "stream") == 0 ? PURPOSE_STREAM
                               : strcmp(word, "bulk") == 0   ? PURPOSE_BULK
                                                             : 0;
        if (!fingerprint || stream < 0 || stream > UINT32_MAX || !purpose) {
                (void)close(fd);
                return;
        }
        peer_attach(w->session, fingerprint, purpose, (uint32_t)stream, token ?: "", fd);
}

static void do_lane(struct watcher *w, const json_t *request, int fd)
{
        json_int_t lane = json_integer_value(json_object_get(request, "lane"));
        const char *direction = json_string_value(json_object_get(request, "direction")) ?: "";

        if (fd < 0)
                return;
        if (lane < 0 || lane >= SESSION_LANES_MAX || !w->session->tunnel)
                (void)close(fd);
        else
                session_tunnel_lane(w->session, (unsigned)lane, strcmp(direction, "out") != 0,
                                    strcmp(direction, "in") != 0, fd);
}

static void on_packet(int fd, uint32_t events, void *context)
{
        struct watcher *w = context;
        AUTO_FREE char *text = malloc(SESSION_PACKET_MAX);
        int passed = -1;

        (void)events;
        ssize_t n = text ? fd_recv_packet(fd, text, SESSION_PACKET_MAX, &passed) : -ENOMEM;
        if (n <= 0) {
                if (n != -EAGAIN)
                        watcher_drop(w);
                return;
        }

        json_t *request = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        const char *what = json_string_value(json_object_get(request, "do")) ?: "";
        if (strcmp(what, "attach") == 0) {
                do_attach(w, request, passed);
                passed = -1;
        } else if (strcmp(what, "lane") == 0) {
                do_lane(w, request, passed);
                passed = -1;
        } else if (strcmp(what, "cancel") == 0) {
                do_cancel(w);
        } else if (strcmp(what, "status") == 0) {
                send_state(w);
        }
        json_decref(request);
        if (passed >= 0)
                (void)close(passed);
}

static void on_connect(int fd, uint32_t events, void *context)
{
        struct session_control *c = context;
        struct ucred who = {0};
        socklen_t size = sizeof(who);
        AUTO_FD int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (client < 0 || getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.uid != 0)
                return;
        for (size_t i = 0; i < WATCHERS_MAX; i++) {
                struct watcher *w = &c->watchers[i];
                if (w->fd >= 0)
                        continue;
                if (loop_add_io(c->session->loop, client, EPOLLIN, on_packet, w, &w->source) < 0)
                        return;
                w->fd = TAKE_FD(client);
                send_state(w);
                return;
        }
}

int control_new(struct session *s, struct error *err)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const char *path = s->paths.control;

        if (strlen(path) >= sizeof(address.sun_path))
                return error_set(err, ENAMETOOLONG, "the path %s is too long for a socket", path);
        (void)strcpy(address.sun_path, path);

        struct session_control *c = calloc(1, sizeof(*c));
        if (!c)
                return error_set(err, ENOMEM, "out of memory");
        c->session = s;
        for (size_t i = 0; i < WATCHERS_MAX; i++)
                c->watchers[i] = (struct watcher){.session = s, .fd = -1};
        s->control = c;

        c->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->listen_fd < 0)
                return error_errno(err, errno, "cannot make the session's socket");
        (void)unlink(path);
        if (bind(c->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0600) < 0 ||
            listen(c->listen_fd, WATCHERS_MAX) < 0)
                return error_errno(err, errno, "cannot listen at %s", path);
        int r = loop_add_io(s->loop, c->listen_fd, EPOLLIN, on_connect, c, &c->source);
        return r < 0 ? error_errno(err, -r, "cannot watch %s", path) : 0;
}

void control_free(struct session_control *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < WATCHERS_MAX; i++)
                watcher_drop(&c->watchers[i]);
        source_free(c->source);
        if (c->listen_fd >= 0) {
                (void)close(c->listen_fd);
                (void)unlink(c->session->paths.control);
        }
        c->session->control = NULL;
        free(c);
}
