/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/error.h"
#include "memory/inject.h"

/*
 * What differs between processors. inject_x86_64.c has it; inject_other.c says that there is nothing. Of these
 * functions those that the tracer uses neither allocate nor lock: it may be killed at any moment and shares its memory.
 */

/* Instructions of the process that are borrowed; 0 where none was found yet. */
struct inject_places {
        uint64_t call; /* a system call, then return */
        uint64_t heal; /* the end of a signal handler */
};

#define PLACE_BYTES_MAX 16 /* no pattern is longer */

#define EXTENDED_MAX 16384 /* of the processor's extended state (x86: XSAVE; 11 KiB with AMX) */
#define FRAME_MAX (EXTENDED_MAX + 2048)

/* All that a thread has to get back. */
struct inject_state {
        struct user_regs_struct registers;
        uint64_t blocked; /* signals */
        size_t extended_size;
        _Alignas(64) uint8_t extended[EXTENDED_MAX];
};

/* -EOPNOTSUPP with the reason, or 0. */
int inject_arch_supported(struct error *err);

/* Note places that are found in `size` bytes of code that stand at `address`; true when none is missing any more. */
bool inject_arch_look(const uint8_t *code, size_t size, uint64_t address, struct inject_places *places);

/* -EOPNOTSUPP for a thread that cannot be used: of 32 bit, with system calls dispatched to itself, … */
int inject_arch_save(pid_t tid, struct inject_state *state, struct error *err);

/* Where the thread executes and where its stack ends; the bytes below it that belong to it nevertheless. */
uint64_t inject_arch_instruction(const struct inject_state *state);
uint64_t inject_arch_stack(const struct inject_state *state);
size_t inject_arch_red_zone(void);

/*
 * The frame that makes the thread what it was, made for `address` (a multiple of 64): its size, at most FRAME_MAX.
 * FRAME_MAX zeroed bytes at `frame`. inject_arch_frame_size() says it beforehand.
 */
size_t inject_arch_frame_size(const struct inject_state *state);
void inject_arch_frame(const struct inject_state *state, const struct inject_places *places, uint64_t address,
                       uint8_t *frame);

/*
 * Let the thread begin a system call, with the frame at `frame`. It begins as a harmless one that every filter allows:
 * should we die before the filter is out of the way, nothing is killed. inject_arch_become() makes it the right one
 * while the thread stands at its entry. Negative errno of ptrace.
 */
int inject_arch_begin(pid_t tid, const struct inject_state *state, const struct inject_places *places, uint64_t frame,
                      const struct inject_call *call);
int inject_arch_become(pid_t tid, const struct inject_call *call);
int inject_arch_result(pid_t tid, int64_t *ret);

/*
 * All registers as they were. Where the kernel had ended a wait because of our stop, it goes on with it; the time-out
 * of some begins anew.
 */
int inject_arch_restore(pid_t tid, const struct inject_state *state);
