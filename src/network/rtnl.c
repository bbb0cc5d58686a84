/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/rtnl.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

/* An answer of the kernel about one link may be large (statistics, virtual functions). */
#define RTNL_ANSWER_SIZE (64 * 1024)
#define RTNL_LINKS_MAX 65536

int rtnl_open(struct rtnl *rtnl)
{
        struct timeval patience = {.tv_sec = 5};

        rtnl->sequence = 1;
        rtnl->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
        if (!rtnl->socket)
                return -errno;
        (void)setsockopt(mnl_socket_get_fd(rtnl->socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        if (mnl_socket_bind(rtnl->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
                int saved = errno;
                rtnl_close(rtnl);
                return -saved;
        }
        return 0;
}

void rtnl_close(struct rtnl *rtnl)
{
        if (rtnl->socket)
                (void)mnl_socket_close(rtnl->socket);
        rtnl->socket = NULL;
}

struct nlmsghdr *rtnl_request(void *buffer, uint16_t type, uint16_t flags, size_t extra_size, void *ret_extra)
{
        struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

        h->nlmsg_type = type;
        h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
        *(void **)ret_extra = mnl_nlmsg_put_extra_header(h, extra_size);
        return h;
}

int rtnl_query(struct rtnl *rtnl, struct nlmsghdr *request, mnl_cb_t fn, void *context)
{
        AUTO_FREE char *answer = malloc(RTNL_ANSWER_SIZE);
        if (!answer)
                return -ENOMEM;

        request->nlmsg_seq = rtnl->sequence++;
        if (mnl_socket_sendto(rtnl->socket, request, request->nlmsg_len) < 0)
                return -errno;
        for (;;) {
                ssize_t n = mnl_socket_recvfrom(rtnl->socket, answer, RTNL_ANSWER_SIZE);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? -ETIMEDOUT : -errno;
                int r = mnl_cb_run(answer, (size_t)n, request->nlmsg_seq, mnl_socket_get_portid(rtnl->socket), fn,
                                   context);
                if (r < 0)
                        return -errno;
                if (r == MNL_CB_STOP)
                        return 0;
        }
}

int rtnl_talk(struct rtnl *rtnl, struct nlmsghdr *request)
{
        request->nlmsg_flags |= NLM_F_ACK;
        return rtnl_query(rtnl, request, NULL, NULL);
}

/* Attribute values come from the kernel, but their sizes are checked all the same: it costs nothing. */
static uint32_t u32_of(const struct nlattr *a)
{
        return mnl_attr_get_payload_len(a) >= sizeof(uint32_t) ? mnl_attr_get_u32(a) : 0;
}

static void copy_string(char *to, size_t size, const struct nlattr *a)
{
        size_t n = strnlen(mnl_attr_get_payload(a), mnl_attr_get_payload_len(a));

        if (n >= size)
                n = size - 1;
        memcpy(to, mnl_attr_get_payload(a), n);
        to[n] = '\0';
}

static void parse_link_info(const struct nlattr *info, struct rtnl_link *link)
{
        const struct nlattr *a, *b, *data = NULL, *port = NULL;

        mnl_attr_for_each_nested(a, info)
        {
                switch (mnl_attr_get_type(a)) {
                case IFLA_INFO_KIND:
                        copy_string(link->kind, sizeof(link->kind), a);
                        break;
                case IFLA_INFO_SLAVE_KIND:
                        copy_string(link->port_kind, sizeof(link->port_kind), a);
                        break;
                case IFLA_INFO_DATA:
                        data = a;
                        break;
                case IFLA_INFO_SLAVE_DATA:
                        port = a;
                        break;
                default:
                        break;
                }
        }
        if (data && strcmp(link->kind, "bridge") == 0)
                mnl_attr_for_each_nested(b, data)
                {
                        /* 1: the kernel's protocol; 2: a program's, which the port state does not disturb */
                        if (mnl_attr_get_type(b) == IFLA_BR_STP_STATE)
                                link->kernel_stp = u32_of(b) == 1;
                }
        if (port && strcmp(link->port_kind, "bridge") == 0)
                mnl_attr_for_each_nested(b, port)
                {
                        if (mnl_attr_get_type(b) == IFLA_BRPORT_STATE && mnl_attr_get_payload_len(b) >= 1)
                                link->port_state = mnl_attr_get_u8(b);
                }
}

static void parse_link(const struct nlmsghdr *h, struct rtnl_link *link)
{
        const struct ifinfomsg *message = mnl_nlmsg_get_payload(h);
        const struct nlattr *a;

        *link = (struct rtnl_link){
                .index = (unsigned)message->ifi_index,
                .flags = message->ifi_flags,
                .peer_netns = -1,
                .port_state = -1,
        };
        mnl_attr_for_each(a, h, sizeof(*message))
        {
                switch (mnl_attr_get_type(a)) {
                case IFLA_IFNAME:
                        copy_string(link->name, sizeof(link->name), a);
                        break;
                case IFLA_ADDRESS:
                        if (mnl_attr_get_payload_len(a) == sizeof(link->address))
                                memcpy(link->address, mnl_attr_get_payload(a), sizeof(link->address));
                        break;
                case IFLA_MASTER:
                        link->master = u32_of(a);
                        break;
                case IFLA_LINK:
                        link->peer = u32_of(a);
                        break;
                case IFLA_LINK_NETNSID:
                        link->peer_netns = (int)u32_of(a);
                        break;
                case IFLA_OPERSTATE:
                        link->operstate = mnl_attr_get_u8(a);
                        break;
                case IFLA_LINKINFO:
                        parse_link_info(a, link);
                        break;
                default:
                        break;
                }
        }
}

struct link_list {
        struct rtnl_link *links;
        size_t n, room;
};

static int collect_link(const struct nlmsghdr *h, void *context)
{
        struct link_list *list = context;

        if (h->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(h) < sizeof(struct ifinfomsg))
                return MNL_CB_OK;
        if (list->n == list->room) {
                size_t room = list->room ? list->room * 2 : 8;
                struct rtnl_link *more = room <= RTNL_LINKS_MAX ? realloc(list->links, room * sizeof(*more)) : NULL;
                if (!more) {
                        errno = ENOMEM;
                        return MNL_CB_ERROR;
                }
                list->links = more;
                list->room = room;
        }
        parse_link(h, &list->links[list->n++]);
        return MNL_CB_OK;
}

int rtnl_links(struct rtnl *rtnl, struct rtnl_link **ret, size_t *ret_n)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;
        struct link_list list = {0};

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETLINK, NLM_F_DUMP, sizeof(*message), &message);
        int r = rtnl_query(rtnl, h, collect_link, &list);
        for (int attempt = 0; r == -EINTR && attempt < 5; attempt++) {
                /* The list changed while it was read. What is left of the answer goes with the socket. */
                rtnl_close(rtnl);
                r = rtnl_open(rtnl);
                if (r < 0)
                        break;
                list.n = 0;
                r = rtnl_query(rtnl, h, collect_link, &list);
        }
        if (r < 0) {
                free(list.links);
                return r;
        }
        *ret = list.links;
        *ret_n = list.n;
        return 0;
}

static int one_link(struct rtnl *rtnl, const char *name, unsigned index, struct rtnl_link *ret)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;
        struct link_list list = {0};

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETLINK, NLM_F_ACK, sizeof(*message), &message);
        message->ifi_index = (int)index;
        if (name)
                mnl_attr_put_strz(h, IFLA_IFNAME, name);
        int r = rtnl_query(rtnl, h, collect_link, &list);
        if (r == 0 && list.n == 0)
                r = -ENODEV;
        if (r == 0)
                *ret = list.links[0];
        free(list.links);
        return r;
}

int rtnl_link_by_name(struct rtnl *rtnl, const char *name, struct rtnl_link *ret)
{
        if (name[0] == '\0' || strlen(name) >= IF_NAMESIZE)
                return -ENODEV;
        return one_link(rtnl, name, 0, ret);
}

int rtnl_link_by_index(struct rtnl *rtnl, unsigned index, struct rtnl_link *ret)
{
        return one_link(rtnl, NULL, index, ret);
}

int rtnl_link_flags(struct rtnl *rtnl, unsigned index, unsigned set, unsigned clear)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_NEWLINK, 0, sizeof(*message), &message);
        message->ifi_index = (int)index;
        message->ifi_flags = set;
        message->ifi_change = set | clear;
        return rtnl_talk(rtnl, h);
}

static int take_netns_id(const struct nlmsghdr *h, void *context)
{
        const struct nlattr *a;

        mnl_attr_for_each(a, h, sizeof(struct rtgenmsg))
        {
                if (mnl_attr_get_type(a) == NETNSA_NSID)
                        *(int *)context = (int)u32_of(a);
        }
        return MNL_CB_OK;
}

int rtnl_netns_id(struct rtnl *rtnl, int netns_fd, int *ret)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct rtgenmsg *message;
        int id = -1;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETNSID, NLM_F_ACK, sizeof(*message), &message);
        mnl_attr_put_u32(h, NETNSA_FD, (uint32_t)netns_fd);
        int r = rtnl_query(rtnl, h, take_netns_id, &id);
        if (r == 0)
                *ret = id;
        return r;
}
