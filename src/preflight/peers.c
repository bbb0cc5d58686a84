/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "preflight/outside.h"

/*
 * Who is at the other end of a Unix socket only the kernel's sock_diag tells, which answers for the network namespace
 * that it is asked in. CRIU asks the same way (criu/sk-unix.c), and gives up on a peer that no task of the tree has.
 */
#define ANSWER_SIZE 32768

struct question {
        struct shared_ends *ends;
        size_t n_own;                    /* the ends there were before */
        const struct number_set *inodes; /* of the tree's Unix sockets */
        int failure;
};

static const struct shared_end *own(const struct question *q, uint32_t inode)
{
        for (size_t i = 0; i < q->n_own; i++)
                if (q->ends->ends[i].kind == SHARED_SOCKET && q->ends->ends[i].key == inode)
                        return &q->ends->ends[i];
        return NULL;
}

static int on_socket(const struct nlmsghdr *h, void *context)
{
        const struct unix_diag_msg *m = mnl_nlmsg_get_payload(h);
        struct question *q = context;
        const struct nlattr *a;

        if (mnl_nlmsg_get_payload_len(h) < sizeof(*m) || !number_set_has(q->inodes, m->udiag_ino))
                return MNL_CB_OK;
        mnl_attr_for_each(a, h, sizeof(*m))
        {
                if (mnl_attr_get_type(a) != UNIX_DIAG_PEER || mnl_attr_get_payload_len(a) < sizeof(uint32_t))
                        continue;
                const uint32_t peer = mnl_attr_get_u32(a);
                /* 0: it is not accepted yet, or closed. */
                const struct shared_end *end = peer && !number_set_has(q->inodes, peer) ? own(q, m->udiag_ino) : NULL;
                if (!end)
                        continue;
                q->failure = shared_add(q->ends, SHARED_PEER, peer, end->pid, end->fd);
                if (q->failure < 0)
                        return MNL_CB_STOP;
        }
        return MNL_CB_OK;
}

/* Where the kernel has no unix_diag CRIU cannot work either: nothing is found. */
static void ask(struct question *q)
{
        const struct timeval patience = {.tv_sec = 2};
        char buffer[ANSWER_SIZE];
        ssize_t n;

        struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
        if (!socket)
                return;
        (void)setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
        h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
        h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
        h->nlmsg_seq = 1;
        struct unix_diag_req *request = mnl_nlmsg_put_extra_header(h, sizeof(*request));
        *request = (struct unix_diag_req){
                .sdiag_family = AF_UNIX, .udiag_states = UINT32_MAX, .udiag_show = UDIAG_SHOW_PEER};
        if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0 && mnl_socket_sendto(socket, h, h->nlmsg_len) > 0)
                while ((n = mnl_socket_recvfrom(socket, buffer, sizeof(buffer))) > 0)
                        if (mnl_cb_run(buffer, (size_t)n, 1, mnl_socket_get_portid(socket), on_socket, q) <=
                            MNL_CB_STOP)
                                break;
        (void)mnl_socket_close(socket);
}

static int namespace_of(pid_t pid, uint64_t *ret_inode)
{
        struct stat st;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        *ret_inode = st.st_ino;
        return TAKE_FD(fd);
}

static int ask_everywhere(struct question *q, const pid_t *pids, size_t n)
{
        struct number_set seen = {0};
        int r = 0;

        for (size_t i = 0; r == 0 && q->failure == 0 && i < n; i++) {
                uint64_t inode = 0;
                AUTO_FD int fd = namespace_of(pids[i], &inode);
                if (fd < 0 || number_set_has(&seen, inode))
                        continue;
                r = number_set_add(&seen, inode);
                number_set_sort(&seen);
                if (r == 0 && setns(fd, CLONE_NEWNET) == 0)
                        ask(q);
        }
        number_set_done(&seen);
        return r < 0 ? r : q->failure;
}

int shared_find_peers(struct shared_ends *s, const pid_t *pids, size_t n)
{
        struct number_set inodes = {0};
        struct question q = {.ends = s, .n_own = s->n, .inodes = &inodes};
        uint64_t ignored;
        int r = 0;

        for (size_t i = 0; r == 0 && i < s->n; i++)
                if (s->ends[i].kind == SHARED_SOCKET)
                        r = number_set_add(&inodes, s->ends[i].key);
        number_set_sort(&inodes);
        AUTO_FD int home = namespace_of(getpid(), &ignored);
        if (r == 0 && inodes.n && home >= 0) {
                r = ask_everywhere(&q, pids, n);
                if (setns(home, CLONE_NEWNET) < 0)
                        r = -errno;
        }
        number_set_done(&inodes);
        return r;
}
