/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json_text.h"
#include "haulers/lxc/lxc.h"
#include "network/claims.h"
#include "network/network.h"

#define WANTED_MAX 128

/* ----------------------------------------------------------------------------------------------------------- source */

/* {eth0: "192.0.2.5/24 …"}, of lines of "eth0 192.0.2.5/24". */
static json_t *describe_addresses(char *named)
{
        json_t *all = json_object();
        char *save = NULL;

        for (char *line = strtok_r(named, "\n", &save); all && line; line = strtok_r(NULL, "\n", &save)) {
                char *address = strchr(line, ' ');
                if (!address)
                        continue;
                *address++ = '\0';
                const char *before = json_text(all, line);
                (void)json_object_set_new(all, line, json_sprintf("%s%s%s", before, before[0] ? " " : "", address));
        }
        return all;
}

/* {addresses: {eth0: "192.0.2.5/24 …"}, macs: {eth0: "02:…"}}: what the configuration need not say. */
json_t *lxc_addresses_describe(pid_t init)
{
        AUTO_FREE struct network_port *ports = NULL;
        AUTO_FREE char *named = NULL;
        size_t n = 0;
        char mac[18];

        if (network_addresses_named(init, &named, NULL) < 0 || network_ports_among(init, &ports, &n, NULL) < 0)
                return NULL;
        json_t *macs = json_object();
        for (size_t i = 0; macs && i < n; i++) {
                const uint8_t *m = ports[i].mac;
                (void)snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
                (void)json_object_set_new(macs, ports[i].inside, json_string(mac));
        }
        return json_pack("{s:o*, s:o*}", "addresses", describe_addresses(named), "macs", macs);
}

/* ----------------------------------------------------------------------------------------------------------- target */

static bool read_mac(const char *text, uint8_t ret[6])
{
        unsigned m[6];

        if (strlen(text) != 17 ||
            sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]) != 6)
                return false;
        for (int i = 0; i < 6; i++)
                ret[i] = (uint8_t)m[i];
        return true;
}

struct list {
        struct network_wanted wanted[WANTED_MAX];
        size_t n;
};

static struct network_wanted *next(struct list *l, const char *bridge)
{
        struct network_wanted *w = l->n < WANTED_MAX ? &l->wanted[l->n++] : NULL;

        if (w)
                (void)snprintf(w->bridge, sizeof(w->bridge), "%s", bridge);
        return w;
}

/* "192.0.2.5/24 192.0.2.255" and the like; once. `bridge` NULL: it is on no port. */
static void want_address(struct list *l, const char *text, const char *bridge)
{
        char address[INET6_ADDRSTRLEN];
        const size_t n = strcspn(text, "/ ");

        if (n == 0 || n >= sizeof(address) || strcmp(text, "dhcp") == 0)
                return;
        (void)snprintf(address, sizeof(address), "%.*s", (int)n, text);
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->wanted[i].address, address) == 0)
                        return;
        struct network_wanted *w = next(l, bridge ?: "");
        if (!w)
                return;
        w->within = !bridge;
        (void)snprintf(w->address, sizeof(w->address), "%s", address);
}

static void want_network(struct list *l, const json_t *network, size_t position, const json_t *macs)
{
        const char *bridge = json_text(network, "link"), *mac = json_text(network, "hwaddr");
        char name[16];

        struct network_wanted *w = next(l, bridge);
        if (!w)
                return;
        w->mac_known =
                read_mac(mac, w->mac) || read_mac(json_text(macs, lxc_network_name(network, position, name)), w->mac);
        want_address(l, json_text(network, "ipv4.address"), bridge);
        want_address(l, json_text(network, "ipv6.address"), bridge);
}

struct report {
        hauler_report_fn report;
        void *context;
};

static void claimed(const struct network_wanted *wanted, const char *address, const char *who, bool gateway,
                    void *context)
{
        const struct report *r = context;
        const uint8_t *m = wanted->mac;
        char text[300], mac[18];

        (void)snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
        (void)snprintf(text, sizeof(text), "%s has the %s %s already. %s", who,
                       address ? "address" : "hardware address", address ? address : mac,
                       gateway ? "It is the way out of this network and may answer for everybody (proxy ARP); if not, "
                                 "change one"
                               : "Change one");
        r->report("address", gateway ? GRADE_WARNING : GRADE_JUDGED, text, r->context);
}

/* The bridge of a port of that name; NULL for an interface that is none. */
static const char *bridge_of(const json_t *networks, const json_t *macs, const char *interface)
{
        const json_t *network;
        char name[16];
        size_t i;

        json_array_foreach(networks, i, network)
        {
                if (strcmp(json_text(network, "type"), "empty") != 0 && json_object_get(macs, interface) &&
                    strcmp(lxc_network_name(network, i, name), interface) == 0)
                        return json_text(network, "link");
        }
        return NULL;
}

static void want_live(struct list *l, const json_t *networks, const json_t *macs, json_t *addresses)
{
        const char *interface;
        json_t *value;

        json_object_foreach(addresses, interface, value)
        {
                AUTO_FREE char *text = strdup(json_string_value(value) ?: "");
                char *save = NULL;
                for (char *one = text ? strtok_r(text, " ", &save) : NULL; one; one = strtok_r(NULL, " ", &save))
                        want_address(l, one, bridge_of(networks, macs, interface));
        }
}

void lxc_addresses_verify(const json_t *networks, const json_t *live, bool away, hauler_report_fn report, void *context)
{
        CLEANUP(cleanup_free) struct list *l = calloc(1, sizeof(*l));
        const json_t *network, *macs = json_object_get(live, "macs");
        json_t *addresses = json_object_get(live, "addresses");
        struct report r = {.report = report, .context = context};
        size_t i;

        if (!l)
                return;
        json_array_foreach(networks, i, network)
        {
                if (strcmp(json_text(network, "type"), "empty") != 0)
                        want_network(l, network, i, macs);
        }
        want_live(l, networks, macs, addresses);
        const struct network_workload w = {.wanted = l->wanted,
                                           .n = l->n,
                                           .away = away,
                                           .complete = json_object_size(addresses) && l->n < WANTED_MAX};
        struct error err = {0};
        if (l->n && network_claims(&w, claimed, &r, &err) < 0)
                report("address", GRADE_WARNING, err.text, context);
}
