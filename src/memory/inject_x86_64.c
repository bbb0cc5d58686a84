/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/inject_arch.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

/*
 * The frame is the one of arch/x86/kernel/signal_64.c (struct rt_sigframe): the address to return to, then a ucontext;
 * the extended state is laid out by arch/x86/kernel/fpu/signal.c: XSAVE's standard form with the numbers of struct
 * _fpx_sw_bytes (uapi/asm/sigcontext.h) in its bytes 464 to 511 and a second magic number behind it. What is missing
 * there, or wrong, silently resets the vector registers; so all of it is made from what ptrace gives.
 */
#define RED_ZONE 128 /* System V ABI, 3.2.2 */
#define USER_CS 0x33
#define USER_DS 0x2b

#define UC_FLAGS 7 /* UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
/* An impossible mode: the kernel refuses it and leaves the thread's alternate stack, which we do not know, alone. */
#define STACK_FLAGS_UNCHANGED 0x1000

#define XSAVE_SOFTWARE 464
#define XSAVE_HEADER 512
#define XSAVE_MINIMUM 576
#define XSAVE_MAGIC1 0x46505853U
#define XSAVE_MAGIC2 0x46505845U
#define XSAVE_LEGACY UINT64_C(3) /* x87 and SSE, which signal frames always have */
#define XSAVE_FEATURES 63

/* include/linux/errno.h: results of a system call that the kernel does not show to programs */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

/* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4: struct ptrace_sud_config */
#define GET_DISPATCH 0x4211
struct dispatch {
        uint64_t mode, selector, offset, length;
};

struct software_bytes {
        uint32_t magic1, extended_size;
        uint64_t features;
        uint32_t size, padding[7];
};

struct signal_frame {
        uint64_t heal;
        ucontext_t context; /* the kernel knows its beginning, as far as the signal mask */
};

_Static_assert(sizeof(struct software_bytes) == XSAVE_HEADER - XSAVE_SOFTWARE, "the kernel's struct _fpx_sw_bytes");
_Static_assert(offsetof(ucontext_t, uc_mcontext) == 40 && offsetof(ucontext_t, uc_sigmask) == 40 + 256,
               "the kernel's struct ucontext");

/* -- where ----------------------------------------------------------------------------------------------------- */

int inject_arch_supported(struct error *err)
{
        (void)err;
        return 0;
}

bool inject_arch_look(const uint8_t *code, size_t size, uint64_t address, struct inject_places *places)
{
        static const uint8_t call[] = {0x0f, 0x05, 0xc3};                                          /* syscall; ret */
        static const uint8_t heal64[] = {0x48, 0xc7, 0xc0, SYS_rt_sigreturn, 0, 0, 0, 0x0f, 0x05}; /* mov, syscall */
        static const uint8_t heal32[] = {0xb8, SYS_rt_sigreturn, 0, 0, 0, 0x0f, 0x05};

        if (!places->call) {
                const uint8_t *found = memmem(code, size, call, sizeof(call));
                if (found)
                        places->call = address + (uint64_t)(found - code);
        }
        if (!places->heal) {
                const uint8_t *found = memmem(code, size, heal64, sizeof(heal64));
                if (!found)
                        found = memmem(code, size, heal32, sizeof(heal32));
                if (found)
                        places->heal = address + (uint64_t)(found - code);
        }
        return places->call && places->heal;
}

/* -- what the thread was ----------------------------------------------------------------------------------------- */

static uint64_t features_of(const struct inject_state *state)
{
        uint64_t features;

        memcpy(&features, state->extended + XSAVE_HEADER, sizeof(features));
        return features | XSAVE_LEGACY;
}

/* Bytes of XSAVE's standard form that hold the features in use. */
static size_t extended_used(uint64_t features)
{
        size_t size = XSAVE_MINIMUM;

        for (unsigned i = 2; i < XSAVE_FEATURES; i++) {
                unsigned length = 0, offset = 0, c, d;
                if (features >> i & 1 && __get_cpuid_count(0xd, i, &length, &offset, &c, &d) &&
                    (size_t)offset + length > size)
                        size = (size_t)offset + length;
        }
        return size;
}

int inject_arch_save(pid_t tid, struct inject_state *state, struct error *err)
{
        struct dispatch dispatch = {0};
        struct iovec registers = {&state->registers, sizeof(state->registers)},
                     extended = {state->extended, sizeof(state->extended)};

        if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &registers) < 0)
                return error_errno(err, errno, "cannot read the registers of process %d", (int)tid);
        if (registers.iov_len != sizeof(state->registers) || state->registers.cs != USER_CS)
                return error_set(err, EOPNOTSUPP, "process %d is not one of 64 bit", (int)tid);
        if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &extended) < 0) {
                int code = errno == ESRCH ? ESRCH : EOPNOTSUPP;
                return error_set(err, code, "cannot read the vector registers of process %d", (int)tid);
        }
        state->extended_size = extended.iov_len;
        if (extended.iov_len < XSAVE_MINIMUM || extended_used(features_of(state)) + sizeof(uint32_t) > EXTENDED_MAX)
                return error_set(err, EOPNOTSUPP,
                                 "the vector registers of process %d have %zu bytes, which is unheard of", (int)tid,
                                 extended.iov_len);
        if (ptrace((enum __ptrace_request)GET_DISPATCH, tid, sizeof(dispatch), &dispatch) == 0 && dispatch.mode != 0)
                return error_set(err, EOPNOTSUPP, "process %d has its system calls dispatched to itself", (int)tid);
        if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(state->blocked), &state->blocked) < 0)
                return error_errno(err, errno, "cannot read the blocked signals of process %d", (int)tid);
        return 0;
}

uint64_t inject_arch_instruction(const struct inject_state *state)
{
        return state->registers.rip;
}

uint64_t inject_arch_stack(const struct inject_state *state)
{
        return state->registers.rsp;
}

size_t inject_arch_red_zone(void)
{
        return RED_ZONE;
}

/* -- the frame --------------------------------------------------------------------------------------------------- */

#define EXTENDED_OFFSET ((sizeof(struct signal_frame) + 63) & ~(size_t)63)

/* Whatever is used of it, the kernel may touch as much as the thread's largest state. */
size_t inject_arch_frame_size(const struct inject_state *state)
{
        return EXTENDED_OFFSET + state->extended_size + 64;
}

static bool in_call(const struct user_regs_struct *r)
{
        return (int64_t)r->orig_rax >= 0;
}

/* As the thread must go on when nobody helps it: the kernel does not restart anything after rt_sigreturn. */
static void restart_by_itself(struct user_regs_struct *r)
{
        if (!in_call(r))
                return;
        switch (-(int64_t)r->rax) {
        case ERESTARTSYS:
        case ERESTARTNOINTR:
        case ERESTARTNOHAND:
        case ERESTART_RESTARTBLOCK: /* what is left of the time-out is lost with rt_sigreturn */
                r->rax = r->orig_rax;
                r->rip -= 2;
                break;
        default:
                break;
        }
}

/* Waits that end with EINTR for our stop although nothing happened: they have taken nothing, and can begin anew. */
static bool ends_for_nothing(const struct user_regs_struct *r)
{
        if (!in_call(r) || (int64_t)r->rax != -EINTR)
                return false;
        switch (r->orig_rax) {
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
        case SYS_epoll_pwait2:
        case SYS_semop:
        case SYS_semtimedop:
        case SYS_rt_sigtimedwait:
        case SYS_read:
        case SYS_recvfrom:
        case SYS_recvmsg:
        case SYS_recvmmsg:
        case SYS_accept:
        case SYS_accept4:
                return true;
        default:
                return false;
        }
}

/* The kernel then decides as for any wait: with a handler to run it is EINTR, without one it goes on. */
static struct user_regs_struct registers_of(const struct inject_state *state)
{
        struct user_regs_struct r = state->registers;

        if (ends_for_nothing(&r))
                r.rax = (unsigned long long)-ERESTARTNOHAND;
        return r;
}

void inject_arch_frame(const struct inject_state *state, const struct inject_places *places, uint64_t address,
                       uint8_t *frame)
{
        struct user_regs_struct r = registers_of(state);
        uint64_t features = features_of(state);
        size_t used = extended_used(features);
        const uint32_t magic2 = XSAVE_MAGIC2;

        restart_by_itself(&r);
        struct signal_frame f = {
                .heal = places->heal,
                .context = {.uc_flags = UC_FLAGS, .uc_stack = {.ss_flags = STACK_FLAGS_UNCHANGED}},
        };
        const struct {
                int index;
                unsigned long long value;
        } general[] = {
                {REG_R8, r.r8},
                {REG_R9, r.r9},
                {REG_R10, r.r10},
                {REG_R11, r.r11},
                {REG_R12, r.r12},
                {REG_R13, r.r13},
                {REG_R14, r.r14},
                {REG_R15, r.r15},
                {REG_RDI, r.rdi},
                {REG_RSI, r.rsi},
                {REG_RBP, r.rbp},
                {REG_RBX, r.rbx},
                {REG_RDX, r.rdx},
                {REG_RAX, r.rax},
                {REG_RCX, r.rcx},
                {REG_RSP, r.rsp},
                {REG_RIP, r.rip},
                {REG_EFL, r.eflags},
                {REG_CSGSFS, USER_CS | (uint64_t)USER_DS << 48},
        };
        for (size_t i = 0; i < sizeof(general) / sizeof(general[0]); i++)
                f.context.uc_mcontext.gregs[general[i].index] = (greg_t)general[i].value;
        memcpy(&f.context.uc_sigmask, &state->blocked, sizeof(state->blocked));
        const uint64_t extended = address + EXTENDED_OFFSET;
        memcpy(&f.context.uc_mcontext.fpregs, &extended, sizeof(extended));
        memcpy(frame, &f, sizeof(f));

        /* No more than what is in use: a size beyond what the thread has asked for (AMX) would be taken for wrong. */
        const struct software_bytes software = {.magic1 = XSAVE_MAGIC1,
                                                .extended_size = (uint32_t)(used + sizeof(magic2)),
                                                .features = features,
                                                .size = (uint32_t)used};
        uint8_t *to = frame + EXTENDED_OFFSET;
        memcpy(to, state->extended, used);
        memcpy(to + XSAVE_SOFTWARE, &software, sizeof(software));
        memcpy(to + XSAVE_HEADER, &features, sizeof(features));
        memcpy(to + used, &magic2, sizeof(magic2));
}

/* -- the call ---------------------------------------------------------------------------------------------------- */

static int set_registers(pid_t tid, struct user_regs_struct *r)
{
        struct iovec registers = {r, sizeof(*r)};

        return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &registers) < 0 ? -errno : 0;
}

int inject_arch_begin(pid_t tid, const struct inject_state *state, const struct inject_places *places, uint64_t frame,
                      const struct inject_call *call)
{
        struct user_regs_struct r = state->registers;

        r.orig_rax = (unsigned long long)-1; /* nothing to restart */
        r.rax = SYS_getpid;
        r.rdi = call->arguments[0];
        r.rsi = call->arguments[1];
        r.rdx = call->arguments[2];
        r.r10 = call->arguments[3];
        r.r8 = call->arguments[4];
        r.r9 = call->arguments[5];
        r.rip = places->call;
        r.rsp = frame; /* its first word is where `ret` goes */
        return set_registers(tid, &r);
}

int inject_arch_become(pid_t tid, const struct inject_call *call)
{
        return ptrace(PTRACE_POKEUSER, tid, offsetof(struct user, regs.orig_rax), call->number) < 0 ? -errno : 0;
}

int inject_arch_result(pid_t tid, int64_t *ret)
{
        struct user_regs_struct r;
        struct iovec registers = {&r, sizeof(r)};

        if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &registers) < 0)
                return -errno;
        *ret = (int64_t)r.rax;
        return 0;
}

int inject_arch_restore(pid_t tid, const struct inject_state *state)
{
        struct user_regs_struct r = registers_of(state);

        return set_registers(tid, &r);
}
