/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/test-process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

/* -- children --------------------------------------------------------------------------------------------------- */

void start(struct child *child, void (*story)(int out))
{
        int ends[2];

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        child->pid = fork();
        assert_true(child->pid >= 0);
        if (child->pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                story(ends[1]);
                _exit(0);
        }
        (void)close(ends[1]);
        child->out = ends[0];
        char sign = 0;
        assert_int_equal(read(child->out, &sign, 1), 1);
        assert_int_equal(sign, '+');
}

/* Its exit status; -1 when a signal killed it. */
int end(struct child *child)
{
        int status;

        (void)close(child->out);
        assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void kill_child(struct child *child)
{
        (void)kill(child->pid, SIGKILL);
        (void)end(child);
}

void say(int out, const char *text)
{
        if (write(out, text, strlen(text)) < 0)
                _exit(99);
}

/* -- a busy process ---------------------------------------------------------------------------------------------- */

#define BUSY_THREADS 3
#define BLOCK 2000

typedef double vector __attribute__((vector_size(32)));

struct result {
        vector vectors[6];
        long double x87;
        uint64_t numbers[6];
};

/* Keeps all kinds of registers busy; the same every time. */
static void compute(struct result *ret)
{
        vector a = {1.1, 2.2, 3.3, 4.4}, b = a * 0.7, c = b + 1.3, d = a - c, e = {0.1, 0.2, 0.3, 0.4}, f = e * 9.0;
        long double x = 1.0L;
        uint64_t p = 1, q = 2, r = 3, s = 5, t = 7, u = 11;

        for (int i = 0; i < BLOCK; i++) {
                a = a * 0.999 + b * 0.002;
                b = b - c * 0.001;
                c = c * 0.99 + d * 0.01;
                d = d + e * 0.003 - a * 0.0001;
                e = e * 1.0001 - f * 0.0001;
                f = f * 0.9999 + a * 0.00001;
                x = x * 1.0000001L + 0.5L / (1.0L + x);
                p = p * 6364136223846793005U + q;
                q = q ^ (r << 7);
                r = r + (s >> 3) + p;
                s = s * 31 + t;
                t = (t << 13) ^ (t >> 7) ^ u;
                u = u + p + (uint64_t)i;
        }
        memset(ret, 0, sizeof(*ret));
        *ret = (struct result){{a, b, c, d, e, f}, x, {p, q, r, s, t, u}};
}

/* Bit by bit, also what is no number. */
static bool same(const void *a, const void *b, size_t size)
{
        return memcmp(a, b, size) == 0;
}

static bool same_result(const struct result *a, const struct result *b)
{
        return same(a->vectors, b->vectors, sizeof(a->vectors)) && same(a->numbers, b->numbers, sizeof(a->numbers)) &&
               a->x87 == b->x87;
}

/* A deep stack whose every byte is looked at again. */
static bool dig(int depth)
{
        volatile unsigned char mark[600];

        for (size_t i = 0; i < sizeof(mark); i++)
                mark[i] = (unsigned char)(depth + (int)i);
        if (depth > 0 && !dig(depth - 1))
                return false;
        for (size_t i = 0; i < sizeof(mark); i++)
                if (mark[i] != (unsigned char)(depth + (int)i))
                        return false;
        return true;
}

static atomic_bool busy_over;

static void *busy_thread(void *unused)
{
        struct result first, now;
        uint64_t rounds = 0;

        (void)unused;
        compute(&first);
        while (!atomic_load(&busy_over)) {
                compute(&now);
                if (!same_result(&first, &now))
                        _exit(11);
                if (!dig((int)(rounds % 60)))
                        _exit(12);
                if (rounds % 3 == 0 && (getppid() < 0 || sched_yield() < 0 || usleep(100) < 0))
                        _exit(13);
                rounds++;
        }
        return NULL;
}

static int busy_ends[2]; /* the end of this pipe ends the story */

static void busy(int out)
{
        pthread_t threads[BUSY_THREADS];
        struct pollfd p = {.fd = busy_ends[0], .events = POLLIN};

        (void)close(busy_ends[1]);

        for (int i = 0; i < BUSY_THREADS; i++)
                if (pthread_create(&threads[i], NULL, busy_thread, NULL) != 0)
                        _exit(9);
        say(out, "+");
        /* The first thread is the one that gets stopped: it does the same as the others in between. */
        for (bool over = false; !over;) {
                int r = poll(&p, 1, 0);
                if (r < 0)
                        _exit(14);
                struct result first, now;
                compute(&first);
                for (int i = 0; i < 20; i++) {
                        compute(&now);
                        if (!same_result(&first, &now))
                                _exit(15);
                        if (!dig(i * 3))
                                _exit(16);
                }
                over = r != 0;
                atomic_store(&busy_over, over);
        }
        for (int i = 0; i < BUSY_THREADS; i++)
                if (pthread_join(threads[i], NULL) != 0)
                        _exit(17);
}

void start_busy(struct child *child)
{
        assert_int_equal(pipe2(busy_ends, O_CLOEXEC), 0);
        start(child, busy);
        (void)close(busy_ends[0]);
}

int end_busy(struct child *child)
{
        (void)close(busy_ends[1]);
        return end(child);
}

size_t count_descriptors(pid_t pid)
{
        char path[64];
        size_t n = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        assert_non_null(dir);
        while (readdir(dir))
                n++;
        return n;
}
