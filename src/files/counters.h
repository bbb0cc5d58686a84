/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* Shared memory between a job and its processes (a sealed memfd of this size); each field has one writer at a time. */
struct files_counters {
        _Atomic uint64_t sent; /* bytes put on the wire */
};
