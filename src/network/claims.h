/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* One interface of a workload that is to come here, or one of its addresses. */
struct network_wanted {
        char address[INET6_ADDRSTRLEN]; /* without prefix length; "" for an interface */
        char bridge[IF_NAMESIZE];       /* where it will be */
        uint8_t mac[6];                 /* of the interface */
        bool mac_known;
        bool within; /* an address that it has on no port: it may answer for it, but whoever has it too is no rival */
};

struct network_workload {
        const struct network_wanted *wanted;
        size_t n;
        bool away;     /* it does not run: whoever answers is somebody else */
        bool complete; /* it has no other addresses */
};

/*
 * Who has them already? This host itself, or somebody on its networks: by the tables of neighbours, and by asking
 * (ARP, neighbour discovery) on the bridge; that takes up to half a second where nobody answers, and leaves what the
 * kernel keeps of any neighbour. `who` is told for people: "interface br0 of this host", "02:00:… on br0"; `gateway`:
 * that one is this host's way out and may answer for everybody (proxy ARP). Called once for an address at most, and
 * with `address` NULL for the hardware address of one.
 */
typedef void (*network_claim_fn)(const struct network_wanted *wanted, const char *address, const char *who,
                                 bool gateway, void *context);
int network_claims(const struct network_workload *workload, network_claim_fn claimed, void *context, struct error *err);
