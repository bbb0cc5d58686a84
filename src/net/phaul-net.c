/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "net/net.h"
#include "net/tunnel.h"

/*
 * phaul-net connect|accept|tunnel PEER
 *
 * Started by link_connect(), link_accept() and tunnel_start() only: descriptor 3 is the record socket, 4 the accepted
 * or given connection (from 4 on those of a tunnel). PEER is for people who look at the list of processes; the
 * configuration comes in records.
 */

#define RECORD_FD 3
#define TCP_FD 4

static int read_hello(struct net *net, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        uint32_t purpose = 0;
        int r = message_decode(net->config.hello, net->config.hello_size, &m, err);

        if (r < 0)
                return r;
        (void)message_get_u32(m, FIELD_PURPOSE, &purpose);
        (void)message_get_u32(m, FIELD_VERSION_MIN, &net->version_min);
        (void)message_get_u32(m, FIELD_VERSION_MAX, &net->version_max);
        net->purpose = purpose;
        return 0;
}

/* Down the stairs: each step can do less than the one before. */
static int prepare(struct net *net, struct error *err)
{
        int r = config_read(net, err);

        if (r == 0 && !net->config.accepting)
                r = read_hello(net, err);
        if (r == 0)
                r = tls_init(net, err);
        if (r == 0)
                r = sandbox_drop_user(net->config.user, SANDBOX_FILES, err);
        if (r == 0 && (net->config.accepting || net->config.given)) {
                net->tcp_fd = TCP_FD;
                dial_name_peer(net);
        } else if (r == 0) {
                r = dial(net, err);
        }
        if (r < 0)
                return r;
        dial_tune(net);
        r = fd_nonblock(net->tcp_fd);
        if (r == 0)
                r = fd_nonblock(net->record_fd);
        if (r < 0)
                return error_errno(err, -r, "cannot set the sockets up");
        r = sandbox_seal(net->config.root, err);
        return r < 0 ? r : tls_start(net, err);
}

int main(int argc, char **argv)
{
        struct error err = {0};

        if (argc != 3 || fcntl(RECORD_FD, F_GETFD) < 0) {
                (void)fprintf(stderr, "phaul-net is started by phauld and phaul-session only\n");
                return 2;
        }
        /* Away from whoever started us: a link may change hands, and nobody shall have to reap us. */
        pid_t pid = fork();
        if (pid != 0)
                _exit(pid < 0 ? 1 : 0);
        (void)setsid();
        (void)signal(SIGPIPE, SIG_IGN);
        /* The C library would look for the time zone whenever OpenSSL compares dates. */
        (void)setenv("TZ", "UTC0", 1);
        tzset();
        if (strcmp(argv[1], "tunnel") == 0) {
                tunnel_main(RECORD_FD);
                _exit(0);
        }

        struct net *net = calloc(1, sizeof(*net));
        if (!net)
                _exit(1);
        net->record_fd = RECORD_FD;
        net->tcp_fd = net->stream_fd = -1;
        net->rx.slot = -1;
        net->pending_tail = &net->pending;
        if (prepare(net, &err) < 0)
                net_down(net, &err, false);
        else
                net_run(net);
        /* Without the exit handlers of libraries: some would do what is not allowed here any more. */
        _exit(0);
}
