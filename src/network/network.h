/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * What happens to a workload's network. Talks rtnetlink through libmnl; enters another network namespace only in a
 * short-lived child or thread, never in the caller. Blocking, each call a few milliseconds.
 */

/* A veth end inside the workload's network namespace and its other end here. */
struct network_port {
        char inside[IF_NAMESIZE];  /* eth0 */
        char outside[IF_NAMESIZE]; /* vethABC, in our namespace */
        char bridge[IF_NAMESIZE];  /* bridge `outside` is a port of; "" for none */
        uint8_t mac[6];            /* of the inside end */
};

/* All veth pairs between the namespace of `pid` and ours. Caller frees *ret. -EOPNOTSUPP names an interface of another
 * type. */
int network_ports(pid_t pid, struct network_port **ret, size_t *ret_n, struct error *err);

/* The same, but interfaces of other types (a bridge, a dummy) are passed over. */
int network_ports_among(pid_t pid, struct network_port **ret, size_t *ret_n, struct error *err);

/*
 * Our own network lock: no frame passes the port in either direction, while the carrier inside stays up (a carrier
 * change would be queued on the workload's netlink sockets, which CRIU cannot dump, and would set IPv6 duplicate
 * detection off). Done by the bridge port state; idempotent. A missing interface is no error for unlock, a port of no
 * bridge is one for lock (-EOPNOTSUPP). On a bridge that runs the kernel's spanning tree (network_bridge_delays()) the
 * port leaves the bridge meanwhile, and forwards again only after the protocol's delay.
 */
int network_lock(const struct network_port *port, struct error *err);
int network_unlock(const struct network_port *port, struct error *err);

/* Make `outside` a port of `bridge`, forwarding at once, and bring it up (the target's switchover). */
int network_attach(const char *outside, const char *bridge, struct error *err);

/* Does a bridge of that name exist here? */
bool network_bridge_exists(const char *name);

/* Does it run the kernel's spanning tree, so that a new port forwards only after its delay (30 s by default)? */
bool network_bridge_delays(const char *name);

/* Is the name of an interface taken here? */
bool network_interface_exists(const char *name);

/* Give an interface that is down another name; -EEXIST when it is taken. */
int network_rename(const char *from, const char *to, struct error *err);

/* Remove an interface of ours if it (still) exists. */
int network_delete(const char *name, struct error *err);

/* The addresses of `pid`'s network, "192.0.2.5/24 2001:db8::5/64 …" without loopback and link-local; caller frees. */
int network_addresses(pid_t pid, char **ret, struct error *err);

/* The same by interface: lines of "eth0 192.0.2.5/24". */
int network_addresses_named(pid_t pid, char **ret, struct error *err);

/* Move interface `name` from the network namespace of `pid` into ours, where it is down. */
int network_bring_over(pid_t pid, const char *name, struct error *err);

/* Gratuitous ARP and unsolicited neighbour advertisement for every address of every port, sent from inside. */
int network_announce(pid_t pid, struct error *err);

/*
 * Turn TCP_REPAIR off on every TCP socket of the tasks (pidfd_getfd), after a CRIU that died left it on: the sockets
 * would swallow the application's writes. Returns the number of sockets put right.
 */
int network_repair_off(const pid_t *pids, size_t n_pids, struct error *err);

/* Turn it on: sockets of a copy that is about to be killed close without a word to the other end. */
int network_repair_on(const pid_t *pids, size_t n_pids, struct error *err);

/*
 * What is run around the switchover, beside the announcement: built-in actions and the programs in `directory` (default
 * /etc/phaul/hooks.d), in order of their names, root-owned and not writable by others only; each gets its data in the
 * environment (PHAUL_EVENT, PHAUL_KIND, PHAUL_ID, PHAUL_NAME, PHAUL_PEER, PHAUL_SIDE, PHAUL_ADDRESSES) and 10 s.
 * A hook that fails is reported in *err, never fatal for the migration: the caller shows it as a warning. The others
 * still run. An event is told by PHAUL_EVENT "arriving", "leaving", "arrived", "stayed" or "discarded", the side by
 * PHAUL_SIDE "source" or "target"; PHAUL_ADDRESSES is separated by spaces.
 *
 * Built-in actions:
 *   ucarp:WHICH          WHICH is the path of a file with ucarp's pid, the interface it runs on, or * for all of them.
 *                        "leaving" sends SIGUSR2, by which a ucarp that is master steps back, so that the target's
 * takes the address over. The other events need nothing: ucarp cannot be told to become master, it does when nobody
 * else is. keepalived:INSTANCE  keeps a number in /run/phaul/keepalived/INSTANCE, to be named in a track_file of
 *                        keepalived.conf (weight 1) that the VRRP instance tracks: -253 after "leaving", the lowest
 *                        priority there is but still a running instance, 0 after "arrived" and "stayed".
 */
enum network_event {
        NETWORK_ARRIVING,  /* target, before the restore: bring the address, do not announce it. Only for a workload in
                              the host's own network; its connections are held still on both hosts */
        NETWORK_DISCARDED, /* target, after "arriving", when nothing came of it: take the address away again */
        NETWORK_LEAVING,   /* source, after COMMIT, before the target is told: give the virtual address up */
        NETWORK_ARRIVED,   /* target, right after the tasks run: take it */
        NETWORK_STAYED,    /* source, after an abort: take it back */
};
struct network_hook_context {
        const char *kind, *id, *name, *peer;
        const char *addresses; /* PHAUL_ADDRESSES; NULL: those of the network of `pid` */
        pid_t pid;             /* of the workload's init, 0 when gone */
        const char *directory; /* NULL: default */
        const char *const
                *actions; /* NULL-terminated built-ins: "ucarp:PIDFILE-or-interface", "keepalived:…"; NULL: none */
};
const char *network_event_name(enum network_event event);
int network_hooks(enum network_event event, const struct network_hook_context *context, struct error *err);
