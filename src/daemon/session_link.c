/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/session_link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/fd.h"
#include "session/protocol.h"

#define QUEUE_MAX 64

struct waiting_packet {
        struct waiting_packet *next;
        char *text;
        size_t size;
        int fd;
};

struct session_link {
        struct loop *loop;
        struct sockaddr_un address;
        struct session_link_handlers handlers;
        void *context;
        int fd;
        struct source *io, *retry;
        uint64_t give_up_ms;
        struct waiting_packet *first, **last;
        size_t waiting;
        char buffer[SESSION_PACKET_MAX];
};

static void drop_packet(struct waiting_packet *p)
{
        if (p->fd >= 0)
                (void)close(p->fd);
        free(p->text);
        free(p);
}

void session_link_free(struct session_link *l)
{
        if (!l)
                return;
        source_free(l->io);
        source_free(l->retry);
        if (l->fd >= 0)
                (void)close(l->fd);
        while (l->first) {
                struct waiting_packet *p = l->first;
                l->first = p->next;
                drop_packet(p);
        }
        free(l);
}

static void gone(struct session_link *l, bool was_connected)
{
        source_free(TAKE_PTR(l->io));
        source_free(TAKE_PTR(l->retry));
        l->handlers.gone(was_connected, l->context);
}

/* A session that has closed its end takes nothing more, but what it said before is still to be read: no failure. */
static void flush(struct session_link *l)
{
        while (l->first) {
                struct waiting_packet *p = l->first;
                ssize_t n = fd_send_packet(l->fd, p->text, p->size, p->fd);
                if (n == -EAGAIN)
                        break;
                l->first = p->next;
                if (!l->first)
                        l->last = &l->first;
                l->waiting--;
                drop_packet(p);
        }
        (void)source_set_events(l->io, EPOLLIN | (l->first ? (uint32_t)EPOLLOUT : 0U));
}

/* One packet; 1 handled (the link may be gone by then), 0 nothing there, negative: broken or ended. */
static int receive(struct session_link *l)
{
        int stray = -1;
        ssize_t n = fd_recv_packet(l->fd, l->buffer, sizeof(l->buffer), &stray);

        if (stray >= 0)
                (void)close(stray);
        if (n == -EAGAIN)
                return 0;
        if (n <= 0)
                return n < 0 ? (int)n : -EPIPE;
        json_t *packet = json_loadb(l->buffer, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        const char *name = json_string_value(json_object_get(packet, "event"));
        if (!name) {
                json_decref(packet);
                return -EBADMSG;
        }
        l->handlers.event(name, packet, l->context);
        json_decref(packet);
        return 1;
}

static void on_io(int fd, uint32_t events, void *context)
{
        struct session_link *l = context;

        (void)fd;
        if (events & EPOLLOUT)
                flush(l);
        /* One packet per round: the handler may free the link. Level-triggered, so the rest comes next. */
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive(l) < 0)
                gone(l, true);
}

static int try_connect(struct session_link *l)
{
        AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)&l->address, sizeof(l->address)) < 0)
                return -errno;
        int r = loop_add_io(l->loop, fd, EPOLLIN, on_io, l, &l->io);
        if (r < 0)
                return r;
        l->fd = TAKE_FD(fd);
        return 0;
}

static void on_retry(void *context)
{
        struct session_link *l = context;

        if (try_connect(l) == 0) {
                source_free(TAKE_PTR(l->retry));
                flush(l);
        } else if (clock_ms() >= l->give_up_ms)
                gone(l, false);
        else
                (void)source_set_timer(l->retry, SESSION_CONNECT_RETRY_MS);
}

int session_link_new(struct loop *loop, const char *path, unsigned patience_ms,
                     const struct session_link_handlers *handlers, void *context, struct session_link **ret,
                     struct error *err)
{
        CLEANUP(session_link_free_ptr) struct session_link *l = calloc(1, sizeof(*l));

        if (!l)
                return error_set(err, ENOMEM, "out of memory");
        l->loop = loop;
        l->handlers = *handlers;
        l->context = context;
        l->fd = -1;
        l->last = &l->first;
        l->give_up_ms = clock_ms() + patience_ms;
        l->address.sun_family = AF_UNIX;
        if (snprintf(l->address.sun_path, sizeof(l->address.sun_path), "%s", path) >= (int)sizeof(l->address.sun_path))
                return error_set(err, ENAMETOOLONG, "the path of the session's socket is too long: %s", path);
        int r = try_connect(l);
        if (r < 0 && patience_ms == 0)
                return error_errno(err, -r, "no session answers at %s", path);
        if (r < 0)
                r = loop_add_timer(loop, SESSION_CONNECT_RETRY_MS, on_retry, l, &l->retry);
        if (r < 0)
                return error_errno(err, -r, "cannot wait for the session");
        *ret = TAKE_PTR(l);
        return 0;
}

void session_link_hurry(struct session_link *l)
{
        if (l->retry) {
                l->give_up_ms = 0;
                (void)source_set_timer(l->retry, 0);
        }
}

int session_link_send(struct session_link *l, json_t *packet, int fd)
{
        struct waiting_packet *p = l->waiting < QUEUE_MAX ? calloc(1, sizeof(*p)) : NULL;
        char *text = packet ? json_dumps(packet, JSON_COMPACT) : NULL;

        json_decref(packet);
        if (!p || !text || strlen(text) > SESSION_PACKET_MAX) {
                free(p);
                free(text);
                if (fd >= 0)
                        (void)close(fd);
                return -ENOBUFS;
        }
        *p = (struct waiting_packet){.text = text, .size = strlen(text), .fd = fd};
        *l->last = p;
        l->last = &p->next;
        l->waiting++;
        if (l->fd >= 0)
                flush(l);
        return 0;
}
