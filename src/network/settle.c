/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/address.h"
#include "network/inside.h"

/*
 * An address that is there already cannot be made valid: changing its flags leaves it tentative until its interface is
 * ready and detection has run. One that is added with IFA_F_NODAD is valid from the start, whether there is a carrier
 * or not. So it is removed and added. What removal takes along is put back: the kernel makes the local and prefix
 * routes itself, and routes that named the address as their source, which lose it, are replayed.
 */

struct saved_routes {
        char *messages; /* whole RTM_NEWROUTE messages, each aligned */
        size_t size, room;
        const struct rtnl_address *addresses;
        size_t n_addresses;
};
#define SAVED_ROUTES_MAX (4 << 20)

static bool needs_settling(const struct rtnl_address *address)
{
        return address->family == AF_INET6 && (address->flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED));
}

static int save_route(const struct nlmsghdr *h, void *context)
{
        struct saved_routes *saved = context;
        const struct nlattr *a, *source = NULL;

        if (h->nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(h) < sizeof(struct rtmsg))
                return MNL_CB_OK;
        const struct rtmsg *route = mnl_nlmsg_get_payload(h);
        if (route->rtm_flags & RTM_F_CLONED)
                return MNL_CB_OK;
        mnl_attr_for_each(a, h, sizeof(*route))
        {
                if (mnl_attr_get_type(a) == RTA_PREFSRC && mnl_attr_get_payload_len(a) == 16)
                        source = a;
        }
        bool wanted = false;
        for (size_t i = 0; source && i < saved->n_addresses && !wanted; i++)
                wanted = needs_settling(&saved->addresses[i]) &&
                         memcmp(saved->addresses[i].local, mnl_attr_get_payload(source), 16) == 0;
        if (!wanted)
                return MNL_CB_OK;

        size_t size = MNL_ALIGN(h->nlmsg_len);
        if (saved->size + size > saved->room) {
                size_t room = (saved->size + size) * 2;
                char *more = room <= SAVED_ROUTES_MAX ? realloc(saved->messages, room) : NULL;
                if (!more) {
                        errno = ENOMEM;
                        return MNL_CB_ERROR;
                }
                saved->messages = more;
                saved->room = room;
        }
        memset(saved->messages + saved->size, 0, size);
        memcpy(saved->messages + saved->size, h, h->nlmsg_len);
        saved->size += size;
        return MNL_CB_OK;
}

static int save_routes(struct rtnl *rtnl, struct saved_routes *saved)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct rtmsg *message;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETROUTE, NLM_F_DUMP, sizeof(*message), &message);
        message->rtm_family = AF_INET6;
        return rtnl_query(rtnl, h, save_route, saved);
}

static int replay_routes(struct rtnl *rtnl, struct saved_routes *saved)
{
        int result = 0;

        for (size_t at = 0; at < saved->size;) {
                struct nlmsghdr *h = (struct nlmsghdr *)(void *)(saved->messages + at);

                at += MNL_ALIGN(h->nlmsg_len);
                h->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
                h->nlmsg_pid = 0;
                int r = rtnl_talk(rtnl, h);
                if (r < 0 && result == 0)
                        result = r;
        }
        return result;
}

static int change_address(struct rtnl *rtnl, const struct rtnl_address *address, uint16_t type, uint16_t flags)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifaddrmsg *message;

        struct nlmsghdr *h = rtnl_request(buffer, type, flags, sizeof(*message), &message);
        message->ifa_family = address->family;
        message->ifa_prefixlen = address->prefix;
        message->ifa_scope = address->scope;
        message->ifa_index = address->index;
        mnl_attr_put(h, IFA_LOCAL, 16, address->local);
        if (memcmp(address->local, address->peer, 16) != 0)
                mnl_attr_put(h, IFA_ADDRESS, 16, address->peer);
        if (type == RTM_NEWADDR) {
                uint32_t keep = IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN;

                mnl_attr_put_u32(h, IFA_FLAGS, (address->flags & keep) | IFA_F_NODAD);
                mnl_attr_put(h, IFA_CACHEINFO, sizeof(address->lifetime), &address->lifetime);
                if (address->priority)
                        mnl_attr_put_u32(h, IFA_RT_PRIORITY, address->priority);
        }
        return rtnl_talk(rtnl, h);
}

static int settle(char **output, size_t *output_size, void *context, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        AUTO_FREE struct rtnl_address *addresses = NULL;
        struct saved_routes saved = {0};
        size_t n = 0;
        int settled = 0;

        (void)output;
        (void)output_size;
        (void)context;
        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_addresses(&rtnl, AF_INET6, &addresses, &n);
        saved.addresses = addresses;
        saved.n_addresses = n;
        if (r == 0)
                r = save_routes(&rtnl, &saved);
        for (size_t i = 0; r == 0 && i < n; i++) {
                if (!needs_settling(&addresses[i]))
                        continue;
                r = change_address(&rtnl, &addresses[i], RTM_DELADDR, 0);
                if (r == 0 || r == -EADDRNOTAVAIL)
                        r = change_address(&rtnl, &addresses[i], RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
                settled++;
        }
        if (r == 0 && settled)
                r = replay_routes(&rtnl, &saved);
        free(saved.messages);
        if (r < 0)
                return error_errno(err, -r, "cannot make the IPv6 addresses valid");
        return 0;
}

int network_settle(pid_t pid, struct error *err)
{
        return inside_run(pid, 5000, settle, NULL, NULL, NULL, err);
}
