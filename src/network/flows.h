/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * TCP connections of tasks that live in this network namespace, one by one: the host's own network cannot be cut as a
 * container's port can. The lock is a table of nftables of our own that drops exactly their segments, in and out, so
 * that neither end hears anything, above all no reset while the connection exists nowhere. It outlives every process.
 */
struct network_flow {
        bool v6;
        uint8_t local[16], remote[16]; /* network order; IPv4 in the first four bytes */
        uint16_t local_port, remote_port;
};

/* All of the tasks that are not listening or closed. Caller frees *ret. */
int network_flows(const pid_t *pids, size_t n_pids, struct network_flow **ret, size_t *ret_n, struct error *err);

/* `table` is of [a-z0-9_]. Idempotent both; runs nft(8) and blocks for it, some 10 ms. */
int network_flows_lock(const char *table, const struct network_flow *flows, size_t n, struct error *err);
int network_flows_unlock(const char *table, struct error *err);

/* Is there an nft? */
bool network_flows_can_lock(void);
