/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/claims.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "network/address.h"

#define PATIENCE_MS 500
#define LOOK_NS 20000000
#define NEIGHBOURS_MAX 65536
#define SUSPECTS_MAX 16
#define GATEWAYS_MAX 16
#define STATES_VALID (NUD_PERMANENT | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)

struct neighbour {
        unsigned index; /* of the interface */
        uint8_t family;
        uint8_t address[16];
        uint8_t mac[6];
        bool permanent;
};

struct neighbours {
        struct neighbour *list;
        size_t n, room;
};

/* What is looked for, as the kernel has addresses. */
struct sought {
        uint8_t family; /* 0: no address */
        uint8_t address[16];
        unsigned index; /* of the bridge, 0: there is none */
};

struct tables {
        struct rtnl_link *links;
        struct rtnl_address *addresses;
        size_t n_links, n_addresses;
        struct neighbours neighbours;
        struct sought gateways[GATEWAYS_MAX]; /* of default routes */
        size_t n_gateways;
};

static size_t length_of(uint8_t family)
{
        return family == AF_INET6 ? 16 : 4;
}

/* -- neighbours -------------------------------------------------------------------------------------------------- */

static int collect(const struct nlmsghdr *h, void *context)
{
        const struct ndmsg *m = mnl_nlmsg_get_payload(h);
        struct neighbours *all = context;
        struct neighbour found = {0};
        bool known = false, addressed = false;
        const struct nlattr *a;

        if (h->nlmsg_type != RTM_NEWNEIGH || mnl_nlmsg_get_payload_len(h) < sizeof(*m) ||
            !(m->ndm_state & STATES_VALID) || (m->ndm_family != AF_INET && m->ndm_family != AF_INET6))
                return MNL_CB_OK;
        found.index = (unsigned)m->ndm_ifindex;
        found.family = m->ndm_family;
        found.permanent = m->ndm_state & (NUD_PERMANENT | NUD_NOARP);
        mnl_attr_for_each(a, h, sizeof(*m))
        {
                const size_t n = mnl_attr_get_payload_len(a);
                if (mnl_attr_get_type(a) == NDA_DST && n == length_of(found.family)) {
                        memcpy(found.address, mnl_attr_get_payload(a), n);
                        addressed = true;
                } else if (mnl_attr_get_type(a) == NDA_LLADDR && n == sizeof(found.mac)) {
                        memcpy(found.mac, mnl_attr_get_payload(a), n);
                        known = true;
                }
        }
        if (!known || !addressed)
                return MNL_CB_OK;
        if (all->n == all->room) {
                size_t room = all->room ? all->room * 2 : 64;
                struct neighbour *grown = room <= NEIGHBOURS_MAX ? reallocarray(all->list, room, sizeof(*grown)) : NULL;
                if (!grown) {
                        errno = ENOMEM;
                        return MNL_CB_ERROR;
                }
                all->list = grown;
                all->room = room;
        }
        all->list[all->n++] = found;
        return MNL_CB_OK;
}

static int read_neighbours(struct rtnl *rtnl, struct neighbours *ret)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ndmsg *m;

        ret->n = 0;
        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETNEIGH, NLM_F_DUMP, sizeof(*m), &m);
        m->ndm_family = AF_UNSPEC;
        return rtnl_query(rtnl, h, collect, ret);
}

/*
 * As `ip neighbour del ADDRESS dev BRIDGE` and `replace … use`: the kernel asks who has it. What it knew before may be
 * somebody who has just gone; it would not ask again for a while.
 */
static int ask(struct rtnl *rtnl, const struct sought *s)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ndmsg *m;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_DELNEIGH, 0, sizeof(*m), &m);
        m->ndm_family = s->family;
        m->ndm_ifindex = (int)s->index;
        mnl_attr_put(h, NDA_DST, length_of(s->family), s->address);
        (void)rtnl_talk(rtnl, h); /* usually there is none */

        h = rtnl_request(buffer, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, sizeof(*m), &m);
        m->ndm_family = s->family;
        m->ndm_ifindex = (int)s->index;
        m->ndm_state = NUD_NONE;
        m->ndm_flags = NTF_USE;
        mnl_attr_put(h, NDA_DST, length_of(s->family), s->address);
        return rtnl_talk(rtnl, h);
}

static const struct neighbour *neighbour_of(const struct neighbours *all, const struct sought *s)
{
        for (size_t i = 0; i < all->n; i++)
                if (all->list[i].family == s->family && (!s->index || all->list[i].index == s->index) &&
                    memcmp(all->list[i].address, s->address, length_of(s->family)) == 0)
                        return &all->list[i];
        return NULL;
}

static int await_neighbours(struct rtnl *rtnl, const struct sought *sought, size_t n, struct neighbours *ret)
{
        const uint64_t deadline = clock_ms() + PATIENCE_MS;

        for (;;) {
                size_t silent = 0;
                int r = read_neighbours(rtnl, ret);
                for (size_t i = 0; r == 0 && i < n; i++)
                        silent += sought[i].family && sought[i].index && !neighbour_of(ret, &sought[i]);
                if (r < 0 || silent == 0 || clock_ms() >= deadline)
                        return r;
                (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        }
}

/* -- the way out ------------------------------------------------------------------------------------------------- */

static int collect_gateway(const struct nlmsghdr *h, void *context)
{
        const struct rtmsg *m = mnl_nlmsg_get_payload(h);
        struct tables *t = context;
        struct sought found = {0};
        const struct nlattr *a;

        if (h->nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(h) < sizeof(*m) || m->rtm_dst_len ||
            (m->rtm_family != AF_INET && m->rtm_family != AF_INET6) || t->n_gateways == GATEWAYS_MAX)
                return MNL_CB_OK;
        mnl_attr_for_each(a, h, sizeof(*m))
        {
                const size_t n = mnl_attr_get_payload_len(a);
                if (mnl_attr_get_type(a) == RTA_GATEWAY && n == length_of(m->rtm_family)) {
                        found.family = m->rtm_family;
                        memcpy(found.address, mnl_attr_get_payload(a), n);
                } else if (mnl_attr_get_type(a) == RTA_OIF && n == sizeof(uint32_t)) {
                        found.index = mnl_attr_get_u32(a);
                }
        }
        if (found.family)
                t->gateways[t->n_gateways++] = found;
        return MNL_CB_OK;
}

static int read_gateways(struct rtnl *rtnl, struct tables *t)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct rtmsg *m;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_GETROUTE, NLM_F_DUMP, sizeof(*m), &m);
        m->rtm_family = AF_UNSPEC;
        return rtnl_query(rtnl, h, collect_gateway, t);
}

static bool is_gateway(const struct tables *t, const uint8_t mac[6])
{
        for (size_t i = 0; i < t->n_gateways; i++) {
                const struct neighbour *gateway = neighbour_of(&t->neighbours, &t->gateways[i]);
                if (gateway && memcmp(gateway->mac, mac, sizeof(gateway->mac)) == 0)
                        return true;
        }
        return false;
}

/* -- who ----------------------------------------------------------------------------------------------------------- */

static const char *link_name(const struct tables *t, unsigned index)
{
        for (size_t i = 0; i < t->n_links; i++)
                if (t->links[i].index == index)
                        return t->links[i].name;
        return "an interface";
}

static const struct rtnl_address *own_address(const struct tables *t, const struct sought *s)
{
        for (size_t i = 0; i < t->n_addresses; i++)
                if (t->addresses[i].family == s->family &&
                    memcmp(t->addresses[i].local, s->address, length_of(s->family)) == 0)
                        return &t->addresses[i];
        return NULL;
}

static bool is_its_own(const struct network_workload *w, const uint8_t mac[6], bool *ret_known)
{
        *ret_known = false;
        for (size_t i = 0; i < w->n; i++) {
                if (!w->wanted[i].mac_known)
                        continue;
                *ret_known = true;
                if (memcmp(w->wanted[i].mac, mac, sizeof(w->wanted[i].mac)) == 0)
                        return true;
        }
        return false;
}

/* Who has the address, for people; false when nobody else. */
static bool who_has(const struct tables *t, const struct network_workload *w, const struct sought *s, char *ret,
                    size_t size, bool *ret_gateway)
{
        const struct rtnl_address *own = own_address(t, s);
        bool known = false;

        *ret_gateway = false;
        if (own) {
                (void)snprintf(ret, size, "interface %s of this host", link_name(t, own->index));
                return true;
        }
        const struct neighbour *other = neighbour_of(&t->neighbours, s);
        if (!other || (!w->away && (is_its_own(w, other->mac, &known) || !known)))
                return false;
        *ret_gateway = is_gateway(t, other->mac);
        (void)snprintf(ret, size, "%02x:%02x:%02x:%02x:%02x:%02x on %s", other->mac[0], other->mac[1], other->mac[2],
                       other->mac[3], other->mac[4], other->mac[5], link_name(t, other->index));
        return true;
}

static bool is_sought(const struct sought *sought, size_t n, const struct neighbour *other)
{
        for (size_t i = 0; i < n; i++)
                if (sought[i].family == other->family &&
                    memcmp(sought[i].address, other->address, length_of(other->family)) == 0)
                        return true;
        return other->family == AF_INET6 && other->address[0] == 0xfe && (other->address[1] & 0xc0) == 0x80;
}

/* The same of the hardware address: ours, or of somebody with an address that is not the workload's. */
static bool who_has_mac(const struct tables *t, const struct network_workload *w, const struct sought *sought,
                        const uint8_t mac[6], char *ret, size_t size)
{
        char text[INET6_ADDRSTRLEN];

        for (size_t i = 0; i < t->n_links; i++)
                if (memcmp(t->links[i].address, mac, sizeof(t->links[i].address)) == 0) {
                        (void)snprintf(ret, size, "interface %s of this host", t->links[i].name);
                        return true;
                }
        for (size_t i = 0; w->complete && i < t->neighbours.n; i++) {
                const struct neighbour *other = &t->neighbours.list[i];
                if (memcmp(other->mac, mac, sizeof(other->mac)) != 0 || is_sought(sought, w->n, other) ||
                    !inet_ntop(other->family, other->address, text, sizeof(text)))
                        continue;
                (void)snprintf(ret, size, "%s on %s", text, link_name(t, other->index));
                return true;
        }
        return false;
}

static void judge(const struct tables *t, const struct network_workload *w, const struct sought *sought,
                  network_claim_fn claimed, void *context)
{
        char who[INET6_ADDRSTRLEN + IF_NAMESIZE + 32];

        for (size_t i = 0; i < w->n; i++) {
                const struct network_wanted *wanted = &w->wanted[i];
                bool gateway;
                if (sought[i].family && !wanted->within && who_has(t, w, &sought[i], who, sizeof(who), &gateway))
                        claimed(wanted, wanted->address, who, gateway, context);
                if (!wanted->address[0] && wanted->mac_known &&
                    who_has_mac(t, w, sought, wanted->mac, who, sizeof(who)))
                        claimed(wanted, NULL, who, false, context);
        }
}

static void seek(const struct tables *t, const struct network_wanted *w, struct sought *ret)
{
        *ret = (struct sought){0};
        if (inet_pton(AF_INET, w->address, ret->address) == 1)
                ret->family = AF_INET;
        else if (inet_pton(AF_INET6, w->address, ret->address) == 1)
                ret->family = AF_INET6;
        for (size_t i = 0; i < t->n_links; i++)
                if (!w->within && strcmp(t->links[i].name, w->bridge) == 0 && (t->links[i].flags & IFF_UP))
                        ret->index = t->links[i].index;
}

/* Neighbours with a hardware address of the workload at an address that it has not got: the table may remember what
 * the workload itself had a minute ago, so they are asked too. */
static size_t suspect(const struct tables *t, const struct network_workload *w, struct sought *sought)
{
        size_t n = w->n;

        for (size_t i = 0; w->complete && i < t->neighbours.n && n < w->n + SUSPECTS_MAX; i++) {
                const struct neighbour *other = &t->neighbours.list[i];
                bool known;
                if (!is_its_own(w, other->mac, &known) || is_sought(sought, w->n, other))
                        continue;
                sought[n] = (struct sought){.family = other->family, .index = other->index};
                memcpy(sought[n++].address, other->address, sizeof(other->address));
        }
        return n;
}

int network_claims(const struct network_workload *workload, network_claim_fn claimed, void *context, struct error *err)
{
        size_t n = workload->n;
        AUTO_RTNL struct rtnl rtnl = {0};
        AUTO_FREE struct sought *sought = calloc(n + SUSPECTS_MAX, sizeof(*sought));
        struct tables t = {0};

        int r = sought ? rtnl_open(&rtnl) : -ENOMEM;
        if (r == 0)
                r = rtnl_links(&rtnl, &t.links, &t.n_links);
        if (r == 0)
                r = rtnl_addresses(&rtnl, AF_UNSPEC, &t.addresses, &t.n_addresses);
        if (r == 0)
                r = read_neighbours(&rtnl, &t.neighbours);
        if (r == 0)
                r = read_gateways(&rtnl, &t);
        for (size_t i = 0; r == 0 && i < n; i++)
                seek(&t, &workload->wanted[i], &sought[i]);
        if (r == 0)
                n = suspect(&t, workload, sought);
        for (size_t i = 0; r == 0 && i < n; i++) {
                const struct neighbour *known = neighbour_of(&t.neighbours, &sought[i]);
                /* Of one of its own the kernel asks nobody, and what somebody has set for good stays. Where it cannot
                 * ask, only the tables say something. */
                if (sought[i].family && sought[i].index &&
                    (own_address(&t, &sought[i]) || (known && known->permanent) || ask(&rtnl, &sought[i]) < 0))
                        sought[i].index = 0;
        }
        if (r == 0)
                r = await_neighbours(&rtnl, sought, n, &t.neighbours);
        if (r == 0)
                judge(&t, workload, sought, claimed, context);
        else
                r = error_errno(err, -r, "cannot find out who has the addresses of the workload");
        free(t.links);
        free(t.addresses);
        free(t.neighbours.list);
        return r;
}
