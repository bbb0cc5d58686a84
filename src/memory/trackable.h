/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "memory/address_space.h"

/* Which processes, and what of their memory, a tracker of whatever kind can follow. */

/*
 * The mappings there are now that can be followed: private, readable, without a file behind them. -EOPNOTSUPP with the
 * reason for a process whose memory is written by others than the processor (pinned, asynchronous I/O, io_uring).
 * -ESRCH, -ENOMEM.
 */
int trackable_mappings(pid_t pid, struct address_space *ret, struct error *err);

/* The same of what its descriptors tell: looked at less often, when it is attached. */
int trackable_descriptors(pid_t pid, struct error *err);

/* /proc/PID/pagemap: a new descriptor. */
int trackable_pagemap(pid_t pid, struct error *err);
