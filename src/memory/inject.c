/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "memory/address_space.h"
#include "memory/inject_arch.h"
#include "memory/inject_steps.h"

#define PAGE 4096U
#define TRACER_STACK (256U * 1024)
#define CODE_CHUNK (1U << 20)
#define CODE_MAX (UINT64_C(1) << 30) /* looked through for the places */

#define STOP_MS 1000    /* nothing stands still while we wait for it: an uninterruptible wait may end */
#define ADVANCE_MS 1000 /* only a machine that is very busy, or somebody who freezes the process, takes that long */
#define STOPS_MAX 1000  /* signals and the like that come in between */
#define RSEQ_TRIES 100

#define STACK_LOOK 64                    /* pages at the far end of the stack */
#define PAGEMAP_USED (UINT64_C(3) << 62) /* present or swapped */

#define SYSCALL_STOP (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */

/*
 * One injection. Made and freed by the caller; the tracer fills it without allocating: it may be killed at any moment,
 * and the heap is shared with the caller.
 */
struct job {
        pid_t pid;
        int pidfd;
        const struct inject_call *call;
        bool suspend_seccomp;
        uint64_t stack_start, stack_end;
        struct inject_places places;
        int last, step;

        bool entered; /* the kernel has, or had, the latest call */
        int result, fd;
        struct error err;
        uint64_t stopped_us;

        int deliver; /* the signal that the thread was about to get where it stands */
        uint64_t frame_address;
        size_t frame_size;
        struct inject_state state;
        uint8_t frame[FRAME_MAX], before[FRAME_MAX];
};

/* -- the tracer -------------------------------------------------------------------------------------------------- */

static void step(struct job *job)
{
        if (++job->step == job->last)
                (void)syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
}

static int gone(struct job *job)
{
        return error_set(&job->err, ESRCH, "process %d is gone", (int)job->pid);
}

static int trouble(struct job *job, int code, const char *what)
{
        return code == ESRCH ? gone(job)
                             : error_errno(&job->err, EOPNOTSUPP, "cannot %s process %d (%s)", what, (int)job->pid,
                                           strerrordesc_np(code) ?: "unknown error");
}

/* The next stop of the thread: its wait status. -ESRCH, -ETIMEDOUT (nothing is written to job->err then). */
static int next_stop(struct job *job, uint64_t deadline_ms)
{
        sigset_t child;

        (void)sigemptyset(&child);
        (void)sigaddset(&child, SIGCHLD);
        for (;;) {
                int status;
                pid_t r = waitpid(job->pid, &status, __WALL | WNOHANG);
                if (r < 0 && errno != EINTR)
                        return -ESRCH;
                if (r == job->pid)
                        return WIFSTOPPED(status) ? status : -ESRCH;
                if (clock_ms() >= deadline_ms)
                        return -ETIMEDOUT;
                const struct timespec moment = {.tv_nsec = 2000000};
                (void)sigtimedwait(&child, NULL, &moment);
        }
}

static bool is_event_stop(int status)
{
        return status >> 16 == PTRACE_EVENT_STOP;
}

static int resume(struct job *job, enum __ptrace_request how, int signal)
{
        return ptrace(how, job->pid, 0, signal) < 0 ? -errno : 0;
}

/* Until it stands in the stop that we asked for; signals that come first are delivered. */
static int interrupt(struct job *job)
{
        const uint64_t deadline = clock_ms() + STOP_MS;

        if (ptrace(PTRACE_INTERRUPT, job->pid, 0, 0) < 0)
                return trouble(job, errno, "interrupt");
        for (int i = 0; i < STOPS_MAX; i++) {
                int status = next_stop(job, deadline);
                if (status == -ESRCH)
                        return gone(job);
                if (status == -ETIMEDOUT)
                        return error_set(&job->err, EOPNOTSUPP,
                                         "process %d does not stop: it is frozen, or in an uninterruptible wait",
                                         (int)job->pid);
                if (is_event_stop(status) && WSTOPSIG(status) == SIGTRAP)
                        return 0;
                if (is_event_stop(status)) {
                        (void)resume(job, PTRACE_DETACH, 0);
                        return error_set(&job->err, EOPNOTSUPP, "process %d was stopped by a signal", (int)job->pid);
                }
                int r = resume(job, PTRACE_CONT, WSTOPSIG(status));
                if (r < 0)
                        return trouble(job, -r, "continue");
        }
        (void)resume(job, PTRACE_DETACH, 0);
        return error_set(&job->err, EOPNOTSUPP, "process %d gets more signals than it can be stopped between",
                         (int)job->pid);
}

static struct iovec range_there(uint64_t address, size_t size)
{
        /* NOLINTNEXTLINE(performance-no-int-to-ptr): an address in another process comes as a number */
        return (struct iovec){(void *)(uintptr_t)address, size};
}

static bool copy_in(const struct job *job, uint64_t address, void *data, size_t size)
{
        const struct iovec here = {data, size}, there = range_there(address, size);

        return process_vm_readv(job->pid, &here, 1, &there, 1, 0) == (ssize_t)size;
}

static bool copy_out(const struct job *job, uint64_t address, void *data, size_t size)
{
        const struct iovec here = {data, size}, there = range_there(address, size);

        return process_vm_writev(job->pid, &here, 1, &there, 1, 0) == (ssize_t)size;
}

/*
 * A restartable sequence (rseq(2)) that is interrupted must not go on where it was, and the kernel, which takes care of
 * that when the thread runs again, would look at our registers then instead of its own.
 */
static bool in_restartable_sequence(const struct job *job)
{
        struct __ptrace_rseq_configuration rseq = {0};
        struct {
                uint32_t version, flags;
                uint64_t start, length, abort;
        } sequence;
        uint64_t address = 0;

        if (ptrace((enum __ptrace_request)PTRACE_GET_RSEQ_CONFIGURATION, job->pid, sizeof(rseq), &rseq) < 0 ||
            !rseq.rseq_abi_pointer)
                return false;
        /* struct rseq: its member rseq_cs stands behind two numbers of 32 bit */
        if (!copy_in(job, rseq.rseq_abi_pointer + 8, &address, sizeof(address)) || !address ||
            !copy_in(job, address, &sequence, sizeof(sequence)))
                return false;
        return inject_arch_instruction(&job->state) - sequence.start < sequence.length;
}

/*
 * Stopped, outside of any such sequence, and what it was is known. It is detached after a failure. Some waits (epoll)
 * end with EINTR for a stop: as soon as possible that is turned into going on, because from then on anything may happen
 * to us.
 */
static int stop(struct job *job)
{
        for (int i = 0; i < RSEQ_TRIES; i++) {
                int r = interrupt(job);
                if (r < 0)
                        return r;
                r = inject_arch_save(job->pid, &job->state, &job->err);
                if (r == 0 && !in_restartable_sequence(job) && (r = inject_arch_restore(job->pid, &job->state)) == 0)
                        return 0;
                if (r < 0) {
                        (void)resume(job, PTRACE_DETACH, 0);
                        return r == -ESRCH ? gone(job) : r;
                }
                (void)resume(job, PTRACE_CONT, 0);
        }
        return error_set(&job->err, EOPNOTSUPP, "process %d is always in a restartable sequence", (int)job->pid);
}

/* How many pages at the far end of the stack have never been used. */
static size_t unused_pages(const struct job *job)
{
        uint64_t entries[STACK_LOOK] = {0};
        char path[64];
        size_t n = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)job->pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t look = (size_t)(job->stack_end - job->stack_start) / PAGE;
        look = look < STACK_LOOK ? look : STACK_LOOK;
        if (fd < 0 ||
            pread(fd, entries, look * sizeof(entries[0]), (off_t)(job->stack_start / PAGE * sizeof(entries[0]))) !=
                    (ssize_t)(look * sizeof(entries[0])))
                return 0;
        while (n < look && !(entries[n] & PAGEMAP_USED))
                n++;
        return n;
}

/*
 * Where the frame can be without harming anybody who runs meanwhile. Always the stack of the first thread, which is the
 * one that stands still: at its far end, where nobody has ever been; else right below what is in use. A thread that
 * executes elsewhere (goroutines, coroutines) may have something else there.
 */
static int place_frame(struct job *job)
{
        const uint64_t top = inject_arch_stack(&job->state);
        const uint64_t unused = unused_pages(job) * PAGE;
        uint64_t end = 0;

        job->frame_size = inject_arch_frame_size(&job->state);
        if (unused >= job->frame_size + PAGE)
                end = job->stack_start + unused;
        else if (top > job->stack_start && top <= job->stack_end)
                end = top - inject_arch_red_zone();
        if (end < job->stack_start + job->frame_size + 64)
                return error_set(&job->err, EOPNOTSUPP, "process %d has no room on its stack", (int)job->pid);
        job->frame_address = (end - job->frame_size) & ~(uint64_t)63;
        return 0;
}

/* The code that is borrowed was looked for while the process ran. */
static bool places_are_there(const struct job *job)
{
        uint8_t code[PLACE_BYTES_MAX];
        struct inject_places found = {0};

        if (copy_in(job, job->places.call, code, sizeof(code)))
                (void)inject_arch_look(code, sizeof(code), job->places.call, &found);
        if (copy_in(job, job->places.heal, code, sizeof(code)))
                (void)inject_arch_look(code, sizeof(code), job->places.heal, &found);
        return found.call == job->places.call && found.heal == job->places.heal;
}

static int prepare(struct job *job)
{
        if (!places_are_there(job))
                return error_set(&job->err, EOPNOTSUPP, "process %d has changed its code", (int)job->pid);
        int r = place_frame(job);
        if (r < 0)
                return r;
        inject_arch_frame(&job->state, &job->places, job->frame_address, job->frame);
        step(job);
        if (!copy_in(job, job->frame_address, job->before, job->frame_size) ||
            !copy_out(job, job->frame_address, job->frame, job->frame_size))
                return error_set(&job->err, EOPNOTSUPP, "cannot write to the stack of process %d", (int)job->pid);
        step(job);
        return 0;
}

/*
 * To the next entry or exit of a system call. All signals are blocked but SIGSTOP; that one stops the process as it
 * should, and the thread goes on for us nevertheless: when it is let go, it stops.
 */
static int advance(struct job *job)
{
        const uint64_t deadline = clock_ms() + ADVANCE_MS;
        int signal = 0;

        for (int i = 0; i < STOPS_MAX; i++) {
                int r = resume(job, PTRACE_SYSCALL, signal);
                if (r < 0)
                        return trouble(job, -r, "continue");
                int status = next_stop(job, deadline);
                if (status == -ESRCH)
                        return gone(job);
                if (status < 0)
                        return error_set(&job->err, EOPNOTSUPP, "process %d stands still: somebody has frozen it",
                                         (int)job->pid);
                if (WSTOPSIG(status) == SYSCALL_STOP)
                        return 0;
                signal = is_event_stop(status) ? 0 : WSTOPSIG(status);
                if (signal && signal != SIGSTOP)
                        return error_set(&job->err, EOPNOTSUPP, "signal %d came for process %d in a system call",
                                         signal, (int)job->pid);
        }
        return error_set(&job->err, EOPNOTSUPP, "process %d is stopped again and again", (int)job->pid);
}

/* The registers are those of inject_arch_begin(). */
static int run(struct job *job, const struct inject_call *call, int64_t *ret)
{
        job->entered = false;
        int r = advance(job);

        step(job);
        if (r == 0 && (r = inject_arch_become(job->pid, call)) < 0)
                r = trouble(job, -r, "change the system call of");
        step(job);
        job->entered = r == 0;
        if (r == 0)
                r = advance(job);
        step(job);
        if (r == 0 && (r = inject_arch_result(job->pid, ret)) < 0)
                r = trouble(job, -r, "read the registers of");
        return r;
}

static int begin(struct job *job, const struct inject_call *call)
{
        int r = inject_arch_begin(job->pid, &job->state, &job->places, job->frame_address, call);

        step(job);
        return r < 0 ? trouble(job, -r, "set the registers of") : 0;
}

static int try_to_close(struct job *job, int64_t number)
{
        const struct inject_call close_call = {.number = SYS_close, .arguments = {(uint64_t)number}};
        int64_t result;

        int r = begin(job, &close_call);
        return r == 0 ? run(job, &close_call, &result) : r;
}

/*
 * Once more where the first call did not come as far as the kernel. One that did is carried out, whether we see its end
 * or not: a second one could close what another thread has opened meanwhile.
 */
static int close_there(struct job *job, int64_t number)
{
        int r = try_to_close(job, number);

        if (r < 0 && r != -ESRCH && !job->entered) {
                const struct error first = job->err;
                if (try_to_close(job, number) == 0)
                        return 0;
                job->err = first;
        }
        return r;
}

/* The call, its descriptor, and that one closed in the process. */
static int carry_out(struct job *job)
{
        uint64_t all = ~UINT64_C(0);
        int64_t number = 0;

        /* In this order: without us a thread with blocked signals and its own registers would stay like that. */
        int r = begin(job, job->call);
        if (r == 0 && ptrace(PTRACE_SETSIGMASK, job->pid, sizeof(all), &all) < 0)
                r = trouble(job, errno, "block the signals of");
        step(job);
        if (r == 0)
                r = run(job, job->call, &number);
        if (r < 0)
                return r;
        if (number < 0)
                return trouble(job, (int)-number, "run a system call in");

        job->fd = (int)syscall(SYS_pidfd_getfd, job->pidfd, (int)number, 0);
        int code = errno;
        step(job);
        r = close_there(job, number);
        if (job->fd < 0)
                return trouble(job, code, "take the descriptor of");
        return r;
}

/*
 * Everything as it was, in a stop where the kernel will look at signals and at the interrupted system call as if
 * nothing had been; the exit of a system call is no such stop.
 */
static int put_back(struct job *job)
{
        const uint64_t deadline = clock_ms() + ADVANCE_MS;
        int status = -ETIMEDOUT;

        if (ptrace(PTRACE_INTERRUPT, job->pid, 0, 0) < 0)
                return -errno;
        (void)ptrace(PTRACE_CONT, job->pid, 0, 0); /* it may be running: advance() waited in vain */
        for (int i = 0; i < STOPS_MAX; i++) {
                status = next_stop(job, deadline);
                if (status < 0)
                        return status;
                if (WSTOPSIG(status) != SYSCALL_STOP)
                        break;
                (void)ptrace(PTRACE_CONT, job->pid, 0, 0);
        }
        job->deliver = is_event_stop(status) ? 0 : WSTOPSIG(status);
        step(job);
        /* In this order, as above: as long as the registers are ours, the thread comes back by itself. */
        if (ptrace(PTRACE_SETSIGMASK, job->pid, sizeof(job->state.blocked), &job->state.blocked) < 0)
                return -errno;
        step(job);
        int r = inject_arch_restore(job->pid, &job->state);
        step(job);
        if (r == 0)
                (void)copy_out(job, job->frame_address, job->before, job->frame_size);
        return r;
}

static int trace(struct job *job)
{
        const unsigned long options = PTRACE_O_TRACESYSGOOD | (job->suspend_seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);

        if (ptrace(PTRACE_SEIZE, job->pid, 0, options) < 0)
                return trouble(job, errno, job->suspend_seccomp ? "suspend the filter of system calls of" : "trace");
        step(job);
        int r = stop(job);
        if (r < 0)
                return r; /* what is not detached yet is when we end */
        const uint64_t began = clock_us();
        step(job);
        r = prepare(job);
        if (r == 0) {
                r = carry_out(job);
                int back = put_back(job);
                if (back == -ESRCH)
                        r = gone(job);
                else if (back < 0 && r == 0)
                        r = trouble(job, -back, "restore the registers of");
        }
        step(job);
        (void)resume(job, PTRACE_DETACH, job->deliver);
        job->stopped_us = clock_us() - began;
        step(job);
        return r;
}

static int tracer(void *context)
{
        struct job *job = context;
        const struct sigaction plain = {.sa_handler = SIG_DFL};

        /* Blocked as all signals are: stops of the thread are told by it, and it need not be handled. */
        (void)sigaction(SIGCHLD, &plain, NULL);
        job->result = trace(job);
        return 0;
}

/* A tracer that was killed at this address has left the shadow of its frames, which ASan would take for ours. */
#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(const volatile void *memory, size_t size);
#define unpoison __asan_unpoison_memory_region
#else
static void unpoison(const volatile void *memory, size_t size)
{
        (void)memory;
        (void)size;
}
#endif

/* -- the caller --------------------------------------------------------------------------------------------------- */

static int start_tracer(struct job *job)
{
        sigset_t all, old;
        int status;

        void *stack = mmap(NULL, TRACER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED)
                return error_set(&job->err, ENOMEM, "out of memory");
        unpoison(stack, TRACER_STACK);
        /* Our handlers must not run in the child. */
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &old);
        job->result = error_set(&job->err, EINTR, "the tracer of process %d was killed", (int)job->pid);
        /* No signal at its end: nobody but us waits for it. */
        pid_t child = clone(tracer, (char *)stack + TRACER_STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES, job);
        if (child < 0)
                job->result = error_errno(&job->err, errno, "cannot start a tracer");
        while (child > 0 && waitpid(child, &status, __WCLONE) < 0 && errno == EINTR)
                ;
        (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
        (void)munmap(stack, TRACER_STACK);
        if (job->result == 0)
                error_clear(&job->err);
        return job->result;
}

/* Code that belongs to a file or to the kernel, and that the process does not write to. */
static bool is_code(const struct area *a)
{
        return a->readable && a->executable && !a->writable && (area_is_file(a) || a->special);
}

/* In one area; true when nothing is missing any more. The end of a chunk is read again with the next one. */
static bool look_through(const struct job *job, const struct area *a, uint8_t *buffer, struct inject_places *places)
{
        for (uint64_t at = a->start; at < a->end;) {
                size_t size = a->end - at < CODE_CHUNK ? (size_t)(a->end - at) : CODE_CHUNK;
                if (!copy_in(job, at, buffer, size))
                        return false;
                if (inject_arch_look(buffer, size, at, places))
                        return true;
                if (at + size == a->end)
                        break;
                at += size - PLACE_BYTES_MAX;
        }
        return false;
}

static int look_around(struct job *job)
{
        CLEANUP(address_space_done) struct address_space space = {0};
        uint64_t budget = CODE_MAX;

        int r = address_space_read(job->pid, &space, &job->err);
        if (r < 0)
                return r;
        AUTO_FREE uint8_t *buffer = malloc(CODE_CHUNK);
        if (!buffer)
                return error_set(&job->err, ENOMEM, "out of memory");
        bool found = false;
        for (size_t i = 0; i < space.n; i++) {
                const struct area *a = &space.areas[i];
                if (a->stack && a->readable && a->writable) {
                        job->stack_start = a->start;
                        job->stack_end = a->end;
                }
                if (found || !is_code(a) || a->end - a->start > budget)
                        continue;
                budget -= a->end - a->start;
                found = look_through(job, a, buffer, &job->places);
        }
        if (!found)
                return error_set(&job->err, EOPNOTSUPP,
                                 "process %d contains no %s that could be borrowed to run a system call safely",
                                 (int)job->pid,
                                 job->places.call ? "end of a signal handler" : "system call instruction");
        if (!job->stack_end)
                return error_set(&job->err, EOPNOTSUPP, "process %d has no stack that is known as such", (int)job->pid);
        return 0;
}

static int not_opened(struct job *job, int code)
{
        if (code == ESRCH || code == EINVAL || code == ENOENT)
                return gone(job);
        return error_errno(&job->err, code, "cannot open process %d", (int)job->pid);
}

static int refuse(struct job *job)
{
        struct process_facts facts = {0};

        int r = inject_arch_supported(&job->err);
        if (r == 0 && job->pid == getpid())
                r = error_set(&job->err, EOPNOTSUPP, "a process cannot trace itself");
        if (r == 0)
                r = process_facts_read(job->pid, &facts, &job->err);
        if (r < 0)
                return r;
        job->suspend_seccomp = facts.seccomp;
        if (facts.tracer)
                return error_set(&job->err, EOPNOTSUPP, "process %d is traced by process %d", (int)job->pid,
                                 (int)facts.tracer);
        if (facts.shadow_stack)
                return error_set(&job->err, EOPNOTSUPP, "process %d has a shadow stack", (int)job->pid);
        if (facts.state == 'T' || facts.state == 't')
                return error_set(&job->err, EOPNOTSUPP, "process %d was stopped by a signal", (int)job->pid);
        return 0;
}

static void job_free(struct job *job)
{
        if (job->pidfd >= 0)
                (void)close(job->pidfd);
        if (job->fd >= 0)
                (void)close(job->fd);
        free(job);
}
DEFINE_CLEANUP(struct job, job_free)

int inject_descriptor_until(pid_t pid, const struct inject_call *call, int last, int *ret_fd, uint64_t *ret_stopped_us,
                            struct error *err)
{
        /* With alignment: the extended state is kept as the processor wants it. */
        CLEANUP(job_free_ptr) struct job *job = aligned_alloc(64, (sizeof(struct job) + 63) & ~(size_t)63);

        if (!job)
                return error_set(err, ENOMEM, "out of memory");
        memset(job, 0, sizeof(*job));
        job->pid = pid;
        job->call = call;
        job->last = last;
        job->fd = -1;
        job->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        int r = job->pidfd < 0 ? not_opened(job, errno) : refuse(job);
        if (r == 0)
                r = look_around(job);
        if (r == 0)
                r = start_tracer(job);
        /* Somebody who dies meanwhile lets almost anything fail. */
        if (r < 0 && r != -ESRCH && !process_has_memory(pid))
                r = gone(job);
        if (r < 0) {
                if (err)
                        *err = job->err;
                return r;
        }
        *ret_fd = TAKE_FD(job->fd);
        if (ret_stopped_us)
                *ret_stopped_us = job->stopped_us;
        return 0;
}

int inject_descriptor(pid_t pid, const struct inject_call *call, int *ret_fd, uint64_t *ret_stopped_us,
                      struct error *err)
{
        return inject_descriptor_until(pid, call, 0, ret_fd, ret_stopped_us, err);
}
