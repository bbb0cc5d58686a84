/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/inside.h"
#include "network/network.h"

#define ADDRESSES_MAX 65536

struct address_list {
        struct rtnl_address *addresses;
        size_t n, room;
};

static void parse_address(const struct nlmsghdr *h, struct rtnl_address *address)
{
        const struct ifaddrmsg *message = mnl_nlmsg_get_payload(h);
        size_t size = message->ifa_family == AF_INET6 ? 16 : 4;
        const struct nlattr *a, *local = NULL, *peer = NULL;

        *address = (struct rtnl_address){
                .index = message->ifa_index,
                .family = message->ifa_family,
                .prefix = message->ifa_prefixlen,
                .scope = message->ifa_scope,
                .flags = message->ifa_flags,
                .lifetime = {.ifa_prefered = UINT32_MAX, .ifa_valid = UINT32_MAX},
        };
        mnl_attr_for_each(a, h, sizeof(*message))
        {
                size_t length = mnl_attr_get_payload_len(a);

                switch (mnl_attr_get_type(a)) {
                case IFA_ADDRESS:
                        peer = length >= size ? a : NULL;
                        break;
                case IFA_LOCAL:
                        local = length >= size ? a : NULL;
                        break;
                case IFA_FLAGS:
                        if (length >= sizeof(uint32_t))
                                address->flags = mnl_attr_get_u32(a);
                        break;
                case IFA_RT_PRIORITY:
                        if (length >= sizeof(uint32_t))
                                address->priority = mnl_attr_get_u32(a);
                        break;
                case IFA_CACHEINFO:
                        if (length >= sizeof(address->lifetime))
                                memcpy(&address->lifetime, mnl_attr_get_payload(a), sizeof(address->lifetime));
                        break;
                default:
                        break;
                }
        }
        if (!local)
                local = peer;
        if (local)
                memcpy(address->local, mnl_attr_get_payload(local), size);
        if (peer)
                memcpy(address->peer, mnl_attr_get_payload(peer), size);
}

static int collect_address(const struct nlmsghdr *h, void *context)
{
        struct address_list *list = context;

        if (h->nlmsg_type != RTM_NEWADDR || mnl_nlmsg_get_payload_len(h) < sizeof(struct ifaddrmsg))
                return MNL_CB_OK;
        const struct ifaddrmsg *message = mnl_nlmsg_get_payload(h);
        if (message->ifa_family != AF_INET && message->ifa_family != AF_INET6)
                return MNL_CB_OK;
        if (list->n == list->room) {
                size_t room = list->room ? list->room * 2 : 8;
                struct rtnl_address *more =
                        room <= ADDRESSES_MAX ? realloc(list->addresses, room * sizeof(*more)) : NULL;
                if (!more) {
                        errno = ENOMEM;
                        return MNL_CB_ERROR;
                }
                list->addresses = more;
                list->room = room;
        }
        parse_address(h, &list->addresses[list->n++]);
        return MNL_CB_OK;
}

int rtnl_addresses(struct rtnl *rtnl, uint8_t family, struct rtnl_address **ret, size_t *ret_n)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifaddrmsg *message;
        struct address_list list = {0};

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETADDR, NLM_F_DUMP, sizeof(*message), &message);
        message->ifa_family = family;
        int r = rtnl_query(rtnl, h, collect_address, &list);
        if (r < 0) {
                free(list.addresses);
                return r;
        }
        *ret = list.addresses;
        *ret_n = list.n;
        return 0;
}

static int addresses_inside(char **output, size_t *output_size, void *context, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        AUTO_FREE struct rtnl_address *addresses = NULL;
        char text[INET6_ADDRSTRLEN], name[IF_NAMESIZE];
        const bool *named = context;
        size_t n = 0;

        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_addresses(&rtnl, AF_UNSPEC, &addresses, &n);
        if (r < 0)
                return error_errno(err, -r, "cannot list the addresses inside");
        AUTO_FILE FILE *f = open_memstream(output, output_size);
        if (!f)
                return error_set(err, ENOMEM, "out of memory");
        const char *separator = "";
        for (size_t i = 0; i < n; i++) {
                if (addresses[i].scope >= RT_SCOPE_LINK)
                        continue;
                if (!inet_ntop(addresses[i].family, addresses[i].local, text, sizeof(text)))
                        continue;
                if (*named && !if_indextoname(addresses[i].index, name))
                        continue;
                (void)fprintf(f, "%s%s%s%s/%u", separator, *named ? name : "", *named ? " " : "", text,
                              addresses[i].prefix);
                separator = *named ? "\n" : " ";
        }
        return 0;
}

int network_addresses(pid_t pid, char **ret, struct error *err)
{
        bool named = false;

        return inside_run(pid, 5000, addresses_inside, &named, ret, NULL, err);
}

int network_addresses_named(pid_t pid, char **ret, struct error *err)
{
        bool named = true;

        return inside_run(pid, 5000, addresses_inside, &named, ret, NULL, err);
}
