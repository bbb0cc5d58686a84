/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/ssh_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

static bool consists_of(const char *text, const char *more)
{
        for (; *text; text++)
                if (!strchr(letters, *text) && !strchr(more, *text))
                        return false;
        return true;
}

/* With or without a scope: fe80::1%eth0. */
static bool is_ipv6(const char *host)
{
        struct in6_addr ignored;
        char address[INET6_ADDRSTRLEN];
        const char *scope = strchr(host, '%');
        size_t n = scope ? (size_t)(scope - host) : strlen(host);

        if (n >= sizeof(address) || (scope && (!scope[1] || strlen(scope) > 16 || !consists_of(scope + 1, "._-"))))
                return false;
        memcpy(address, host, n);
        address[n] = '\0';
        return inet_pton(AF_INET6, address, &ignored) == 1;
}

bool ssh_host_is_valid(const char *host)
{
        size_t n = host ? strlen(host) : 0;

        if (n == 0 || n > SSH_HOST_MAX)
                return false;
        return strchr(host, ':') ? is_ipv6(host) : strchr(letters, host[0]) && consists_of(host, "._-");
}

bool ssh_user_is_valid(const char *user)
{
        size_t n = user ? strlen(user) : 0;

        return n > 0 && n <= SSH_USER_MAX && user[0] != '-' && user[0] != '.' && consists_of(user, "._-");
}

static int parse_port(const char *text, unsigned *ret)
{
        unsigned port = 0;
        size_t n = strlen(text);

        if (n < 1 || n > 5 || strspn(text, "0123456789") != n)
                return -EINVAL;
        for (; *text; text++)
                port = port * 10 + (unsigned)(*text - '0');
        if (port < 1 || port > 65535)
                return -EINVAL;
        *ret = port;
        return 0;
}

static int copy(const char *from, size_t n, char *to, size_t size)
{
        if (n >= size)
                return -EINVAL;
        memcpy(to, from, n);
        to[n] = '\0';
        return 0;
}

static int parse(const char *text, struct ssh_address *ret)
{
        struct ssh_address a = {0};
        char rest[SSH_USER_MAX + SSH_HOST_MAX + 16], *host = rest, *end, *port = NULL;

        if (strncmp(text, SSH_SCHEME, sizeof(SSH_SCHEME) - 1) != 0)
                return -EINVAL;
        text += sizeof(SSH_SCHEME) - 1;
        size_t n = strlen(text);
        if (n > 0 && text[n - 1] == '/') /* an empty path, as some tools print it */
                n--;
        if (copy(text, n, rest, sizeof(rest)) < 0)
                return -EINVAL;

        char *at = strchr(rest, '@');
        if (at) {
                *at = '\0';
                host = at + 1;
                if (!ssh_user_is_valid(rest) || copy(rest, strlen(rest), a.user, sizeof(a.user)) < 0)
                        return -EINVAL;
        }
        if (*host == '[') {
                end = strchr(++host, ']');
                if (!end || (end[1] && end[1] != ':') || !memchr(host, ':', (size_t)(end - host)))
                        return -EINVAL;
                port = end[1] ? end + 2 : NULL;
                *end = '\0';
        } else {
                end = strchr(host, ':');
                if (end) {
                        *end = '\0';
                        port = end + 1;
                }
        }
        if (!ssh_host_is_valid(host) || copy(host, strlen(host), a.host, sizeof(a.host)) < 0)
                return -EINVAL;
        if (port && parse_port(port, &a.port) < 0)
                return -EINVAL;
        *ret = a;
        return 0;
}

int ssh_address_parse(const char *text, struct ssh_address *ret, struct error *err)
{
        char quoted[300];

        if (parse(text, ret) == 0)
                return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not ssh://[USER@]HOST[:PORT]",
                              name_quote(text, quoted, sizeof(quoted)));
}
