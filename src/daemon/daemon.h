/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <limits.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/config.h"
#include "daemon/events.h"
#include "daemon/history.h"
#include "daemon/http.h"
#include "daemon/pairing.h"
#include "haulers/hauler.h"
#include "loop/loop.h"
#include "wire/link.h"

struct migrations;
struct peers;
struct hosts;
struct receptions;
struct descriptors;

/* Where phauld keeps things; all absolute. */
struct places {
        char config_file[PATH_MAX]; /* /etc/phaul/phaul.conf */
        char trust[PATH_MAX];       /* /etc/phaul */
        char state[PATH_MAX];       /* /var/lib/phaul */
        char runtime[PATH_MAX];     /* /run/phaul */
        char libexec[PATH_MAX];     /* phaul-session and phaul-net */
        char data[PATH_MAX];        /* share/phaul: openapi.yaml */
        bool transient; /* started by `phaul receive`: listens on no port, ends when nothing is left to do */
};

/* Everything of one phauld; one thread. Parts know the whole, made in this order and freed backwards. */
struct daemon {
        struct loop *loop;
        struct places places;
        struct config *config;
        const struct hauler *const *haulers;
        char net_program[PATH_MAX + 16];
        struct link_environment link_environment;
        struct events *events;
        struct history *history;
        struct migrations *migrations;
        struct pairing pairing;
        struct hosts *hosts;
        struct peers *peers;
        struct receptions *receptions;
        struct descriptors *descriptors;
        struct http *http;
        int lock_fd;
};

/* `kinds` as `haulers`, NULL-terminated, borrowed; reads the configuration, takes the lock, opens sockets. */
int daemon_new(struct loop *loop, const struct places *places, const struct hauler *const *kinds, struct daemon **ret,
               struct error *err);
void daemon_free(struct daemon *daemon);

/* Whether there is anything that a transient phauld stays for. */
bool daemon_is_busy(const struct daemon *daemon);
DEFINE_CLEANUP(struct daemon, daemon_free)
