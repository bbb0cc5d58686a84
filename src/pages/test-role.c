/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A role is one's alone until he leaves it or dies, in whatever moment. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "pages/role.h"

#define CHILDREN 4
#define ROUNDS 200

static struct shared {
        struct role roles[3];
        pid_t inside;
        uint32_t times;
} * shared;

static int setup(void **state)
{
        (void)state;
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return shared == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
        (void)state;
        return munmap(shared, sizeof(*shared));
}

static void reap(pid_t pid)
{
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void test_taken_and_left(void **state)
{
        (void)state;
        for (size_t i = 0; i < 3; i++)
                assert_true(role_is_free(&shared->roles[i]) && role_take(&shared->roles[i]));
        assert_false(role_take(&shared->roles[1]));
        role_leave(&shared->roles[1]);
        assert_true(role_is_free(&shared->roles[1]));
        assert_false(role_is_free(&shared->roles[0]) || role_is_free(&shared->roles[2]));
        role_leave(&shared->roles[0]);
        role_leave(&shared->roles[2]);
        assert_true(role_take(&shared->roles[1]));
        role_leave(&shared->roles[1]);
}

static pid_t holder(void)
{
        int ready[2];
        char byte;

        assert_int_equal(pipe(ready), 0);
        const pid_t pid = fork();
        if (pid == 0) {
                for (size_t i = 0; i < 3; i++)
                        if (!role_take(&shared->roles[i]))
                                _exit(1);
                role_leave(&shared->roles[1]);
                (void)!write(ready[1], "+", 1);
                for (;;)
                        (void)pause();
        }
        assert_int_equal(read(ready[0], &byte, 1), 1);
        (void)close(ready[0]);
        (void)close(ready[1]);
        return pid;
}

static void test_freed_by_death(void **state)
{
        (void)state;
        assert_true(role_take(&shared->roles[0])); /* a child has none of its parent's */
        role_leave(&shared->roles[0]);
        const pid_t pid = holder();
        assert_false(role_is_free(&shared->roles[0]) || role_is_free(&shared->roles[2]));
        assert_true(role_is_free(&shared->roles[1]));
        assert_false(role_take(&shared->roles[0]));
        assert_int_equal(kill(pid, SIGKILL), 0);
        /* Nobody has waited for it: a zombie holds nothing. */
        for (unsigned tries = 0; tries < 5000 && !role_is_free(&shared->roles[2]); tries++)
                (void)usleep(1000);
        for (size_t i = 0; i < 3; i++)
                assert_true(role_take(&shared->roles[i]));
        reap(pid);
        for (size_t i = 0; i < 3; i++)
                role_leave(&shared->roles[i]);
}

/* Alone in it, or it ends with 1. */
static _Noreturn void compete(void)
{
        const pid_t self = getpid();

        for (;;) {
                while (!role_take(&shared->roles[0]))
                        (void)sched_yield();
                for (unsigned i = 0; i < 100; i++) {
                        __atomic_store_n(&shared->inside, self, __ATOMIC_SEQ_CST);
                        if (i % 50 == 0)
                                (void)sched_yield();
                        if (__atomic_load_n(&shared->inside, __ATOMIC_SEQ_CST) != self)
                                _exit(1);
                }
                shared->times++;
                role_leave(&shared->roles[0]);
        }
}

static pid_t start(void)
{
        const pid_t pid = fork();

        if (pid == 0)
                compete();
        assert_true(pid > 0);
        return pid;
}

static void test_never_two_whoever_is_killed(void **state)
{
        pid_t pids[CHILDREN];
        int status;

        (void)state;
        for (size_t i = 0; i < CHILDREN; i++)
                pids[i] = start();
        for (unsigned i = 0; i < ROUNDS; i++) {
                const pid_t pid = pids[i % CHILDREN];
                (void)usleep(1000);
                assert_int_equal(kill(pid, SIGSTOP), 0);
                (void)waitpid(pid, &status, WUNTRACED);
                assert_true(WIFSTOPPED(status));
                assert_int_equal(kill(pid, SIGKILL), 0);
                reap(pid);
                pids[i % CHILDREN] = start();
        }
        for (size_t i = 0; i < CHILDREN; i++) {
                (void)kill(pids[i], SIGKILL);
                assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
                assert_true(WIFSIGNALED(status));
        }
        assert_true(shared->times > ROUNDS);
        assert_true(role_take(&shared->roles[0]));
        role_leave(&shared->roles[0]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_taken_and_left, setup, teardown),
                cmocka_unit_test_setup_teardown(test_freed_by_death, setup, teardown),
                cmocka_unit_test_setup_teardown(test_never_two_whoever_is_killed, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
