/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "net/net.h"

/* Names, addresses and the TCP connection. */

#define CONNECT_MS 5000 /* for one address; all together have handshake_ms */

static inline void addrinfo_free_ptr(struct addrinfo **p)
{
        if (*p)
                freeaddrinfo(*p);
}

void dial_name_peer(struct net *net)
{
        struct sockaddr_storage address;
        socklen_t size = sizeof(address);

        if (net->config.given) {
                (void)snprintf(net->peer, sizeof(net->peer), "%s", net->config.address);
                (void)snprintf(net->peer_numeric, sizeof(net->peer_numeric), "%.127s", net->config.address);
                return;
        }
        net->is_tcp = true;
        (void)snprintf(net->peer_numeric, sizeof(net->peer_numeric), "unknown");
        if (getpeername(net->tcp_fd, (struct sockaddr *)&address, &size) == 0) {
                char host[INET6_ADDRSTRLEN + 32];
                if (getnameinfo((struct sockaddr *)&address, size, host, sizeof(host), NULL, 0, NI_NUMERICHOST) == 0)
                        (void)snprintf(net->peer_numeric, sizeof(net->peer_numeric), "%s", host);
        }
        if (net->config.accepting)
                (void)snprintf(net->peer, sizeof(net->peer), "%s", net->peer_numeric);
}

void dial_tune(struct net *net)
{
        int on = 1, idle = 10, interval = 5, count = 3;
        int timeout = (int)net->config.silence_ms;

        (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        (void)setsockopt(net->tcp_fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
        (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
        /* Lifted for streams and bulk (greeting.c): there a receiver may lawfully be slower than that. */
        (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

/* 0, -ECANCELED when the owner went away, or why it failed. */
static int wait_connected(const struct net *net, int fd, uint64_t deadline)
{
        for (;;) {
                struct pollfd p[] = {{.fd = fd, .events = POLLOUT}, {.fd = net->record_fd, .events = 0}};
                uint64_t now = clock_ms();
                int error = 0;
                socklen_t size = sizeof(error);

                int r = poll(p, 2, now < deadline ? (int)(deadline - now) : 0);
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r > 0 && p[1].revents)
                        return -ECANCELED;
                if (r > 0 && p[0].revents) {
                        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                                return -errno;
                        return -error;
                }
                if (clock_ms() >= deadline)
                        return -ETIMEDOUT;
        }
}

static int connect_one(struct net *net, const struct addrinfo *a, uint64_t deadline)
{
        AUTO_FD int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int r = 0;

        if (fd < 0)
                return -errno;
        if (connect(fd, a->ai_addr, a->ai_addrlen) < 0)
                r = errno == EINPROGRESS ? wait_connected(net, fd, deadline) : -errno;
        if (r == 0)
                net->tcp_fd = TAKE_FD(fd);
        return r;
}

static int explain(const struct net *net, int r, uint64_t waited_ms, struct error *err)
{
        switch (-r) {
        case ECANCELED:
                return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        case ETIMEDOUT:
                return error_set(err, ETIMEDOUT, "no answer from %s for %llu s", net->peer,
                                 (unsigned long long)(waited_ms + 500) / 1000);
        case ECONNREFUSED:
                return error_set(err, ECONNREFUSED, "cannot connect to %s port %u: connection refused", net->peer,
                                 net->config.port);
        default:
                return error_errno(err, -r, "cannot connect to %s port %u", net->peer, net->config.port);
        }
}

int dial(struct net *net, struct error *err)
{
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
        CLEANUP(addrinfo_free_ptr) struct addrinfo *list = NULL;
        char port[8];
        int r;

        (void)snprintf(net->peer, sizeof(net->peer), "%s", net->config.address);
        (void)snprintf(port, sizeof(port), "%u", net->config.port & 0xffff);
        r = getaddrinfo(net->config.address, port, &hints, &list);
        if (r != 0)
                return error_set(err, EHOSTUNREACH, "cannot resolve %s: %s", net->peer, gai_strerror(r));

        uint64_t begin = clock_ms(), end = begin + net->config.handshake_ms;
        r = -EHOSTUNREACH;
        for (const struct addrinfo *a = list; a && clock_ms() < end; a = a->ai_next) {
                uint64_t deadline = clock_ms() + CONNECT_MS;
                r = connect_one(net, a, deadline < end ? deadline : end);
                if (r == 0 || r == -ECANCELED)
                        break;
        }
        if (r < 0)
                return explain(net, r, clock_ms() - begin, err);
        dial_name_peer(net);
        return 0;
}
