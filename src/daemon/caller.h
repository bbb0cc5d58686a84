/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>

#include "base/error.h"

/*
 * Who is at the other end of a Unix socket, and whether phauld listens to them: root, and members of `group`
 * ((gid_t)-1: nobody else). The mode of a socket keeps others out already; this also holds when somebody hands a
 * connection on.
 */
int caller_check(int fd, gid_t group, uid_t *ret_uid, struct error *err);

/* Group phaul, (gid_t)-1 when there is none. */
gid_t caller_group(void);
