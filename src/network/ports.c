/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/inside.h"
#include "network/rtnl.h"

static int links_inside(char **output, size_t *output_size, void *context, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link *links = NULL;
        size_t n = 0;

        (void)context;
        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_links(&rtnl, &links, &n);
        if (r < 0)
                return error_errno(err, -r, "cannot list the interfaces inside");
        *output = (char *)links;
        *output_size = n * sizeof(*links);
        return 0;
}

/* The devices every new namespace is born with when a tunnel module is loaded: nobody made them, nobody uses them. */
static bool born_with_namespace(const struct rtnl_link *link)
{
        static const char *const names[] = {"tunl0",   "gre0",    "gretap0", "erspan0", "sit0",
                                            "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"};

        if (link->flags & IFF_UP)
                return false;
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
                if (strcmp(link->name, names[i]) == 0)
                        return true;
        return false;
}

static int pair_up(struct rtnl *here, int netns_fd, const struct rtnl_link *inside, struct network_port *port,
                   struct error *err)
{
        struct rtnl_link outside, master;
        int netns_id = -1;

        if (strcmp(inside->kind, "veth") != 0)
                return error_set(err, EOPNOTSUPP, "interface %s inside is of type '%s', only veth can be moved",
                                 inside->name, inside->kind[0] ? inside->kind : "device");
        /* An index alone says little: the far end must point back, at this index and at this namespace. The kernel
         * gives a new namespace its number here only when it first has to name it, which is when the far end is looked
         * at. */
        int r = inside->peer_netns < 0 ? -ENODEV : rtnl_link_by_index(here, inside->peer, &outside);
        if (r == 0)
                r = rtnl_netns_id(here, netns_fd, &netns_id);
        if (r == 0 && (strcmp(outside.kind, "veth") != 0 || outside.peer != inside->index || netns_id < 0 ||
                       outside.peer_netns != netns_id))
                r = -ENODEV;
        if (r == -ENODEV)
                return error_set(err, EOPNOTSUPP, "the other end of %s inside is not in this host's network",
                                 inside->name);
        if (r < 0)
                return error_errno(err, -r, "cannot find the other end of %s", inside->name);

        memset(port, 0, sizeof(*port));
        memcpy(port->inside, inside->name, sizeof(port->inside));
        memcpy(port->outside, outside.name, sizeof(port->outside));
        memcpy(port->mac, inside->address, sizeof(port->mac));
        if (outside.master && strcmp(outside.port_kind, "bridge") == 0) {
                r = rtnl_link_by_index(here, outside.master, &master);
                if (r < 0)
                        return error_errno(err, -r, "cannot find the bridge of %s", outside.name);
                memcpy(port->bridge, master.name, sizeof(port->bridge));
        }
        return 0;
}

static int list(pid_t pid, bool all, struct network_port **ret, size_t *ret_n, struct error *err)
{
        AUTO_RTNL struct rtnl here = {0};
        AUTO_FREE char *output = NULL;
        size_t size, found = 0;

        int opened = inside_open(pid, err);
        if (opened < 0)
                return opened;
        AUTO_FD int netns_fd = opened;
        int r = inside_run(pid, 5000, links_inside, NULL, &output, &size, err);
        if (r < 0)
                return r;
        r = rtnl_open(&here);
        if (r < 0)
                return error_errno(err, -r, "cannot ask for interfaces");

        const struct rtnl_link *links = (const struct rtnl_link *)(const void *)output;
        size_t n = size / sizeof(*links);
        AUTO_FREE struct network_port *ports = calloc(n + 1, sizeof(*ports));
        if (!ports)
                return error_set(err, ENOMEM, "out of memory");
        for (size_t i = 0; i < n; i++) {
                if ((links[i].flags & IFF_LOOPBACK) || born_with_namespace(&links[i]))
                        continue;
                r = pair_up(&here, netns_fd, &links[i], &ports[found], err);
                if (r < 0 && (all || r != -EOPNOTSUPP))
                        return r;
                found += r == 0;
        }
        *ret = TAKE_PTR(ports);
        *ret_n = found;
        return 0;
}

int network_ports(pid_t pid, struct network_port **ret, size_t *ret_n, struct error *err)
{
        return list(pid, true, ret, ret_n, err);
}

int network_ports_among(pid_t pid, struct network_port **ret, size_t *ret_n, struct error *err)
{
        return list(pid, false, ret, ret_n, err);
}
