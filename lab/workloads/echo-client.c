/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * echo-client ADDRESS PORT [--interval-us N] [--threshold-ms N] [--seconds N] [--grace-s N]
 *
 * Sends consecutive 64-bit numbers over one connection at an interval, whether or not answers come, and checks that
 * they all come back in order. Logs every gap between answers above the threshold with its time. Ends after the
 * seconds, on SIGTERM, or with the connection; waits a grace time for outstanding answers, then prints one JSON object:
 * {"sent", "acked", "lost", "max_gap_ms", "connection": "kept" or what went wrong}. Exit 1 unless kept and nothing
 * lost.
 */
#include "common.h"
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

struct run {
        int fd;
        uint64_t sent, acked, partial; /* numbers; partial: bytes of the next answer that are here */
        unsigned char pending[8];
        int64_t last_answer, max_gap, threshold;
        const char *failure;
};

static int connect_to(const char *address, const char *port)
{
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
        bool is_six = inet_pton(AF_INET6, address, &six.sin6_addr) == 1;

        if (!is_six && inet_pton(AF_INET, address, &four.sin_addr) != 1)
                die("%s is no IP address", address);
        int fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, is_six ? (void *)&six : (void *)&four, is_six ? sizeof(six) : sizeof(four)) < 0)
                die("%s port %s: %s", address, port, strerror(errno));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        fcntl(fd, F_SETFL, O_NONBLOCK);
        return fd;
}

static void send_next(struct run *r)
{
        uint64_t number = htobe64(r->sent);
        ssize_t n = send(r->fd, &number, sizeof(number), MSG_NOSIGNAL);

        if (n == sizeof(number))
                r->sent++;
        else if (n >= 0)
                r->failure = "torn send";
        else if (errno != EAGAIN && errno != EINTR)
                r->failure = strerror(errno);
}

static void note_answer(struct run *r)
{
        int64_t now = realtime_ns(), gap = now - r->last_answer;

        r->last_answer = now;
        if (gap > r->max_gap)
                r->max_gap = gap;
        if (gap > r->threshold)
                put_line(STDOUT_FILENO, "gap %ld ms, ended at %ld ms", (long)(gap / 1000000), (long)(now / 1000000));
}

static void receive(struct run *r)
{
        unsigned char buffer[4096];
        ssize_t length = recv(r->fd, buffer, sizeof(buffer), 0);

        if (length == 0)
                r->failure = "closed by peer";
        if (length < 0 && errno != EAGAIN && errno != EINTR)
                r->failure = strerror(errno);
        if (length > 0)
                note_answer(r);
        for (ssize_t n = 0; n < length; n++) {
                uint64_t number;
                r->pending[r->partial++] = buffer[n];
                if (r->partial < sizeof(r->pending))
                        continue;
                r->partial = 0;
                memcpy(&number, r->pending, sizeof(number));
                if (be64toh(number) != r->acked) {
                        r->failure = "answer out of order";
                        return;
                }
                r->acked++;
        }
}

static void wait_for_answer(struct run *r, long us)
{
        struct pollfd poll_fd = {.fd = r->fd, .events = POLLIN};

        if (ppoll(&poll_fd, 1, &(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL) > 0)
                receive(r);
}

int main(int argc, char **argv)
{
        if (argc < 3)
                die("echo-client ADDRESS PORT [--interval-us N] [--threshold-ms N] [--seconds N] [--grace-s N]");
        double interval = number_option(argc, argv, "interval-us", 1000) / 1e6;
        double seconds = number_option(argc, argv, "seconds", 1e9), grace = number_option(argc, argv, "grace-s", 5);
        struct run r = {.fd = connect_to(argv[1], argv[2]),
                        .threshold = (int64_t)(number_option(argc, argv, "threshold-ms", 50) * 1e6),
                        .last_answer = realtime_ns()};

        stop_on_signals();
        double start = monotonic_s(), due = start;
        while (!asked_to_stop && !r.failure && monotonic_s() - start < seconds) {
                double left = due - monotonic_s();
                if (left > 0) {
                        wait_for_answer(&r, (long)(left * 1e6) + 1);
                        continue;
                }
                send_next(&r);
                due = (-left > interval ? monotonic_s() : due) + interval; /* what was missed is not caught up with */
        }
        for (double end = monotonic_s() + grace; !r.failure && r.acked < r.sent && monotonic_s() < end;)
                wait_for_answer(&r, 10000);
        uint64_t lost = r.sent - r.acked;
        put_line(STDOUT_FILENO,
                 "{\"sent\": %lu, \"acked\": %lu, \"lost\": %lu, \"max_gap_ms\": %ld, \"connection\": \"%s\"}",
                 (unsigned long)r.sent, (unsigned long)r.acked, (unsigned long)lost, (long)(r.max_gap / 1000000),
                 r.failure ? r.failure : "kept");
        return r.failure || lost ? 1 : 0;
}
