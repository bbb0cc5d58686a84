/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/inject.h"

/*
 * For tests: inject_descriptor() whose tracer kills itself (SIGKILL) when it comes to step `last`, counted from 1.
 * There is a step before and after everything that the thread could notice. -EINTR when it died; 0 for `last`: never.
 */
int inject_descriptor_until(pid_t pid, const struct inject_call *call, int last, int *ret_fd, uint64_t *ret_stopped_us,
                            struct error *err);
