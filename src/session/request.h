/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"

/* request.json, written by phauld (which checked it; it is checked again) into the migration's directory. */
struct session_places {
        char runtime[128];       /* /run/phaul */
        char configuration[128]; /* /etc/phaul */
        char state[128];         /* /var/lib/phaul */
        char hooks[128];         /* "" for the default */
        char libexec[128];       /* where phaul-net and the helpers are */
};

int request_read(const char *directory, struct session_request *ret, struct session_places *ret_places,
                 char ***ret_actions, struct error *err);
