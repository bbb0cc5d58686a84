/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <libmnl/libmnl.h>
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The few rtnetlink exchanges this folder needs, on libmnl. A socket belongs to the network namespace in which it was
 * opened. All calls block for an answer of the kernel; 0 or a negative errno.
 */
struct rtnl {
        struct mnl_socket *socket;
        unsigned sequence;
};

int rtnl_open(struct rtnl *rtnl);
void rtnl_close(struct rtnl *rtnl);
#define AUTO_RTNL __attribute__((cleanup(rtnl_close)))

/* Room for one request. */
#define RTNL_REQUEST_SIZE 1024

/* Start a request in `buffer` of RTNL_REQUEST_SIZE bytes; `extra_size` bytes of family header, zeroed, in *ret_extra.
 */
struct nlmsghdr *rtnl_request(void *buffer, uint16_t type, uint16_t flags, size_t extra_size, void *ret_extra);

/* Send and wait for the acknowledgement. */
int rtnl_talk(struct rtnl *rtnl, struct nlmsghdr *request);

/* Send and hand every answer to `fn` (MNL_CB_OK to go on, MNL_CB_ERROR with errno set to stop). */
int rtnl_query(struct rtnl *rtnl, struct nlmsghdr *request, mnl_cb_t fn, void *context);

/* IF_OPER_UP of <linux/if.h>, which cannot be included together with <net/if.h>. */
#define RTNL_OPERSTATE_UP 6

/* What is used of a link. */
struct rtnl_link {
        unsigned index;
        char name[IF_NAMESIZE];
        char kind[16];      /* "veth", "bridge", … ; "" for a real or loopback device */
        char port_kind[16]; /* "bridge" when it is a port of one */
        unsigned flags;     /* IFF_UP, … */
        unsigned master;    /* index, 0: none */
        unsigned peer;      /* IFLA_LINK, 0: none */
        int peer_netns;     /* IFLA_LINK_NETNSID, -1: the same namespace */
        int port_state;     /* IFLA_BRPORT_STATE, -1: not a bridge port */
        bool kernel_stp;    /* a bridge that runs the spanning tree protocol itself */
        uint8_t address[6]; /* zero when it has none of six bytes */
        uint8_t operstate;  /* of RFC 2863; RTNL_OPERSTATE_UP when frames can pass */
};

int rtnl_link_by_name(struct rtnl *rtnl, const char *name, struct rtnl_link *ret);
int rtnl_link_by_index(struct rtnl *rtnl, unsigned index, struct rtnl_link *ret);

/* All links, caller frees. */
int rtnl_links(struct rtnl *rtnl, struct rtnl_link **ret, size_t *ret_n);

/* Set and clear IFF_ flags. */
int rtnl_link_flags(struct rtnl *rtnl, unsigned index, unsigned set, unsigned clear);

/* The number by which the socket's namespace knows the one of the open descriptor; -1 in *ret when it has none. */
int rtnl_netns_id(struct rtnl *rtnl, int netns_fd, int *ret);
