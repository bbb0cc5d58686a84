/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "network/flows.h"

#define LIST "phaul-connections.img"
#define LIST_MAX (16U << 20)
#define ADDRESSES_MAX 64

static char *table_of(pid_t pid, const char *mark)
{
        return format_new("phaul_pid_%d_%s", (int)pid, mark);
}

/* ----------------------------------------------------------------------------------------------------- pre-flight */

static void print_address(const struct network_flow *f, bool local, char ret[static INET6_ADDRSTRLEN])
{
        if (!inet_ntop(f->v6 ? AF_INET6 : AF_INET, local ? f->local : f->remote, ret, INET6_ADDRSTRLEN))
                ret[0] = '\0';
}

static bool lists(const json_t *array, const char *text)
{
        const json_t *entry;
        size_t i;

        json_array_foreach(array, i, entry)
        {
                if (strcmp(json_string_value(entry) ?: "", text) == 0)
                        return true;
        }
        return false;
}

int process_connections_describe(const struct process_set *pids, json_t *description, struct process_findings *f,
                                 struct error *err)
{
        AUTO_FREE struct network_flow *flows = NULL;
        json_t *addresses = json_array();
        size_t n = 0;

        int r = network_flows(pids->pids, pids->n, &flows, &n, err);
        if (r < 0) {
                json_decref(addresses);
                return r;
        }
        for (size_t i = 0; i < n && json_array_size(addresses) < ADDRESSES_MAX; i++) {
                char text[INET6_ADDRSTRLEN];
                print_address(&flows[i], true, text);
                if (!lists(addresses, text))
                        (void)json_array_append_new(addresses, json_string(text));
        }
        if (!addresses || json_object_set_new(description, "addresses", addresses) < 0 ||
            json_object_set_new(description, "connections", json_integer((json_int_t)n)) < 0)
                return error_set(err, ENOMEM, "out of memory");
        if (n && !network_flows_can_lock())
                process_say(
                        f, "connections", GRADE_ERROR,
                        "it has %zu TCP connections, and without nft they cannot be held still: install nftables, or "
                        "--tcp-close",
                        n);
        else if (n)
                process_say(f, "connections", GRADE_OK, "it has %zu TCP connections", n);
        return 0;
}

static bool is_here(const char *text)
{
        struct ifaddrs *all = NULL;
        uint8_t wanted[16];
        bool found = false;
        const int family = strchr(text, ':') ? AF_INET6 : AF_INET;

        if (inet_pton(family, text, wanted) != 1 || getifaddrs(&all) < 0)
                return false;
        for (const struct ifaddrs *a = all; a && !found; a = a->ifa_next) {
                if (!a->ifa_addr || a->ifa_addr->sa_family != family)
                        continue;
                const void *address =
                        family == AF_INET
                                ? (const void *)&((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr
                                : (const void *)&((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr;
                found = memcmp(address, wanted, family == AF_INET ? 4 : 16) == 0;
        }
        freeifaddrs(all);
        return found;
}

void process_connections_verify(const json_t *description, struct process_findings *f)
{
        const json_t *entry, *addresses = json_object_get(description, "addresses");
        size_t i;

        if (json_array_size(addresses) > 0 && !network_flows_can_lock())
                process_say(
                        f, "connections", GRADE_ERROR,
                        "without nft its TCP connections cannot be held still here: install nftables, or --tcp-close");
        json_array_foreach(addresses, i, entry)
        {
                const char *text = json_string_value(entry);
                if (i < ADDRESSES_MAX && text && !is_here(text))
                        process_say(f, "address", GRADE_WARNING,
                                    "connections are bound to %.64s, which is not here yet: a hook must bring it when "
                                    "it is "
                                    "told 'arriving'",
                                    text);
        }
}

/* ------------------------------------------------------------------------------------------------------------- lock */

static void mark_of(const struct process_private *p, char ret[static 32])
{
        (void)snprintf(ret, 32, "%lld", (long long)json_integer_value(json_object_get(p->info, "started")));
}

int process_network_lock(struct workload *w, struct error *err)
{
        struct process_private *p = w->private_data;
        CLEANUP(process_set_done) struct process_set pids = {0};
        char mark[32];

        if (w->options->tcp_close)
                return 0;
        int r = process_tree(w->init_pid, &pids, NULL, err);
        if (r == 0)
                r = network_flows(pids.pids, pids.n, &p->flows, &p->n_flows, err);
        if (r < 0 || p->n_flows == 0)
                return r;
        mark_of(p, mark);
        AUTO_FREE char *table = table_of(w->init_pid, mark);
        return table ? network_flows_lock(table, p->flows, p->n_flows, err) : error_set(err, ENOMEM, "out of memory");
}

int process_connections_unlock(pid_t pid, const char *mark, struct error *err)
{
        AUTO_FREE char *table = table_of(pid, mark);

        if (!table)
                return error_set(err, ENOMEM, "out of memory");
        /* Where there is no nft there was never a lock. */
        return network_flows_can_lock() ? network_flows_unlock(table, err) : 0;
}

/* --------------------------------------------------------------------------------------------------------- the list */

int process_connections_save(const struct workload *w, int images_fd, struct error *err)
{
        const struct process_private *p = w->private_data;
        json_t *list = json_array();

        for (size_t i = 0; i < p->n_flows; i++) {
                char local[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];
                print_address(&p->flows[i], true, local);
                print_address(&p->flows[i], false, remote);
                (void)json_array_append_new(list, json_pack("[s, i, s, i]", local, (int)p->flows[i].local_port, remote,
                                                            (int)p->flows[i].remote_port));
        }
        AUTO_FREE char *text = list ? json_dumps(list, JSON_COMPACT) : NULL;
        json_decref(list);
        AUTO_FD int fd = text ? openat(images_fd, LIST, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
        int r = !text ? -ENOMEM : fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
        return r < 0 ? error_errno(err, -r, "cannot write the list of connections") : 0;
}

static int parse_flow(const json_t *entry, struct network_flow *ret)
{
        const char *local = json_string_value(json_array_get(entry, 0)) ?: "";
        const char *remote = json_string_value(json_array_get(entry, 2)) ?: "";
        json_int_t local_port = json_integer_value(json_array_get(entry, 1));
        json_int_t remote_port = json_integer_value(json_array_get(entry, 3));

        *ret = (struct network_flow){.v6 = strchr(local, ':') != NULL};
        if (local_port <= 0 || local_port > 65535 || remote_port <= 0 || remote_port > 65535 ||
            inet_pton(ret->v6 ? AF_INET6 : AF_INET, local, ret->local) != 1 ||
            inet_pton(ret->v6 ? AF_INET6 : AF_INET, remote, ret->remote) != 1)
                return -EBADMSG;
        ret->local_port = (uint16_t)local_port;
        ret->remote_port = (uint16_t)remote_port;
        return 0;
}

static int parse_list(const json_t *list, struct process_private *p)
{
        const json_t *entry;
        size_t i;

        if (!json_is_array(list))
                return -EBADMSG;
        p->flows = calloc(json_array_size(list) + 1, sizeof(*p->flows));
        if (!p->flows)
                return -ENOMEM;
        json_array_foreach(list, i, entry)
        {
                int r = parse_flow(entry, &p->flows[p->n_flows++]);
                if (r < 0)
                        return r;
        }
        return 0;
}

int process_network_expect(struct workload *w, const char *images, struct error *err)
{
        struct process_private *p = w->private_data;
        AUTO_FREE char *text = NULL, *table = NULL;

        p->expected = true;
        if (w->options->tcp_close)
                return 0;
        AUTO_FD int images_fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (images_fd < 0)
                return error_errno(err, errno, "cannot open %s", images);
        int r = fd_read_file(images_fd, LIST, LIST_MAX, &text, NULL);
        if (r < 0)
                return error_errno(err, -r, "the list of connections did not come");
        json_t *list = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        r = parse_list(list, p);
        json_decref(list);
        if (r < 0)
                return error_errno(err, -r, "the list of connections is none");
        if (p->n_flows == 0)
                return 0;
        table = table_of(p->pid, p->token);
        return table ? network_flows_lock(table, p->flows, p->n_flows, err) : error_set(err, ENOMEM, "out of memory");
}
