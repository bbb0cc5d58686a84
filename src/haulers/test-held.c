/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The session's end of the talk with phaul-hold; the test plays the hold program. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "haulers/held.h"

#define HELD 4711
#define OTHER 4712
#define TURNS_MAX 1000

struct fixture {
        char directory[32], path[64];
        struct loop *loop;
        struct held *held;
        pid_t told; /* who is held */
};

static bool belongs(pid_t pid, void *context)
{
        (void)context;
        return pid == HELD;
}

static void is_held(pid_t pid, pid_t hold_pid, void *context)
{
        struct fixture *f = context;

        assert_int_equal(hold_pid, getpid());
        assert_int_equal(f->told, 0);
        f->told = pid;
}

static int set_up(void **state)
{
        static const struct held_handlers handlers = {.belongs = belongs, .held = is_held};
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->directory, sizeof(f->directory), "/tmp/test-held-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void)snprintf(f->path, sizeof(f->path), "%s/hold", f->directory);
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(held_new(f->loop, f->path, &handlers, f, &f->held, NULL), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        held_free(f->held);
        loop_free(f->loop);
        (void)rmdir(f->directory);
        free(f);
        return 0;
}

/* What the hold program does: connect and say who is held. */
static int announce(const struct fixture *f, int pid)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        char text[32];

        memcpy(address.sun_path, f->path, strlen(f->path) + 1);
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        int n = snprintf(text, sizeof(text), "{\"held\":%d}", pid);
        assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
        return fd;
}

static void run_until_told(struct fixture *f)
{
        for (int turn = 0; turn < TURNS_MAX && !f->told; turn++)
                assert_true(loop_run_once(f->loop, 10) >= 0);
        assert_int_equal(f->told, HELD);
}

static void says_go_and_no(void **state)
{
        struct fixture *f = *state;
        char word[16];

        AUTO_FD int fd = announce(f, HELD);
        run_until_told(f);
        assert_int_equal(held_answer(f->held, true), 0);
        assert_int_equal(recv(fd, word, sizeof(word), 0), 2);
        assert_memory_equal(word, "go", 2);
        assert_int_equal(held_answer(f->held, false), 0);
        assert_int_equal(recv(fd, word, sizeof(word), 0), 2);
        assert_memory_equal(word, "no", 2);
}

/*
 * It looks at the record every 200 ms. Between the moment in which STARTING is in the record and our "go" it may have
 * let the copy go and ended; were that an error, a copy that runs would be put down.
 */
static void who_has_read_the_record_needs_no_answer(void **state)
{
        struct fixture *f = *state;

        int fd = announce(f, HELD);
        run_until_told(f);
        (void)close(fd);
        assert_int_equal(held_answer(f->held, true), 0);
        assert_int_equal(held_answer(f->held, false), 0);
}

static void who_is_none_of_its_tasks_is_not_believed(void **state)
{
        struct fixture *f = *state;
        char word[16];

        AUTO_FD int liar = announce(f, OTHER);
        for (int turn = 0; turn < 10; turn++)
                assert_true(loop_run_once(f->loop, 10) >= 0);
        assert_int_equal(f->told, 0);
        assert_int_equal(recv(liar, word, sizeof(word), MSG_DONTWAIT), 0); /* hung up */
        AUTO_FD int fd = announce(f, HELD);
        run_until_told(f);
        assert_true(fd >= 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(says_go_and_no, set_up, tear_down),
                cmocka_unit_test_setup_teardown(who_has_read_the_record_needs_no_answer, set_up, tear_down),
                cmocka_unit_test_setup_teardown(who_is_none_of_its_tasks_is_not_believed, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("held", tests, NULL, NULL);
}
