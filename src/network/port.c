/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "network/inside.h"
#include "network/rtnl.h"

#define BRING_OVER_MS 5000

/*
 * The lock is the state DISABLED of the bridge port. LISTENING and BLOCKING drop frames as well, but the kernel
 * computes the states of all ports anew whenever any port of the bridge comes or goes and lifts those to FORWARDING; a
 * disabled port it leaves alone until the port's own carrier changes (br_port_state_selection()).
 *
 * A bridge that runs the kernel's spanning tree allows no port state from outside (EBUSY). There the port leaves the
 * bridge instead: the carrier inside stays as it is, and with IFF_NOARP and no IPv6 on it the host does not answer in
 * the bridge's place. The price: unlocking goes through the protocol's listening and learning (30 s by default), so a
 * pre-flight warns of such a bridge.
 */

static int set_port_state(struct rtnl *rtnl, unsigned index, uint8_t state)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_SETLINK, 0, sizeof(*message), &message);
        message->ifi_family = AF_BRIDGE;
        message->ifi_index = (int)index;
        struct nlattr *nest = mnl_attr_nest_start(h, IFLA_PROTINFO | NLA_F_NESTED);
        mnl_attr_put_u8(h, IFLA_BRPORT_STATE, state);
        mnl_attr_nest_end(h, nest);
        return rtnl_talk(rtnl, h);
}

/* Bring it up as a port of `master` (0: of none), answering ARP or not. */
static int set_master(struct rtnl *rtnl, unsigned index, unsigned master, bool arp)
{
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;

        struct nlmsghdr *h = rtnl_request(buffer, RTM_NEWLINK, 0, sizeof(*message), &message);
        message->ifi_index = (int)index;
        message->ifi_change = IFF_UP | IFF_NOARP;
        message->ifi_flags = IFF_UP | (arp ? 0 : IFF_NOARP);
        mnl_attr_put_u32(h, IFLA_MASTER, master);
        return rtnl_talk(rtnl, h);
}

static void set_ipv6(const char *name, bool on)
{
        char path[96];

        (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
        AUTO_FILE FILE *f = fopen(path, "we");
        if (f)
                (void)fputs(on ? "0" : "1", f);
}

static int leave_bridge(struct rtnl *rtnl, const struct rtnl_link *link)
{
        set_ipv6(link->name, false);
        int r = rtnl_link_flags(rtnl, link->index, IFF_NOARP, 0);
        return r < 0 ? r : set_master(rtnl, link->index, 0, false);
}

int network_lock(const struct network_port *port, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link = {0};

        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, port->outside, &link);
        if (r < 0)
                return error_errno(err, -r, "cannot lock %s", port->outside);
        if (link.port_state < 0) {
                /* Already taken out of a bridge with spanning tree by an earlier call. */
                if (link.master == 0 && (link.flags & IFF_NOARP))
                        return 0;
                return error_set(err, EOPNOTSUPP, "cannot lock %s: it is not a port of a bridge", port->outside);
        }
        if (link.port_state == BR_STATE_DISABLED && (link.flags & IFF_UP))
                return 0;
        r = set_port_state(&rtnl, link.index, BR_STATE_DISABLED);
        if (r == -EBUSY)
                r = leave_bridge(&rtnl, &link);
        if (r == -ENETDOWN) /* down: nothing passes, and nothing brings it up but us */
                r = 0;
        if (r < 0)
                return error_errno(err, -r, "cannot lock %s", port->outside);
        return 0;
}

int network_unlock(const struct network_port *port, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link = {0};

        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, port->outside, &link);
        if (r == -ENODEV)
                return 0;
        if (r < 0)
                return error_errno(err, -r, "cannot unlock %s", port->outside);
        if (link.port_state < 0 && port->bridge[0])
                return network_attach(port->outside, port->bridge, err);
        if (link.port_state == BR_STATE_DISABLED)
                r = set_port_state(&rtnl, link.index, BR_STATE_FORWARDING);
        if (r == -ENETDOWN || r == -EBUSY)
                r = 0; /* down by somebody else's hand, or spanning tree's business */
        if (r < 0)
                return error_errno(err, -r, "cannot unlock %s", port->outside);
        return 0;
}

/*
 * A port whose device has just come up waits for the kernel's link watch before it forwards, normally well below a
 * millisecond. Without carrier (the inside end is down) there is nothing to wait for: it will forward when that comes.
 */
static int wait_forwarding(struct rtnl *rtnl, unsigned index)
{
        uint64_t deadline = clock_ms() + 50;
        struct rtnl_link link = {0};

        for (;;) {
                int r = rtnl_link_by_index(rtnl, index, &link);
                if (r < 0)
                        return r;
                if (link.port_state == BR_STATE_FORWARDING)
                        return 0;
                if (clock_ms() >= deadline)
                        break;
                if (link.port_state >= 0 && link.operstate == RTNL_OPERSTATE_UP)
                        (void)set_port_state(rtnl, index, BR_STATE_FORWARDING);
                (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        }
        return 0;
}

int network_attach(const char *outside, const char *bridge, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link, master;

        int r = rtnl_open(&rtnl);
        if (r < 0)
                return error_errno(err, -r, "cannot attach %s to bridge %s", outside, bridge);
        r = rtnl_link_by_name(&rtnl, bridge, &master);
        if (r == -ENODEV || (r == 0 && strcmp(master.kind, "bridge") != 0))
                return error_set(err, ENODEV, "there is no bridge %s here", bridge);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, outside, &link);
        if (r == 0)
                r = set_master(&rtnl, link.index, master.index, true);
        if (r == 0 && (link.flags & IFF_NOARP)) /* had been taken out of the bridge by network_lock() */
                set_ipv6(outside, true);
        if (r == 0 && !master.kernel_stp)
                r = wait_forwarding(&rtnl, link.index);
        if (r < 0)
                return error_errno(err, -r, "cannot attach %s to bridge %s", outside, bridge);
        return 0;
}

bool network_bridge_exists(const char *name)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link = {0};

        return rtnl_open(&rtnl) == 0 && rtnl_link_by_name(&rtnl, name, &link) == 0 && strcmp(link.kind, "bridge") == 0;
}

bool network_bridge_delays(const char *name)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link = {0};

        return rtnl_open(&rtnl) == 0 && rtnl_link_by_name(&rtnl, name, &link) == 0 && link.kernel_stp;
}

bool network_interface_exists(const char *name)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        struct rtnl_link link = {0};

        return rtnl_open(&rtnl) == 0 && rtnl_link_by_name(&rtnl, name, &link) == 0;
}

int network_rename(const char *from, const char *to, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;
        struct rtnl_link link = {0};

        if (to[0] == '\0' || strlen(to) >= IF_NAMESIZE)
                return error_set(err, EINVAL, "'%.32s' is not the name of an interface", to);
        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, from, &link);
        if (r == 0) {
                struct nlmsghdr *h = rtnl_request(buffer, RTM_NEWLINK, 0, sizeof(*message), &message);
                message->ifi_index = (int)link.index;
                mnl_attr_put_strz(h, IFLA_IFNAME, to);
                r = rtnl_talk(&rtnl, h);
        }
        if (r < 0)
                return error_errno(err, -r, "cannot rename interface %s to %s", from, to);
        return 0;
}

struct bring_over {
        const char *name;
        int to; /* network namespace */
};

static int send_over(char **output, size_t *output_size, void *context, struct error *err)
{
        const struct bring_over *b = context;
        AUTO_RTNL struct rtnl rtnl = {0};
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;
        struct rtnl_link link = {0};

        (void)output;
        (void)output_size;
        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, b->name, &link);
        if (r == 0) {
                struct nlmsghdr *h = rtnl_request(buffer, RTM_NEWLINK, 0, sizeof(*message), &message);
                message->ifi_index = (int)link.index;
                mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)b->to);
                r = rtnl_talk(&rtnl, h);
        }
        return r < 0 ? error_errno(err, -r, "cannot bring interface %s over", b->name) : 0;
}

int network_bring_over(pid_t pid, const char *name, struct error *err)
{
        AUTO_FD int ours = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        struct bring_over b = {.name = name, .to = ours};

        if (ours < 0)
                return error_errno(err, errno, "cannot open our own network namespace");
        return inside_run(pid, BRING_OVER_MS, send_over, &b, NULL, NULL, err);
}

int network_delete(const char *name, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        char buffer[RTNL_REQUEST_SIZE];
        struct ifinfomsg *message;
        struct rtnl_link link = {0};

        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_link_by_name(&rtnl, name, &link);
        if (r == 0) {
                struct nlmsghdr *h = rtnl_request(buffer, RTM_DELLINK, 0, sizeof(*message), &message);
                message->ifi_index = (int)link.index;
                r = rtnl_talk(&rtnl, h);
        }
        if (r == -ENODEV)
                return 0;
        if (r < 0)
                return error_errno(err, -r, "cannot remove interface %s", name);
        return 0;
}
