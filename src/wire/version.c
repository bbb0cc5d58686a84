/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>

#include "wire/version.h"

int wire_negotiate_range(uint32_t own_min, uint32_t own_max, uint32_t peer_min, uint32_t peer_max, uint32_t *ret,
                         struct error *err)
{
        uint32_t low = own_min > peer_min ? own_min : peer_min;
        uint32_t high = own_max < peer_max ? own_max : peer_max;

        if (peer_min > peer_max || low > high)
                return error_set_kind(err, ERROR_REFUSED, EPROTONOSUPPORT,
                                      "no common version of the protocol: this host speaks %u to %u, the peer %u to %u",
                                      own_min, own_max, peer_min, peer_max);
        *ret = high;
        return 0;
}

int wire_negotiate(uint32_t peer_min, uint32_t peer_max, uint32_t *ret, struct error *err)
{
        return wire_negotiate_range(WIRE_VERSION_MIN, WIRE_VERSION_MAX, peer_min, peer_max, ret, err);
}
