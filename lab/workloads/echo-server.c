/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * echo-server PORT
 *
 * Sends back what it receives, on IPv4 and IPv6, on any number of connections. What a slow peer does not take at once
 * stays in the socket: the server reads no more than it could send back.
 */
#include "common.h"
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static int listen_on(uint16_t port)
{
        struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
        int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool six = fd >= 0;

        if (!six)
                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (six)
                setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
        if (bind(fd, six ? (void *)&any6 : (void *)&any4, six ? sizeof(any6) : sizeof(any4)) < 0 ||
            listen(fd, 1024) < 0)
                die("port %u: %s", port, strerror(errno));
        return fd;
}

/* Blocking sockets: a reader that does not read holds up the others, which is fine here and keeps every byte in order.
 */
static bool echo(int fd)
{
        char buffer[65536];
        ssize_t length = recv(fd, buffer, sizeof(buffer), 0);

        for (ssize_t sent = 0, n; sent < length; sent += n) {
                n = send(fd, buffer + sent, (size_t)(length - sent), MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR)
                        n = 0;
                if (n < 0)
                        return false;
        }
        return length > 0 || (length < 0 && errno == EINTR);
}

int main(int argc, char **argv)
{
        long port = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
        struct epoll_event event = {.events = EPOLLIN};

        if (port < 1 || port > 65535)
                die("echo-server PORT");
        int listener = listen_on((uint16_t)port), epoll = epoll_create1(EPOLL_CLOEXEC);
        event.data.fd = listener;
        if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
                die("epoll: %s", strerror(errno));
        stop_on_signals();
        while (!asked_to_stop) {
                if (epoll_wait(epoll, &event, 1, -1) != 1)
                        continue;
                int fd = event.data.fd;
                if (fd != listener) {
                        if (!echo(fd))
                                close(fd);
                        continue;
                }
                fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                if (fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                        close(fd);
        }
        return 0;
}
