/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * family [--children N] [--threads N] [--mib N] [--pause MS] [--status FILE] [--seconds N]
 *
 * A process tree that checks its own memory: N children with N threads each, every thread with N MiB of its own whose
 * content follows from place and generation and is checked before it is rewritten. Each thread counts its sweeps in
 * memory shared with the root, which sees to it that all of them go on, that its children live and that all pids,
 * groups and parents are what they were at the beginning. One status line per half second; exit 1 at the first thing
 * wrong.
 */
#include "common.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { MEMBERS_MAX = 1024, WORDS_PER_MIB = (1 << 20) / 8 };

struct member {
        volatile uint64_t sweeps;
        volatile int wrong;
        pid_t pid, tid;
};

struct family {
        struct member members[MEMBERS_MAX];
        pid_t root;
};

struct worker {
        struct family *family;
        size_t number, words;
        long pause_us; /* between two sweeps */
};

static uint64_t word(size_t number, uint64_t generation, size_t i)
{
        return (number + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ generation * UINT64_C(0xC2B2AE3D27D4EB4F) ^
               i * UINT64_C(0x165667B19E3779F9);
}

static void *work(void *context)
{
        const struct worker *w = context;
        struct member *me = &w->family->members[w->number];
        uint64_t *memory = malloc(w->words * sizeof(*memory));

        if (!memory)
                die("no memory");
        me->pid = getpid();
        me->tid = (pid_t)syscall(SYS_gettid);
        for (size_t i = 0; i < w->words; i++)
                memory[i] = word(w->number, 0, i);
        for (uint64_t generation = 1; !asked_to_stop; generation++) {
                for (size_t i = 0; i < w->words; i++) {
                        if (memory[i] != word(w->number, generation - 1, i))
                                me->wrong = 1;
                        memory[i] = word(w->number, generation, i);
                }
                if (getpid() != me->pid || syscall(SYS_gettid) != me->tid)
                        me->wrong = 2;
                me->sweeps++;
                sleep_us(w->pause_us);
        }
        return NULL;
}

static void raise_child(struct family *family, size_t first, size_t threads, size_t words, long pause_us)
{
        pthread_t ids[MEMBERS_MAX];
        struct worker workers[MEMBERS_MAX];
        pid_t parent = getppid();

        for (size_t i = 0; i < threads; i++) {
                workers[i] =
                        (struct worker){.family = family, .number = first + i, .words = words, .pause_us = pause_us};
                if (i > 0 && pthread_create(&ids[i], NULL, work, &workers[i]) != 0)
                        die("no thread");
        }
        (void)work(&workers[0]);
        for (size_t i = 1; i < threads; i++)
                (void)pthread_join(ids[i], NULL);
        _exit(getppid() == parent ? 0 : 1);
}

/* Each child alive, each thread without a fault and further than before. Counts those that did not get on. */
static size_t look(struct family *family, uint64_t *seen, size_t count, int status, bool *ret_wrong)
{
        size_t stuck = 0;
        int ended;
        pid_t dead = waitpid(-1, &ended, WNOHANG);

        if (dead > 0) {
                put_line(status, "error: child %d ended with %#x", (int)dead, (unsigned)ended);
                *ret_wrong = true;
        }
        for (size_t i = 0; i < count; i++) {
                const struct member *m = &family->members[i];
                if (m->wrong) {
                        put_line(status, "error: member %zu found fault %d", i, m->wrong);
                        *ret_wrong = true;
                }
                stuck += m->sweeps == seen[i];
                seen[i] = m->sweeps;
        }
        return stuck;
}

int main(int argc, char **argv)
{
        size_t children = (size_t)number_option(argc, argv, "children", 2);
        size_t threads = (size_t)number_option(argc, argv, "threads", 2), count = children * threads;
        size_t words = (size_t)(number_option(argc, argv, "mib", 4) * WORDS_PER_MIB);
        double seconds = number_option(argc, argv, "seconds", 1e9);
        long pause_us = (long)(number_option(argc, argv, "pause", 20) * 1000);
        int status = open_status(argc, argv);
        uint64_t seen[MEMBERS_MAX] = {0};
        bool wrong = false;

        if (children == 0 || threads == 0 || count > MEMBERS_MAX || words == 0)
                die("1 to %d members, and memory for them", MEMBERS_MAX);
        struct family *family = mmap(NULL, sizeof(*family), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (family == MAP_FAILED)
                die("no shared memory");
        family->root = getpid();
        stop_on_signals();
        for (size_t i = 0; i < children; i++) {
                pid_t pid = fork();
                if (pid < 0)
                        die("no child");
                if (pid == 0)
                        raise_child(family, i * threads, threads, words, pause_us);
        }

        pid_t group = getpgrp(), session = getsid(0);
        put_line(status, "ready: root %d, %zu children, %zu threads", (int)getpid(), children, count);
        for (double start = monotonic_s(); !asked_to_stop && !wrong && monotonic_s() - start < seconds;) {
                sleep_us(500000);
                size_t stuck = look(family, seen, count, status, &wrong);
                if (getpid() != family->root || getpgrp() != group ||
                    (session == getpid() && getsid(0) != session)) /* a shell's session is not ours to keep */ {
                        put_line(status, "error: root is another");
                        wrong = true;
                }
                put_line(status, "%ld ms: %zu of %zu got on, %lu sweeps, %s", (long)(realtime_ns() / 1000000),
                         count - stuck, count, (unsigned long)seen[0], wrong ? "wrong" : "0 errors");
        }
        for (size_t i = 0; i < children && !wrong; i++) {
                (void)kill(family->members[i * threads].pid, SIGTERM);
                int ended = 0;
                if (waitpid(-1, &ended, 0) < 0 || ended != 0)
                        wrong = true;
        }
        put_line(status, "end: %s", wrong ? "wrong" : "0 errors");
        return wrong ? 1 : 0;
}
