/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <linux/if_addr.h>
#include <stddef.h>
#include <stdint.h>

#include "network/rtnl.h"

/* One address of an interface. */
struct rtnl_address {
        unsigned index;    /* of the interface */
        uint8_t family;    /* AF_INET or AF_INET6 */
        uint8_t prefix;    /* length in bits */
        uint8_t scope;     /* RT_SCOPE_… */
        uint32_t flags;    /* IFA_F_… */
        uint8_t local[16]; /* the address; the first four bytes for AF_INET */
        uint8_t peer[16];  /* the far end of a point-to-point address, else the same */
        struct ifa_cacheinfo lifetime;
        uint32_t priority; /* metric of the prefix route, 0: none given */
};

/* All addresses of a family (AF_UNSPEC: both). Caller frees. */
int rtnl_addresses(struct rtnl *rtnl, uint8_t family, struct rtnl_address **ret, size_t *ret_n);
