/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/ssh_address.h"

/*
 * How the other host is reached, as it stands in request.json: dialled by its address (a paired host), or through a
 * tunnel (wire/tunnel.h) that ssh or a user's descriptors carry.
 */
enum way_kind {
        WAY_DIAL,        /* no "way" */
        WAY_SSH,         /* source; "ssh": {host, user, port, agent, uid}: run again whenever the tunnel is lost */
        WAY_DESCRIPTORS, /* source: phauld hands them over once; there is no other way back */
        WAY_TUNNEL,      /* target: connections come from phauld as always, but none can be made from here */
};

struct way {
        enum way_kind kind;
        struct ssh_address ssh;
        char agent[SSH_AGENT_MAX + 1]; /* socket of an ssh-agent, "" none */
        uid_t uid;                     /* whose ssh it is: who asked for the migration */
};

/* From the request. -EINVAL. */
int way_parse(const json_t *request, bool source, struct way *ret);

/* The arguments of ssh; pointers into `way`, `port` (these have room for so much) and constants. */
#define WAY_ARGV_MAX 64
#define WAY_PORT_SIZE 12
void way_ssh_argv(const struct way *way, const char **argv, char *port);

/*
 * The error a failed ssh stands for: `status` is its wait status (-1: it has not ended, or nobody knows), `err` what
 * the tunnel's end said, with ssh's own words in it. Kind and text become those of the cause.
 */
void way_ssh_explain(const struct way *way, int status, struct error *err);
