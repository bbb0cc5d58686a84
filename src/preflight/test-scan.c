/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The whole scan, of processes of this machine: what is found, what is not, and how long it takes. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "preflight/preflight.h"

struct heard {
        enum grade worst;
        char text[8192];
};

static void hear(const char *item, enum grade grade, const char *reason, void *context)
{
        struct heard *h = context;

        h->worst = grade > h->worst ? grade : h->worst;
        if (grade != GRADE_OK || strcmp(item, "tasks") == 0)
                (void)snprintf(h->text + strlen(h->text), sizeof(h->text) - strlen(h->text), "%s: %s\n", item, reason);
}

/* A child that holds a large deleted file is seen, with a name that is escaped. */
static void a_real_process_is_looked_at(void **state)
{
        char path[] = "/tmp/phaul-preflight-XXXXXX", block[65536] = {1};
        struct heard h = {0};
        struct error err = {0};
        int ready[2];

        (void)state;
        assert_int_equal(pipe(ready), 0);
        pid_t pid = fork();
        if (pid == 0) {
                int fd = mkstemp(path);
                for (int i = 0; i < 32; i++)
                        (void)!write(fd, block, sizeof(block));
                (void)unlink(path);
                (void)!write(ready[1], "x", 1);
                for (;;)
                        (void)pause();
        }
        assert_int_equal(read(ready[0], block, 1), 1);
        const struct preflight_subject subject = {.init = pid, .criu = "4.2.1"};
        int r = preflight_scan(&subject, 20000, hear, &h, &err);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        (void)close(ready[0]);
        (void)close(ready[1]);
        assert_int_equal(r, 0);
        assert_true(h.worst >= GRADE_ERROR); /* and the pipe that it shares with us */
        assert_non_null(strstr(h.text, "deleted: process"));
        assert_non_null(strstr(h.text, "tasks: 1 processes"));
}

/* Two children with everything in common: seen from either, the other one is outside. */
static void what_two_processes_share_is_found(void **state)
{
        static const char *const items[] = {"pipes: ", "unix: ", "ipc: ", "writers: "};
        char path[] = "/tmp/phaul-preflight-XXXXXX";
        struct heard h = {0};
        struct error err = {0};
        int ends[2], pair[2], gate[2];
        pid_t pids[2];

        (void)state;
        assert_int_equal(pipe(gate), 0);
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        int file = mkstemp(path);
        void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(memory, MAP_FAILED);
        for (int i = 0; i < 2; i++) {
                pids[i] = fork();
                if (pids[i] == 0) {
                        (void)close(pair[i]);
                        (void)close(gate[0]);
                        (void)close(gate[1]);
                        for (;;)
                                (void)pause();
                }
        }
        (void)close(pair[0]);
        (void)close(pair[1]);
        (void)munmap(memory, 4096);
        /* Its end: both have closed what they do not share. */
        char none;
        (void)close(gate[1]);
        assert_int_equal(read(gate[0], &none, 1), 0);
        const struct preflight_subject subject = {.init = pids[0], .criu = "4.2.1"};
        int r = preflight_scan(&subject, 20000, hear, &h, &err);
        for (int i = 0; i < 2; i++) {
                (void)kill(pids[i], SIGKILL);
                (void)waitpid(pids[i], NULL, 0);
        }
        (void)close(file);
        (void)unlink(path);
        (void)close(gate[0]);
        for (int i = 0; i < 2; i++)
                (void)close(ends[i]);
        assert_int_equal(r, 0);
        for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++)
                assert_non_null(strstr(h.text, items[i]));
        assert_non_null(strstr(h.text, "unix: process"));
        assert_int_equal(h.worst, GRADE_JUDGED);
}

/* -- a workload that does not stand still ------------------------------------------------------------------------- */

#define LOOKS_AT_IT 25

/* With nothing of ours, so that all that is found is its own: also not for the moment after the fork. */
static pid_t start_workload(void (*fn)(void))
{
        int gate[2];
        char none;

        assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)setsid();
                (void)close_range(0, ~0U, 0);
                for (int i = 0; i < 3; i++)
                        (void)open("/dev/null", O_RDWR | O_CLOEXEC);
                fn();
                _exit(1);
        }
        (void)close(gate[1]);
        assert_int_equal(read(gate[0], &none, 1), 0);
        (void)close(gate[0]);
        return pid;
}

static void end_workload(pid_t pid)
{
        (void)kill(-pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
}

static void hear_complaints(const char *item, enum grade grade, const char *reason, void *context)
{
        struct heard *h = context;

        if (grade == GRADE_OK || strcmp(item, "unit") == 0)
                return;
        (void)snprintf(h->text + strlen(h->text), sizeof(h->text) - strlen(h->text), "%s: %s\n", item, reason);
}

static void is_never_blamed(void (*fn)(void))
{
        pid_t pid = start_workload(fn);
        const struct preflight_subject subject = {.init = pid, .criu = "4.2.1"};

        assert_true(pid > 0);
        for (int i = 0; i < LOOKS_AT_IT; i++) {
                struct heard h = {0};
                assert_int_equal(preflight_scan(&subject, 20000, hear_complaints, &h, NULL), 0);
                if (h.text[0]) {
                        end_workload(pid);
                        fail_msg("in look %d: %s", i, h.text);
                }
        }
        end_workload(pid);
}

static void nap(long ms)
{
        (void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* Children that come and go, each with its parent's pipe, memory, log and a lock of its own on a file of all. */
static void fork_for_ever(void)
{
        char path[] = "/tmp/phaul-busy-XXXXXX";
        int ends[2];

        int file = mkstemp(path);
        (void)unlink(path);
        if (file < 0 || pipe2(ends, O_CLOEXEC) < 0 ||
            mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
                return;
        for (;;) {
                struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
                (void)fcntl(file, F_SETLK, &lock);
                if (fork() == 0) {
                        lock.l_start = getpid();
                        (void)fcntl(file, F_SETLK, &lock);
                        nap(getpid() % 20);
                        _exit(0);
                }
                nap(2);
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
        }
}

static int unix_socket(struct sockaddr_un *ret, socklen_t *ret_size, pid_t server)
{
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        int n = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "phaul-busy-%d", (int)server);
        *ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void connect_for_ever(pid_t server)
{
        struct sockaddr_un to;
        socklen_t size;
        char byte;

        for (;;) {
                int fd = unix_socket(&to, &size, server);
                if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, size) == 0 && read(fd, &byte, 1) == 1)
                        nap(20);
                (void)close(fd);
        }
}

static void serve_in_a_child(int fd)
{
        char byte;

        if (fork() == 0) {
                (void)!read(fd, &byte, 1);
                _exit(0);
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

/* A server whose clients belong to it; some of the connections are given to children. */
static void accept_for_ever(void)
{
        const pid_t self = getpid();
        int served[64] = {0};
        struct sockaddr_un at;
        socklen_t size;

        int listening = unix_socket(&at, &size, self);
        if (listening < 0 || bind(listening, (const struct sockaddr *)&at, size) < 0 || listen(listening, 64) < 0)
                return;
        /* Some that do nothing, so that it takes a while from the server to its clients. */
        for (int i = 0; i < 40; i++)
                if (fork() == 0)
                        for (;;)
                                (void)pause();
        for (int i = 0; i < 10; i++)
                if (fork() == 0)
                        connect_for_ever(self);
        for (unsigned n = 0;; n++) {
                int *one = &served[n % 64];
                if (*one > 0)
                        (void)close(*one);
                *one = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
                if (n % 8 == 0)
                        serve_in_a_child(*one);
                (void)!send(*one, "x", 1, MSG_NOSIGNAL);
        }
}

static void who_forks_is_not_blamed(void **state)
{
        (void)state;
        is_never_blamed(fork_for_ever);
}

static void who_accepts_is_not_blamed(void **state)
{
        (void)state;
        is_never_blamed(accept_for_ever);
}

/* More watches than could be searched for one by one. */
static void watch_much(void)
{
        int fd = inotify_init1(IN_CLOEXEC);
        char path[64];

        for (int i = 0; i < 2000; i++) {
                (void)snprintf(path, sizeof(path), "/proc/sys/kernel/../../%d/task", i + 1);
                (void)inotify_add_watch(fd, path, IN_CREATE);
        }
        (void)inotify_add_watch(fd, "/proc/self/ns", IN_CREATE);
        for (;;)
                (void)pause();
}

/* It sleeps when it has made all of them, and not before. */
static bool sleeps(pid_t pid)
{
        char path[64], state = '?';

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "re");
        const bool is_read = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
        if (f)
                (void)fclose(f);
        return is_read && state == 'S';
}

static void many_watches_are_looked_at_in_time(void **state)
{
        struct heard h = {0};

        (void)state;
        pid_t pid = start_workload(watch_much);
        const struct preflight_subject subject = {.init = pid, .criu = "4.2.1"};
        for (int i = 0; i < 1000 && !sleeps(pid); i++)
                nap(10);
        int r = preflight_scan(&subject, 10000, hear_complaints, &h, NULL);
        end_workload(pid);
        assert_int_equal(r, 0);
        assert_non_null(strstr(h.text, "watches: process"));
        assert_null(strstr(h.text, "tasks: "));
}

/* Nobody knows what else there is: that is no mere warning. */
static void what_takes_too_long_is_judged(void **state)
{
        const struct preflight_subject subject = {.init = getpid(), .criu = "4.2.1"};
        struct heard h = {0};

        (void)state;
        assert_int_equal(preflight_scan(&subject, 0, hear, &h, NULL), 0);
        assert_int_equal(h.worst, GRADE_JUDGED);
        assert_non_null(strstr(h.text, "tasks: not everything"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_real_process_is_looked_at),
                cmocka_unit_test(what_two_processes_share_is_found),
                cmocka_unit_test(who_forks_is_not_blamed),
                cmocka_unit_test(who_accepts_is_not_blamed),
                cmocka_unit_test(many_watches_are_looked_at_in_time),
                cmocka_unit_test(what_takes_too_long_is_judged),
        };

        return cmocka_run_group_tests_name("scan", tests, NULL, NULL);
}
