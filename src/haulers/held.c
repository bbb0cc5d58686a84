/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/held.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"

struct held {
        struct loop *loop;
        const struct held_handlers *handlers;
        void *context;
        int listener, connection;
        pid_t hold_pid; /* at the other end of the connection */
        struct source *on_listener, *on_connection;
        char *path;
        bool announced;
};

static void drop_connection(struct held *h)
{
        source_free(TAKE_PTR(h->on_connection));
        if (h->connection >= 0)
                (void)close(TAKE_FD(h->connection));
}

static void on_connection(int fd, uint32_t events, void *context)
{
        struct held *h = context;
        char packet[128];
        int passed = -1;

        (void)events;
        ssize_t n = fd_recv_packet(fd, packet, sizeof(packet), &passed);
        if (passed >= 0)
                (void)close(passed);
        if (n == -EAGAIN)
                return;
        json_t *message = n > 0 ? json_loadb(packet, (size_t)n, 0, NULL) : NULL;
        json_int_t pid = json_integer_value(json_object_get(message, "held"));
        json_decref(message);
        if (pid <= 1 || pid > INT32_MAX || !h->handlers->belongs((pid_t)pid, h->context)) {
                /* Gone, or nonsense. If CRIU is gone as well, the end comes by way of the restore program. */
                drop_connection(h);
                return;
        }
        if (!h->announced) {
                h->announced = true;
                h->handlers->held((pid_t)pid, h->hold_pid, h->context);
        }
}

static void on_listener(int fd, uint32_t events, void *context)
{
        struct held *h = context;
        struct ucred peer;
        socklen_t size = sizeof(peer);

        (void)events;
        AUTO_FD int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (connection < 0 || getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
                return;
        drop_connection(h);
        h->hold_pid = peer.pid;
        if (loop_add_io(h->loop, connection, EPOLLIN, on_connection, h, &h->on_connection) == 0)
                h->connection = TAKE_FD(connection);
}

static int listen_at(struct held *h, struct error *err)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(h->path) >= sizeof(address.sun_path))
                return error_set(err, ENAMETOOLONG, "the path of the hold socket is too long");
        memcpy(address.sun_path, h->path, strlen(h->path) + 1);
        (void)unlink(h->path);
        h->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (h->listener < 0 || bind(h->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(h->listener, 4) < 0)
                return error_errno(err, errno, "cannot listen at %s", h->path);
        int result = loop_add_io(h->loop, h->listener, EPOLLIN, on_listener, h, &h->on_listener);
        return result < 0 ? error_errno(err, -result, "cannot watch the hold socket") : 0;
}

int held_new(struct loop *loop, const char *path, const struct held_handlers *handlers, void *context,
             struct held **ret, struct error *err)
{
        CLEANUP(held_free_ptr) struct held *h = calloc(1, sizeof(*h));

        if (!h)
                return error_set(err, ENOMEM, "out of memory");
        *h = (struct held){.loop = loop, .handlers = handlers, .context = context, .listener = -1, .connection = -1};
        h->path = strdup(path);
        int result = h->path ? listen_at(h, err) : error_set(err, ENOMEM, "out of memory");
        if (result < 0)
                return result;
        *ret = TAKE_PTR(h);
        return 0;
}

int held_answer(struct held *h, bool ok)
{
        if (h->connection < 0)
                return 0;
        ssize_t n = fd_send_packet(h->connection, ok ? "go" : "no", 2, -1);
        /* It looks at the record by itself, too, and may have read there what we are about to say, and be gone. */
        return n == -EPIPE || n == -ECONNRESET || n >= 0 ? 0 : (int)n;
}

void held_free(struct held *h)
{
        if (!h)
                return;
        drop_connection(h);
        source_free(h->on_listener);
        if (h->listener >= 0) {
                (void)close(h->listener);
                (void)unlink(h->path);
        }
        free(h->path);
        free(h);
}
