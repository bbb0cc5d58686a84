/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * phaul-rsh STREAM COUNTERS GATE [anything…]: what rsync takes for its remote shell. Copies bytes between its standard
 * input and output and the stream socket it inherited, both ways with half-close, and counts what it sends. With a
 * gate (a pipe; "-" for none) it first waits for one byte from there; end of file means the job is over. What rsync
 * adds to the command line (host, remote command) is ignored: the other end decides for itself what it runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "files/counters.h"

#define CHUNK (256U * 1024)

/* One direction. */
struct lane {
        int from, to;
        char *data;
        size_t start, end;
        bool ended;                /* `from` has nothing more */
        bool closed;               /* and `to` was told */
        _Atomic uint64_t *counter; /* may be NULL */
};

static int fd_argument(const char *text)
{
        char *end;
        long n = strtol(text, &end, 10);

        return end == text || *end || n < 3 || n > 1000000 ? -1 : (int)n;
}

static bool again(void)
{
        return errno == EAGAIN || errno == EINTR;
}

/* Move what can be moved without waiting. False: the lane is broken. */
static bool lane_step(struct lane *l)
{
        if (l->start == l->end && !l->ended) {
                ssize_t n = read(l->from, l->data, CHUNK);
                if (n < 0 && !again())
                        return false;
                l->start = 0;
                l->end = n > 0 ? (size_t)n : 0;
                l->ended = n == 0;
        }
        if (l->start < l->end) {
                ssize_t n = write(l->to, l->data + l->start, l->end - l->start);
                if (n < 0 && !again())
                        return false;
                if (n > 0) {
                        l->start += (size_t)n;
                        if (l->counter)
                                (void)atomic_fetch_add(l->counter, (uint64_t)n);
                }
        }
        if (l->ended && l->start == l->end && !l->closed) {
                /* A socket is half-closed, whatever else is closed. */
                if (shutdown(l->to, SHUT_WR) < 0 && errno == ENOTSOCK)
                        (void)close(l->to);
                l->closed = true;
        }
        return true;
}

static int relay(struct lane lanes[2])
{
        /* As with any remote shell: over when the far end is. rsync itself never closes first, it waits for us to exit.
         */
        while (!lanes[1].closed) {
                struct pollfd p[2] = {{.fd = -1}, {.fd = -1}};
                for (int i = 0; i < 2; i++) {
                        if (lanes[i].closed)
                                continue;
                        bool full = lanes[i].start < lanes[i].end;
                        p[i].fd = full ? lanes[i].to : lanes[i].from;
                        p[i].events = full ? POLLOUT : POLLIN;
                }
                if (poll(p, 2, -1) < 0 && errno != EINTR)
                        return EXIT_FAILURE;
                for (int i = 0; i < 2; i++)
                        if (p[i].revents && !lanes[i].closed && !lane_step(&lanes[i]))
                                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
        struct lane lanes[2] = {{.from = 0}, {.to = 1}};
        int stream = argc > 3 ? fd_argument(argv[1]) : -1;
        int memory = argc > 3 ? fd_argument(argv[2]) : -1;
        char byte;

        if (stream < 0 || memory < 0) {
                (void)fprintf(stderr, "phaul-rsh is run by rsync, on behalf of phaul\n");
                return EXIT_FAILURE;
        }
        (void)signal(SIGPIPE, SIG_IGN);
        struct files_counters *counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        lanes[0].data = malloc(CHUNK);
        lanes[1].data = malloc(CHUNK);
        if (counters == MAP_FAILED || !lanes[0].data || !lanes[1].data)
                return EXIT_FAILURE;
        if (strcmp(argv[3], "-") != 0) {
                int gate = fd_argument(argv[3]);
                if (gate < 0 || fd_read_full(gate, &byte, 1) != 1)
                        return EXIT_FAILURE;
                (void)close(gate);
        }
        if (fd_nonblock(0) < 0 || fd_nonblock(1) < 0 || fd_nonblock(stream) < 0)
                return EXIT_FAILURE;
        lanes[0].to = stream;
        lanes[0].counter = &counters->sent;
        lanes[1].from = stream;
        return relay(lanes);
}
