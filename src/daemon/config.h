/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/name.h"

/*
 * /etc/phaul/phaul.conf and the *.conf beside it in conf.d (in the order of their names; later values win). Unknown
 * sections and keys are errors, so that a misspelt limit is never silently without effect.
 */
#define CONFIG_ACTIONS_MAX 16
#define CONFIG_LISTEN_MAX 8

struct config {
        char host_name[NAME_MAX_LENGTH + 1]; /* [host] name; default: the system's host name up to the first dot */

        uint16_t port;                   /* [network] port = 12345 */
        char *listen[CONFIG_LISTEN_MAX]; /* [network] listen = numeric address, may be repeated; none: all */
        size_t n_listen;
        uint64_t bandwidth; /* [network] bandwidth: bytes per second for migrations that name none, 0 no cap */

        unsigned max_migrations;  /* [limits] migrations = 4, at the same time, either side */
        unsigned max_connections; /* [limits] connections = 64, from other hosts */
        unsigned keep_released_h; /* [limits] keep-released = 24, hours */

        char *actions[CONFIG_ACTIONS_MAX + 1]; /* [switchover] action = ucarp:…, may be repeated; NULL-terminated */
        size_t n_actions;
        char *hook_directory; /* [switchover] hooks = /etc/phaul/hooks.d; NULL: default */
};

/* A missing main file means defaults. Errors name file and line. */
int config_load(const char *path, struct config **ret, struct error *err);
void config_free(struct config *config);
DEFINE_CLEANUP(struct config, config_free)

/* "10M", "1.5G", "800k", "1000000": bytes per second; k, M, G are powers of 1000. -EINVAL. */
int rate_parse(const char *text, uint64_t *ret);
