/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

/*
 * The session's end of the talk with phaul-hold (hold.c): a socket at which the hold program says who is held and hears
 * whether it may go. Nothing depends on it but speed: the hold program obeys the record. One thread.
 */
struct held;

struct held_handlers {
        /* Whether `pid`, named by whoever connected, is a task of the workload: it is what signals will be sent to. */
        bool (*belongs)(pid_t pid, void *context);
        /* Told once; `hold_pid` is the hold program, a child of CRIU. */
        void (*held)(pid_t pid, pid_t hold_pid, void *context);
};

/* `handlers` is borrowed. A stale socket at `path` is replaced. */
int held_new(struct loop *loop, const char *path, const struct held_handlers *handlers, void *context,
             struct held **ret, struct error *err);

/* Without a connection the hold program finds the answer in the record, or has found it: this does nothing. */
int held_answer(struct held *held, bool ok);

/* Lets nothing go and refuses nothing. */
void held_free(struct held *held);
DEFINE_CLEANUP(struct held, held_free)
