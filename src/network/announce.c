/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/cleanup.h"
#include "network/address.h"
#include "network/inside.h"

/* Frames get lost where a switch or a peer is busy; three within a few milliseconds cost nothing. */
#define REPEATS 3
#define PAUSE_NS 3000000

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct arp_frame {
        struct ether_header ethernet;
        struct arphdr arp;
        uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
} __attribute__((packed));

struct na_frame {
        struct ether_header ethernet;
        struct ip6_hdr ip;
        struct nd_neighbor_advert advert;
        struct nd_opt_hdr option;
        uint8_t mac[6];
} __attribute__((packed));

static int send_frame(int fd, unsigned index, const void *frame, size_t size)
{
        struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)index, .sll_halen = 6};

        memcpy(to.sll_addr, frame, 6);
        to.sll_protocol = ((const struct ether_header *)frame)->ether_type;
        ssize_t n = sendto(fd, frame, size, MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to));
        return n < 0 ? -errno : 0;
}

/* RFC 5227: a request for one's own address, and for the hosts that only learn from answers the answer to it. */
static int announce_ipv4(int fd, const struct rtnl_link *link, const struct rtnl_address *address)
{
        struct arp_frame frame = {
                .ethernet.ether_type = htons(ETHERTYPE_ARP),
                .arp = {.ar_hrd = htons(ARPHRD_ETHER),
                        .ar_pro = htons(ETHERTYPE_IP),
                        .ar_hln = 6,
                        .ar_pln = 4,
                        .ar_op = htons(ARPOP_REQUEST)},
        };

        memcpy(frame.ethernet.ether_dhost, everybody, 6);
        memcpy(frame.ethernet.ether_shost, link->address, 6);
        memcpy(frame.sender_mac, link->address, 6);
        memcpy(frame.sender_ip, address->local, 4);
        memcpy(frame.target_ip, address->local, 4);
        int r = send_frame(fd, link->index, &frame, sizeof(frame));
        if (r < 0)
                return r;
        frame.arp.ar_op = htons(ARPOP_REPLY);
        memcpy(frame.target_mac, everybody, 6);
        return send_frame(fd, link->index, &frame, sizeof(frame));
}

/* One's complement sum over the pseudo header of RFC 8200 and the message; `size` is even. */
static uint16_t icmp6_checksum(const struct ip6_hdr *ip, const void *message, size_t size)
{
        const uint8_t *addresses = (const uint8_t *)&ip->ip6_src, *bytes = message;
        uint32_t sum = (uint32_t)size + IPPROTO_ICMPV6;

        for (size_t i = 0; i < 32; i += 2)
                sum += (uint32_t)(addresses[i] << 8 | addresses[i + 1]);
        for (size_t i = 0; i < size; i += 2)
                sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return htons((uint16_t)~sum);
}

/* RFC 4861, 7.2.6: unsolicited, with the override flag, to all nodes. */
static int announce_ipv6(int fd, const struct rtnl_link *link, const struct rtnl_address *address)
{
        static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
        static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
        const size_t size = sizeof(struct na_frame) - offsetof(struct na_frame, advert);
        struct na_frame frame = {
                .ethernet.ether_type = htons(ETHERTYPE_IPV6),
                .option = {.nd_opt_type = ND_OPT_TARGET_LINKADDR, .nd_opt_len = 1},
        };

        memcpy(frame.ethernet.ether_dhost, all_nodes_mac, 6);
        memcpy(frame.ethernet.ether_shost, link->address, 6);
        frame.ip.ip6_flow = htonl(6U << 28);
        frame.ip.ip6_plen = htons((uint16_t)size);
        frame.ip.ip6_nxt = IPPROTO_ICMPV6;
        frame.ip.ip6_hlim = 255;
        memcpy(&frame.ip.ip6_src, address->local, 16);
        memcpy(&frame.ip.ip6_dst, all_nodes, 16);
        frame.advert.nd_na_type = ND_NEIGHBOR_ADVERT;
        frame.advert.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
        memcpy(&frame.advert.nd_na_target, address->local, 16);
        memcpy(frame.mac, link->address, 6);

        struct ip6_hdr ip = frame.ip;
        uint8_t message[sizeof(frame)];
        memcpy(message, (const uint8_t *)&frame + offsetof(struct na_frame, advert), size);
        frame.advert.nd_na_cksum = icmp6_checksum(&ip, message, size);
        return send_frame(fd, link->index, &frame, sizeof(frame));
}

static const struct rtnl_link *usable_link(const struct rtnl_link *links, size_t n, unsigned index)
{
        for (size_t i = 0; i < n; i++)
                if (links[i].index == index)
                        return (links[i].flags & IFF_UP) && !(links[i].flags & (IFF_LOOPBACK | IFF_NOARP)) ? &links[i]
                                                                                                           : NULL;
        return NULL;
}

static int announce(char **output, size_t *output_size, void *context, struct error *err)
{
        AUTO_RTNL struct rtnl rtnl = {0};
        AUTO_FREE struct rtnl_address *addresses = NULL;
        AUTO_FREE struct rtnl_link *links = NULL;
        size_t n_addresses = 0, n_links = 0;
        int failed = 0;

        (void)output;
        (void)output_size;
        (void)context;
        int r = rtnl_open(&rtnl);
        if (r == 0)
                r = rtnl_links(&rtnl, &links, &n_links);
        if (r == 0)
                r = rtnl_addresses(&rtnl, AF_UNSPEC, &addresses, &n_addresses);
        if (r < 0)
                return error_errno(err, -r, "cannot announce: no list of addresses");
        AUTO_FD int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return error_errno(err, errno, "cannot announce");

        for (int repeat = 0; repeat < REPEATS; repeat++) {
                if (repeat)
                        (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
                for (size_t i = 0; i < n_addresses; i++) {
                        const struct rtnl_link *link = usable_link(links, n_links, addresses[i].index);
                        /* An address that is still being checked must not be claimed. */
                        if (!link || (addresses[i].flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)))
                                continue;
                        r = addresses[i].family == AF_INET ? announce_ipv4(fd, link, &addresses[i])
                                                           : announce_ipv6(fd, link, &addresses[i]);
                        if (r < 0)
                                failed = r;
                }
        }
        if (failed < 0)
                return error_errno(err, -failed, "cannot announce the addresses");
        return 0;
}

int network_announce(pid_t pid, struct error *err)
{
        return inside_run(pid, 2000, announce, NULL, NULL, NULL, err);
}
