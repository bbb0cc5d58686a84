/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/flows.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/number_set.h"
#include "base/spawn.h"

#define TABLE_TEXT_MAX (64U << 20)
#define NFT_TIMEOUT_MS 10000
#define NFT_WORDS_MAX 2000
#define FLOWS_MAX 65536
enum { STATE_CLOSE = 7, STATE_LISTEN = 10 }; /* the kernel's TCP_CLOSE and TCP_LISTEN */

/* ------------------------------------------------------------------------------------------------- whose sockets */

static int add_sockets(struct number_set *set, pid_t pid)
{
        char path[64], target[64];
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        for (struct dirent *e; dir && r == 0 && (e = readdir(dir));) {
                uint64_t inode;
                ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
                if (n <= 0)
                        continue;
                target[n] = '\0';
                if (sscanf(target, "socket:[%" SCNu64 "]", &inode) == 1)
                        r = number_set_add(set, inode);
        }
        return r;
}

/* ------------------------------------------------------------------------------------------------ /proc/net/tcp{,6} */

/* Words of 32 bits, each as this machine has it in memory. */
static bool read_address(const char *hex, bool v6, uint8_t ret[static 16])
{
        for (int i = 0; i < (v6 ? 4 : 1); i++) {
                uint32_t word;
                if (sscanf(hex + 8 * i, "%8" SCNx32, &word) != 1)
                        return false;
                memcpy(ret + 4 * i, &word, sizeof(word));
        }
        return true;
}

/* An IPv4 connection on an IPv6 socket is one of IPv4 on the wire. */
static void unmap(struct network_flow *f)
{
        static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

        if (!f->v6 || memcmp(f->local, mapped, sizeof(mapped)) != 0)
                return;
        f->v6 = false;
        memmove(f->local, f->local + 12, 4);
        memmove(f->remote, f->remote + 12, 4);
}

/* 1: one of the tasks' connections. */
static int read_line(const char *line, bool v6, const struct number_set *set, struct network_flow *ret)
{
        char local[40], remote[40];
        unsigned local_port, remote_port, state;
        uint64_t inode;

        if (sscanf(line, " %*d: %32[0-9A-F]:%4x %32[0-9A-F]:%4x %2x %*s %*s %*s %*u %*u %" SCNu64, local, &local_port,
                   remote, &remote_port, &state, &inode) != 6)
                return 0;
        if (state == STATE_CLOSE || state == STATE_LISTEN || !number_set_has(set, inode))
                return 0;
        *ret = (struct network_flow){
                .v6 = v6, .local_port = (uint16_t)local_port, .remote_port = (uint16_t)remote_port};
        if (!read_address(local, v6, ret->local) || !read_address(remote, v6, ret->remote))
                return 0;
        unmap(ret);
        return 1;
}

static int read_table(bool v6, const struct number_set *set, struct network_flow **flows, size_t *n)
{
        AUTO_FREE char *text = NULL;

        int r = fd_read_file(AT_FDCWD, v6 ? "/proc/net/tcp6" : "/proc/net/tcp", TABLE_TEXT_MAX, &text, NULL);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                struct network_flow flow;
                if (!read_line(line, v6, set, &flow))
                        continue;
                struct network_flow *grown = *n < FLOWS_MAX ? reallocarray(*flows, *n + 1, sizeof(flow)) : NULL;
                if (!grown)
                        return -ENOMEM;
                *flows = grown;
                grown[(*n)++] = flow;
        }
        return 0;
}

int network_flows(const pid_t *pids, size_t n_pids, struct network_flow **ret, size_t *ret_n, struct error *err)
{
        struct number_set set = {0};
        AUTO_FREE struct network_flow *flows = NULL;
        size_t n = 0;
        int r = 0;

        for (size_t i = 0; r == 0 && i < n_pids; i++)
                r = add_sockets(&set, pids[i]);
        number_set_sort(&set);
        if (r == 0)
                r = read_table(false, &set, &flows, &n);
        if (r == 0)
                r = read_table(true, &set, &flows, &n);
        number_set_done(&set);
        if (r < 0)
                return error_errno(err, -r, "cannot find the TCP connections");
        *ret = TAKE_PTR(flows);
        *ret_n = n;
        return 0;
}

/* ------------------------------------------------------------------------------------------------------------ nft */

static bool table_is_valid(const char *table)
{
        return table[0] && strlen(table) < 64 &&
               strspn(table, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(table);
}

static void put_set(FILE *f, const struct network_flow *flows, size_t n, bool v6)
{
        const int family = v6 ? AF_INET6 : AF_INET;
        char local[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];
        bool any = false;

        (void)fprintf(f, "set %s { type %s . inet_service . %s . inet_service;", v6 ? "v6" : "v4",
                      v6 ? "ipv6_addr" : "ipv4_addr", v6 ? "ipv6_addr" : "ipv4_addr");
        for (size_t i = 0; i < n; i++) {
                if (flows[i].v6 != v6 || !inet_ntop(family, flows[i].local, local, sizeof(local)) ||
                    !inet_ntop(family, flows[i].remote, remote, sizeof(remote)))
                        continue;
                (void)fprintf(f, "%s %s . %u . %s . %u", any ? "," : " elements = {", local, flows[i].local_port,
                              remote, flows[i].remote_port);
                any = true;
        }
        (void)fprintf(f, "%s }\n", any ? " }" : "");
}

/* One transaction: what an earlier process left under the name is replaced. */
static int put_table(int fd, const char *table, const struct network_flow *flows, size_t n)
{
        AUTO_FD int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        AUTO_FILE FILE *f = copy >= 0 ? fdopen(copy, "we") : NULL;

        if (!f)
                return -ENOMEM;
        (void)TAKE_FD(copy);
        (void)fprintf(f, "table inet %s\ndelete table inet %s\n", table, table);
        if (flows) {
                (void)fprintf(f, "table inet %s {\n", table);
                put_set(f, flows, n, false);
                put_set(f, flows, n, true);
                (void)fprintf(f, "chain in { type filter hook input priority -400; policy accept;\n"
                                 "ip daddr . tcp dport . ip saddr . tcp sport @v4 drop\n"
                                 "ip6 daddr . tcp dport . ip6 saddr . tcp sport @v6 drop\n}\n"
                                 "chain out { type filter hook output priority -400; policy accept;\n"
                                 "ip saddr . tcp sport . ip daddr . tcp dport @v4 drop\n"
                                 "ip6 saddr . tcp sport . ip6 daddr . tcp dport @v6 drop\n}\n}\n");
        }
        return fflush(f) == 0 && !ferror(f) ? 0 : -EIO;
}

static int run_nft(const char *table, const struct network_flow *flows, size_t n, struct error *err)
{
        static const char *const argv[] = {"nft", "-f", "-", NULL};
        AUTO_FREE char *words = NULL;

        if (!table_is_valid(table))
                return error_set(err, EINVAL, "'%.64s' is no name for a table of packet rules", table);
        AUTO_FD int rules = memfd_create("phaul-rules", MFD_CLOEXEC);
        int r = rules < 0 ? -errno : put_table(rules, table, flows, n);
        if (r < 0 || lseek(rules, 0, SEEK_SET) < 0)
                return error_errno(err, r < 0 ? -r : errno, "cannot write packet rules");
        const struct spawn_fd fds[] = {{.fd = rules, .target = 0}};
        const struct spawn_options options = {
                .argv = argv, .fds = fds, .n_fds = 1, .merge_stderr = true, .new_session = true};
        r = spawn_capture(&options, NFT_TIMEOUT_MS, NFT_WORDS_MAX, &words, err);
        if (r > 0) {
                words[strcspn(words, "\n")] = '\0';
                return error_set(err, EIO, "nft does not take the rules that hold connections still: %s", words);
        }
        return r;
}

int network_flows_lock(const char *table, const struct network_flow *flows, size_t n, struct error *err)
{
        static const struct network_flow none = {0};

        return run_nft(table, flows ? flows : &none, flows ? n : 0, err);
}

int network_flows_unlock(const char *table, struct error *err)
{
        return run_nft(table, NULL, 0, err);
}

bool network_flows_can_lock(void)
{
        static const char *const argv[] = {"nft", "--version", NULL};
        const struct spawn_options options = {.argv = argv, .merge_stderr = true, .new_session = true};
        AUTO_FREE char *words = NULL;

        return spawn_capture(&options, NFT_TIMEOUT_MS, NFT_WORDS_MAX, &words, NULL) == 0;
}
