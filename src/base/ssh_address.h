/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/*
 * ssh://[USER@]HOST[:PORT], as users type it. The parts become arguments of ssh, so what is allowed in them is little:
 * nothing that begins with a dash, no blanks, no quotes, nothing a shell or ssh's own expansions could take for theirs.
 */
#define SSH_HOST_MAX 253
#define SSH_USER_MAX 32
#define SSH_AGENT_MAX 107 /* the path of its socket */

struct ssh_address {
        char host[SSH_HOST_MAX + 1]; /* IPv6 without its brackets */
        char user[SSH_USER_MAX + 1]; /* "": as ssh is configured */
        unsigned port;               /* 0: as ssh is configured */
};

#define SSH_SCHEME "ssh://"

/* ERROR_USAGE with a quoted text. */
int ssh_address_parse(const char *text, struct ssh_address *ret, struct error *err);

/* 1 to 253 of letters, digits, '.', '-', '_' beginning with a letter or digit, or a numeric IPv6 address. */
bool ssh_host_is_valid(const char *host);
/* 1 to 32 of letters, digits, '_', '.', '-', beginning with a letter, a digit or '_'. */
bool ssh_user_is_valid(const char *user);
