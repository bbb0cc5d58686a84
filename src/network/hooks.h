/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "network/network.h"

/* The built-in actions of network_hooks(), each 0 or a negative errno with *err filled. See network.h for meanings. */

/* `which`: absolute path of a pid file, name of an interface, or "*". */
int hook_ucarp(enum network_event event, const char *which, struct error *err);

#define HOOK_KEEPALIVED_DIRECTORY "/run/phaul/keepalived"
int hook_keepalived(enum network_event event, const char *instance, const char *directory, struct error *err);
