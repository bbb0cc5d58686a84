/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Running a system call in another process: the only way to get a descriptor that belongs to its address space.
 *
 * Its first thread is stopped for that with ptrace, for far less than 5 ms as a rule, the others run on. Nobody
 * notices: no signal is sent or lost, no code is written, a system call that the thread was blocked in goes on. A
 * filter of system calls (seccomp) does not see the call.
 *
 * Whoever dies in the middle, the process must live. Therefore the thread is never left in a state that needs us:
 * before its registers are changed, what they were is put down below its stack as the frame of a signal, and the call
 * is made by an instruction pair `syscall; ret` that the process has anyway, with the end of a signal handler
 * (rt_sigreturn) as the place to return to. With us alive it never gets there. Without us it goes there by itself and
 * is what it was; a sleep that was interrupted begins anew, and a descriptor (close-on-exec) may be left over, as may
 * one that could not be closed because somebody froze the process just then.
 *
 * The work is done by a child of its own (the tracer), which shares memory and descriptors with the caller and survives
 * it; stops of the process never show up in the caller's wait(). One thread; may block for a second if the machine is
 * busy. The caller needs CAP_SYS_PTRACE, and CAP_SYS_ADMIN for processes with a filter of system calls.
 */
struct inject_call {
        long number;
        uint64_t arguments[6]; /* no pointers: there is no memory for what they would point to */
};

/*
 * Run a call that returns a new descriptor, take that over (close-on-exec) and close it in the process.
 * *ret_stopped_us, which may be NULL, is how long the thread stood still.
 *
 * -ESRCH: gone. -EOPNOTSUPP with the reason: not done, and nothing was changed; later it may work (stopped by a signal
 * or debugger, frozen, in an uninterruptible wait) or never (32 bit, no instructions to use, shadow stack, …). What the
 * call itself said is reported as -EOPNOTSUPP, too.
 */
int inject_descriptor(pid_t pid, const struct inject_call *call, int *ret_fd, uint64_t *ret_stopped_us,
                      struct error *err);
