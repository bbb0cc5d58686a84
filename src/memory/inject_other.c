/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/inject_arch.h"

#include <errno.h>

/* A processor for which nobody has written inject_ARCH.c: nothing is ever begun, so nothing else is ever called. */

int inject_arch_supported(struct error *err)
{
        return error_set(err, EOPNOTSUPP, "system calls cannot be run in other processes on this processor");
}

bool inject_arch_look(const uint8_t *code, size_t size, uint64_t address, struct inject_places *places)
{
        (void)code;
        (void)size;
        (void)address;
        (void)places;
        return false;
}

int inject_arch_save(pid_t tid, struct inject_state *state, struct error *err)
{
        (void)tid;
        (void)state;
        return inject_arch_supported(err);
}

uint64_t inject_arch_instruction(const struct inject_state *state)
{
        (void)state;
        return 0;
}

uint64_t inject_arch_stack(const struct inject_state *state)
{
        (void)state;
        return 0;
}

size_t inject_arch_red_zone(void)
{
        return 0;
}

size_t inject_arch_frame_size(const struct inject_state *state)
{
        (void)state;
        return FRAME_MAX;
}

void inject_arch_frame(const struct inject_state *state, const struct inject_places *places, uint64_t address,
                       uint8_t *frame)
{
        (void)state;
        (void)places;
        (void)address;
        (void)frame;
}

int inject_arch_begin(pid_t tid, const struct inject_state *state, const struct inject_places *places, uint64_t frame,
                      const struct inject_call *call)
{
        (void)tid;
        (void)state;
        (void)places;
        (void)frame;
        (void)call;
        return -EOPNOTSUPP;
}

int inject_arch_become(pid_t tid, const struct inject_call *call)
{
        (void)tid;
        (void)call;
        return -EOPNOTSUPP;
}

int inject_arch_result(pid_t tid, int64_t *ret)
{
        (void)tid;
        (void)ret;
        return -EOPNOTSUPP;
}

int inject_arch_restore(pid_t tid, const struct inject_state *state)
{
        (void)tid;
        (void)state;
        return -EOPNOTSUPP;
}
