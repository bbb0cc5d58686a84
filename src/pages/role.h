/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * A part that one thread plays at a time, in memory that several processes share: taken by whoever finds it free, and
 * free again when he gives it up or dies, of whatever. It is a robust futex (Documentation/locking/robust-futex-ABI.rst
 * of Linux): the kernel frees it in the moment of the death, before anybody can see a zombie, and no descriptor is
 * needed, of which the processes have one table. Nobody sleeps on it.
 *
 * A thread that takes one can use no robust mutexes of the C library any more. Zeros are a free one.
 */
struct role {
        struct robust_list node; /* the holder's */
        uint32_t holder;         /* his thread id; 0 but for flags: free */
        uint32_t zero;
};

static inline bool role_is_free(const struct role *role)
{
        return (__atomic_load_n(&role->holder, __ATOMIC_ACQUIRE) & FUTEX_TID_MASK) == 0;
}

/* False: another plays it. */
bool role_take(struct role *role);
/* One's own. */
void role_leave(struct role *role);
