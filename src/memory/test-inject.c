/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * System calls in other processes. The processes are children that check themselves: what they wait for must come as if
 * nobody had been there, whoever dies at whatever moment.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "memory/address_space.h"
#include "memory/inject.h"
#include "memory/inject_steps.h"
#include "base/test-process.h"

static const struct inject_call make_eventfd = {.number = SYS_eventfd2, .arguments = {7, EFD_CLOEXEC}};

/* -- helpers ----------------------------------------------------------------------------------------------------- */

/* A descriptor out of the child, which must not keep it. */
static void take(pid_t pid)
{
        struct error err = {0};
        uint64_t value = 0, stopped_us = 0;
        int fd = -1;
        size_t before = count_descriptors(pid);

        if (inject_descriptor(pid, &make_eventfd, &fd, &stopped_us, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
        assert_int_equal(value, 7);
        (void)close(fd);
        assert_int_equal(count_descriptors(pid), before);
}

static int refused(pid_t pid, const char *reason)
{
        struct error err = {0};
        int fd = -1;

        int r = inject_descriptor(pid, &make_eventfd, &fd, NULL, &err);
        if (r == 0 || !strstr(err.text, reason))
                fail_msg("%d: %s", r, err.text);
        assert_int_equal(fd, -1);
        return r;
}

/* -- blocked system calls go on ---------------------------------------------------------------------------------- */

static int word; /* for futexes */

static void wait_read(int out)
{
        int ends[2];
        char c = 0;

        if (pipe(ends) < 0 || fork() == 0) {
                (void)usleep(300000);
                say(ends[1], "x");
                _exit(0);
        }
        say(out, "+");
        if (read(ends[0], &c, 1) != 1 || c != 'x')
                _exit(1);
}

static void wait_sleep(int out)
{
        struct timespec t = {.tv_nsec = 300000000};
        const uint64_t begin = clock_us();

        say(out, "+");
        if (nanosleep(&t, NULL) != 0)
                _exit(1);
        _exit(clock_us() - begin >= 300000 ? 0 : 2);
}

static void wait_poll(int out)
{
        int ends[2];

        if (pipe(ends) < 0)
                _exit(9);
        struct pollfd p = {.fd = ends[0], .events = POLLIN};
        say(out, "+");
        if (poll(&p, 1, 300) != 0)
                _exit(1);
}

static void wait_epoll(int out)
{
        struct epoll_event event;
        int fd = epoll_create1(0);

        say(out, "+");
        if (epoll_wait(fd, &event, 1, 300) != 0)
                _exit(1);
}

static void wait_futex(int out)
{
        const struct timespec t = {.tv_nsec = 300000000};

        say(out, "+");
        if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0) != -1 || errno != ETIMEDOUT)
                _exit(1);
}

static void wait_receive(int out)
{
        int ends[2];
        char c;
        const struct timeval t = {.tv_usec = 300000};

        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 ||
            setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) < 0)
                _exit(9);
        say(out, "+");
        if (recv(ends[0], &c, 1, 0) != -1 || errno != EAGAIN)
                _exit(1);
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
        caught = number;
}

/* A signal that was pending, blocked but for the wait, must end it. */
static void wait_suspend(int out)
{
        const struct sigaction action = {.sa_handler = on_signal};
        sigset_t usr1, old;

        (void)sigemptyset(&usr1);
        (void)sigaddset(&usr1, SIGUSR1);
        if (sigaction(SIGUSR1, &action, NULL) < 0 || sigprocmask(SIG_BLOCK, &usr1, &old) < 0)
                _exit(9);
        pid_t parent = getpid();
        if (fork() == 0) {
                (void)usleep(300000);
                (void)kill(parent, SIGUSR1);
                _exit(0);
        }
        say(out, "+");
        if (sigsuspend(&old) != -1 || errno != EINTR || caught != SIGUSR1)
                _exit(1);
        sigset_t now;
        if (sigprocmask(SIG_BLOCK, NULL, &now) < 0 || !sigismember(&now, SIGUSR1))
                _exit(2);
}

static const struct {
        const char *name;
        void (*story)(int out);
} waits[] = {
        {"read", wait_read},   {"nanosleep", wait_sleep}, {"poll", wait_poll},          {"epoll_wait", wait_epoll},
        {"futex", wait_futex}, {"recv", wait_receive},    {"sigsuspend", wait_suspend},
};
#define WAITS (sizeof(waits) / sizeof(waits[0]))

/*
 * One of them whose tracer dies at step `last`; false when it did not get so far (0: never). A wait that is over before
 * it was stopped is begun again.
 */
static bool die_at(size_t wait, int last, struct child *child)
{
        struct error err = {0};
        int fd = -1;

        for (int tries = 0; tries < 20; tries++) {
                start(child, waits[wait].story);
                int r = inject_descriptor_until(child->pid, &make_eventfd, last, &fd, NULL, &err);
                if (r == 0)
                        (void)close(fd);
                if (r == 0 || r == -EINTR)
                        return r == -EINTR;
                if (r != -ESRCH)
                        break;
                (void)end(child);
        }
        fail_msg("%s, step %d: %s", waits[wait].name, last, err.text);
        return false;
}

static void test_waits_go_on(void **state)
{
        struct child children[WAITS];
        int fd;

        (void)state;
        for (size_t i = 0; i < WAITS; i++) {
                assert_false(die_at(i, 0, &children[i]));
                if (inject_descriptor(children[i].pid, &make_eventfd, &fd, NULL, NULL) == 0) /* once more */
                        (void)close(fd);
        }
        for (size_t i = 0; i < WAITS; i++) {
                int status = end(&children[i]);
                if (status != 0)
                        fail_msg("%s ended with %d", waits[i].name, status);
        }
}

/* The same, when the tracer dies at any of its steps. */
static void test_waits_survive(void **state)
{
        int last = 1;

        (void)state;
        for (bool died = true; died; last++) {
                struct child children[WAITS];
                for (size_t i = 0; i < WAITS; i++)
                        died = die_at(i, last, &children[i]);
                for (size_t i = 0; i < WAITS; i++) {
                        int status = end(&children[i]);
                        if (status != 0)
                                fail_msg("%s ended with %d after the tracer died at step %d", waits[i].name, status,
                                         last);
                }
        }
        assert_true(last > 15);
}

/* -- a busy process ---------------------------------------------------------------------------------------------- */

static void test_busy_survives_every_step(void **state)
{
        struct child child;
        int deaths = 0;

        (void)state;
        start_busy(&child);
        for (int round = 0; round < 3; round++) {
                bool died = true;
                for (int last = 1; died; last++) {
                        struct error err = {0};
                        int fd = -1;
                        int r = inject_descriptor_until(child.pid, &make_eventfd, last, &fd, NULL, &err);
                        died = r == -EINTR;
                        if (r < 0 && !died)
                                fail_msg("step %d: %s", last, err.text);
                        if (fd >= 0)
                                (void)close(fd);
                        deaths += died;
                        (void)usleep(1000);
                }
        }
        assert_true(deaths > 3 * 15);
        assert_int_equal(end_busy(&child), 0);
}

/* The caller and its tracer are killed together at any moment. */
static void test_busy_survives_anything(void **state)
{
        struct child child;
        int whole = 0;

        (void)state;
        start_busy(&child);
        for (int i = 0; i < 80; i++) {
                int status;
                pid_t caller = fork();
                assert_true(caller >= 0);
                if (caller == 0) {
                        int fd;
                        (void)setpgid(0, 0);
                        for (;;)
                                if (inject_descriptor(child.pid, &make_eventfd, &fd, NULL, NULL) == 0)
                                        (void)close(fd);
                }
                (void)setpgid(caller, caller);
                (void)usleep((useconds_t)(random() % 15000));
                (void)kill(-caller, SIGKILL);
                assert_int_equal(waitpid(caller, &status, 0), caller);
                struct process_facts facts;
                assert_int_equal(process_facts_read(child.pid, &facts, NULL), 0);
                whole += facts.tracer == 0;
        }
        assert_true(whole > 0);
        take(child.pid);
        assert_int_equal(end_busy(&child), 0);
}

/* -- signals ------------------------------------------------------------------------------------------------------ */

#define SIGNALS 2000

static volatile sig_atomic_t counted;

static void count(int number)
{
        (void)number;
        counted++;
}

static void count_signals(int out)
{
        const struct sigaction action = {.sa_handler = count};

        if (sigaction(SIGRTMIN, &action, NULL) < 0)
                _exit(9);
        say(out, "+");
        for (int i = 0; i < 20000 && counted < SIGNALS; i++)
                (void)poll(NULL, 0, 1);
        _exit(counted == SIGNALS ? 0 : 1);
}

static void test_no_signal_is_lost(void **state)
{
        struct child child;
        struct error err = {0};
        int fd, taken = 0;

        (void)state;
        start(&child, count_signals);
        pid_t sender = fork();
        if (sender == 0) {
                for (int i = 0; i < SIGNALS; i++) {
                        while (sigqueue(child.pid, SIGRTMIN, (union sigval){.sival_int = i}) < 0)
                                (void)usleep(1000);
                        (void)usleep(50);
                }
                _exit(0);
        }
        int status;
        while (waitpid(sender, &status, WNOHANG) == 0) {
                int r = inject_descriptor(child.pid, &make_eventfd, &fd, NULL, &err);
                if (r < 0 && r != -ESRCH)
                        fail_msg("%s", err.text);
                if (r == 0) {
                        (void)close(fd);
                        taken++;
                }
        }
        assert_true(taken > 0);
        assert_int_equal(end(&child), 0);
}

/* Stopped and continued by others all the time, before, within and after it: it stops, and at the end it runs. */
static void test_stops_are_respected(void **state)
{
        struct child child;
        int fd, done = 0, refusals = 0;

        (void)state;
        start_busy(&child);
        for (int i = 0; i < 500 && (done < 6 || refusals < 6); i++) {
                pid_t other = fork();
                if (other == 0) {
                        (void)usleep((useconds_t)(random() % (2000 + 200 * i)));
                        (void)kill(child.pid, SIGSTOP);
                        _exit(0);
                }
                if (inject_descriptor(child.pid, &make_eventfd, &fd, NULL, NULL) == 0) {
                        (void)close(fd);
                        done++;
                } else {
                        refusals++;
                }
                int status;
                assert_int_equal(waitpid(other, NULL, 0), other);
                assert_int_equal(waitpid(child.pid, &status, WUNTRACED), child.pid);
                assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
                assert_int_equal(refused(child.pid, "was stopped by a signal"), -EOPNOTSUPP);
                (void)kill(child.pid, SIGCONT);
        }
        assert_true(done > 0 && refusals > 0);
        take(child.pid);
        assert_int_equal(end_busy(&child), 0);
}

/* -- who is refused, and who is not ------------------------------------------------------------------------------ */

static void pause_only(int out)
{
        say(out, "+");
        (void)pause();
}

static void test_refusals(void **state)
{
        struct child child;
        int status;

        (void)state;
        assert_int_equal(refused(getpid(), "cannot trace itself"), -EOPNOTSUPP);
        start(&child, pause_only);
        assert_int_equal(ptrace(PTRACE_SEIZE, child.pid, 0, 0), 0);
        assert_int_equal(refused(child.pid, "is traced by"), -EOPNOTSUPP);
        kill_child(&child);

        start(&child, pause_only);
        (void)kill(child.pid, SIGKILL);
        siginfo_t info;
        assert_int_equal(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT), 0);
        assert_int_equal(refused(child.pid, "is dead"), -ESRCH);
        assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
        (void)close(child.out);
        assert_int_equal(refused(child.pid, "is gone"), -ESRCH);
}

/* A filter that kills for the call, no privilege ever, and nobody. */
static void confined(int out)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_eventfd2, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        const struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                _exit(9);
        say(out, "+");
        char c;
        (void)poll(NULL, 0, 2000);
        (void)syscall(SYS_eventfd2, 0, 0); /* the filter is in force afterwards */
        (void)read(out, &c, 1);
}

static void test_confined(void **state)
{
        struct child child;

        (void)state;
        start(&child, confined);
        take(child.pid);
        take(child.pid);
        assert_int_equal(end(&child), -1);
}

/* Somebody who dies just now is gone, whatever we were at. */
static void test_vanishing(void **state)
{
        (void)state;
        for (int i = 0; i < 30; i++) {
                struct child child;
                struct error err = {0};
                int fd = -1;
                start(&child, pause_only);
                pid_t other = fork();
                if (other == 0) {
                        (void)usleep((useconds_t)(random() % 10000));
                        (void)kill(child.pid, SIGKILL);
                        _exit(0);
                }
                int r = 0;
                while (r == 0) {
                        r = inject_descriptor(child.pid, &make_eventfd, &fd, NULL, &err);
                        if (r == 0)
                                (void)close(fd);
                }
                if (r != -ESRCH)
                        fail_msg("%d: %s", r, err.text);
                assert_int_equal(waitpid(other, NULL, 0), other);
                assert_int_equal(end(&child), -1);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_waits_go_on),
                cmocka_unit_test(test_waits_survive),
                cmocka_unit_test(test_busy_survives_every_step),
                cmocka_unit_test(test_busy_survives_anything),
                cmocka_unit_test(test_no_signal_is_lost),
                cmocka_unit_test(test_stops_are_respected),
                cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_confined),
                cmocka_unit_test(test_vanishing),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
