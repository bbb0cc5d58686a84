/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Do something inside the network namespace of `pid`: `fn` runs in a forked child that has entered it (and nothing
 * else), so that the caller never leaves its own. What `fn` leaves in *output (malloc()ed) comes back in *ret
 * (NUL-terminated, caller frees; may be NULL when no output is wanted). Its result and *err come back as well.
 * The child is killed after `timeout_ms` (-ETIMEDOUT).
 */
typedef int (*inside_fn)(char **output, size_t *output_size, void *context, struct error *err);
int inside_run(pid_t pid, int timeout_ms, inside_fn fn, void *context, char **ret, size_t *ret_size, struct error *err);

/* Open the network namespace of `pid`; -EOPNOTSUPP when it is our own. */
int inside_open(pid_t pid, struct error *err);
