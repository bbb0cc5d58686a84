/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preflight/scan.h"

/*
 * Every socket tells the name of its protocol by the extended attribute system.sockprotoname, whatever namespace it was
 * made in. What CRIU dumps is in its criu/sockets.c and criu/sk-inet.c.
 */
static bool is_one_of(const char *name, const char *const *list)
{
        for (; *list; list++)
                if (strcmp(name, *list) == 0)
                        return true;
        return false;
}

void socket_judge(struct scan *s, const struct task *t, int fd, const char *protocol, uint64_t inode)
{
        static const char *const inet[] = {"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", NULL};
        static const char *const others[] = {"UNIX",  "UNIX-STREAM", "NETLINK", "PACKET", "RAW",
                                             "RAWv6", "PING",        "PINGv6",  NULL};
        static const char *const multipath[] = {"MPTCP", "MPTCPv6", NULL};

        if (is_one_of(protocol, inet)) {
                if (s->inet_kernel)
                        findings_note(&s->findings, PROBLEM_INET_KERNEL, "process %d (%s) fd %d", (int)t->pid, t->comm,
                                      fd);
        } else if (is_one_of(protocol, multipath)) {
                findings_note(&s->findings, PROBLEM_MPTCP, "process %d (%s) fd %d", (int)t->pid, t->comm, fd);
        } else if (!is_one_of(protocol, others)) {
                findings_note(&s->findings, PROBLEM_SOCKET_FAMILY, "process %d (%s) fd %d is %s", (int)t->pid, t->comm,
                              fd, protocol);
        }
        if (strcmp(protocol, "NETLINK") == 0 && number_set_has(&s->unread, inode))
                findings_note(&s->findings, PROBLEM_NETLINK_UNREAD, "process %d (%s) fd %d", (int)t->pid, t->comm, fd);
}

/* sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode */
int netlink_unread(const char *text, struct number_set *ret)
{
        for (const char *line = strchr(text, '\n'); line; line = strchr(line, '\n')) {
                unsigned long long unread, inode;
                line++;
                if (sscanf(line, "%*s %*s %*s %*s %llu %*s %*s %*s %*s %llu", &unread, &inode) == 2 && unread &&
                    number_set_add(ret, inode) < 0)
                        return -ENOMEM;
        }
        number_set_sort(ret);
        return 0;
}
