/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * How a restore that did not get through is put down: what its log and the notes beside it prove, and a CRIU that is
 * made to stand still first. CRIU and its task are played here; real ones are in tests/scenario.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "criu/grip.h"
#include "criu/stage.h"

static int setup(void **state)
{
        char path[] = "/tmp/phaul-restore-end-XXXXXX";
        int *directory = malloc(sizeof(*directory));

        if (!directory || !mkdtemp(path))
                return -1;
        *directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = directory;
        return *directory < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        int *directory = *state;
        char link[64], path[256] = "";

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", *directory);
        bool known = readlink(link, path, sizeof(path) - 1) > 0;
        (void)close(*directory);
        free(directory);
        return known ? fd_remove_tree(AT_FDCWD, path, NULL) : -1;
}

#define RESTORED "(00.1) pie: 1: Restored\n"
#define UNLOCK "(00.2) Unlock network\n"
#define SCRIPT "(00.2) Running network-unlock scripts\n"
#define SCRIPT_FAILED "(00.2) Error (criu/action-scripts.c:1): One of more action scripts failed\n"
#define ESCAPED "(00.3) Error (criu/cr-restore.c:1): Can't stop all tasks on rt_sigreturn\n"
#define LATE "(00.3) Run late stage hook from criu master for external devices\n"
#define KILLED "(00.4) Error (criu/cr-restore.c:1): Killing processes because of failure on restore.\n"

static void what_proves_that_nothing_ran(void **state)
{
        const int directory = *(int *)*state;
        static const struct {
                enum criu_stage stage;
                const char *log;
                int alone, held, tracing; /* whether it may have run, by what CRIU did */
        } cases[] = {
                /* The hold program never said yes, whatever the log says. */
                {CRIU_STAGE_NONE, RESTORED, 0, 0, 0},
                {CRIU_STAGE_NONE, NULL, 0, 0, 0},
                /* It noted that CRIU came through, whatever the log says. */
                {CRIU_STAGE_RESUMED, RESTORED, 1, 1, 1},
                {CRIU_STAGE_RESUMED, RESTORED UNLOCK KILLED, 1, 1, 1},
                /* On the way. */
                {CRIU_STAGE_RELEASED, NULL, 1, 1, 1},
                {CRIU_STAGE_RELEASED, RESTORED, 0, 0, 0},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK, 1, 0, 0},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK KILLED, 0, 0, 0},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK ESCAPED KILLED, 1, 1, 1},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK LATE, 1, 1, 0},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK LATE KILLED, 1, 1, 0},
                /* CRIU died in its script, or after it. */
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK SCRIPT, 0, 0, 0},
                {CRIU_STAGE_RELEASED, RESTORED UNLOCK SCRIPT SCRIPT_FAILED, 1, 0, 0},
                {CRIU_STAGE_UNLOCKED, RESTORED UNLOCK SCRIPT, 1, 0, 0},
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                (void)unlinkat(directory, "restore.log", 0);
                assert_int_equal(criu_stage_set(directory, CRIU_STAGE_NONE), 0);
                if (cases[i].stage != CRIU_STAGE_NONE)
                        assert_int_equal(criu_stage_set(directory, cases[i].stage), 0);
                if (cases[i].log)
                        assert_int_equal(
                                fd_write_file(directory, "restore.log", cases[i].log, strlen(cases[i].log), 0600), 0);
                assert_int_equal(criu_restore_may_have_resumed(directory, "restore.log", CRIU_UNHELD), cases[i].alone);
                assert_int_equal(criu_restore_may_have_resumed(directory, "restore.log", CRIU_HELD), cases[i].held);
                assert_int_equal(criu_restore_may_have_resumed(directory, "restore.log", CRIU_HELD_TRACING),
                                 cases[i].tracing);
        }
}

static void notes_follow_each_other(void **state)
{
        const int directory = *(int *)*state;

        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_NONE);
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_RELEASED), 0);
        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_RELEASED);
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_UNLOCKED), 0);
        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_UNLOCKED);
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_RESUMED), 0);
        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_RESUMED);
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_NONE), 0);
        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_NONE);
        /* A workload without a network of its own has one step less. */
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_RELEASED), 0);
        assert_int_equal(criu_stage_set(directory, CRIU_STAGE_RESUMED), 0);
        assert_int_equal(criu_stage_get(directory), CRIU_STAGE_RESUMED);
        assert_int_equal(criu_stage_get(-1), CRIU_STAGE_RESUMED);
}

/* -- a CRIU that stands still ------------------------------------------------------------------------------------ */

struct play {
        pid_t criu, root;
        int at; /* what the root has done up to now is read from here */
};

/* The root marks each moment in which it runs. */
static _Noreturn void play_root(int out)
{
        for (;;) {
                (void)!write(out, ".", 1);
                (void)usleep(1000);
        }
}

static pid_t play_criu(const char *name, bool trace, int out, int tell)
{
        pid_t criu = fork();
        if (criu != 0)
                return criu;
        (void)prctl(PR_SET_NAME, name);
        pid_t root = fork();
        if (root == 0) {
                if (!trace)
                        play_root(out);
                for (;;)
                        (void)pause();
        }
        if (trace && (ptrace(PTRACE_SEIZE, root, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, root, 0, 0) < 0))
                _exit(1);
        (void)!write(tell, &root, sizeof(root));
        for (;;)
                (void)pause();
}

static struct play play(const char *name, bool trace)
{
        int tell[2], marks[2];
        struct play p;

        assert_int_equal(pipe(tell), 0);
        assert_int_equal(pipe2(marks, O_NONBLOCK), 0);
        p.criu = play_criu(name, trace, marks[1], tell[1]);
        assert_true(p.criu > 0);
        assert_int_equal(read(tell[0], &p.root, sizeof(p.root)), sizeof(p.root));
        (void)close(tell[0]);
        (void)close(tell[1]);
        (void)close(marks[1]);
        p.at = marks[0];
        return p;
}

static void play_end(struct play *p)
{
        (void)kill(p->root, SIGKILL);
        (void)kill(p->criu, SIGKILL);
        (void)waitpid(p->criu, NULL, 0);
        (void)close(p->at);
}

/* The whole tree, CRIU and what it descends from included: as a cgroup has them in which CRIU was born. */
static int list_all(struct pid_list *ret, void *context)
{
        const struct play *p = context;

        (void)pid_list_add(ret, getpid());
        (void)pid_list_add(ret, p->criu);
        return pid_list_add(ret, p->root);
}

static void criu_outlives_its_tasks(void **state)
{
        (void)state;
        for (int trace = 0; trace < 2; trace++) {
                struct play p = play("criu", trace);
                struct criu_grip grip;

                criu_grip_take(p.root, &grip);
                assert_int_equal(grip.pid, p.criu);
                assert_int_equal(criu_grip_hold(&grip), trace ? CRIU_HELD_TRACING : CRIU_HELD);
                assert_int_equal(criu_grip_kill_tasks(&grip, list_all, &p), 0);
                /* Neither this process nor CRIU was hit, and CRIU did not go on when its child died. */
                assert_int_equal(criu_grip_hold(&grip), trace ? CRIU_HELD_TRACING : CRIU_HELD);
                criu_grip_end(&grip);
                assert_int_equal(criu_grip_hold(&grip), CRIU_UNHELD);
                int status;
                assert_int_equal(waitpid(p.criu, &status, 0), p.criu);
                assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
                (void)close(p.at);
        }
}

static void one_that_goes_on_is_no_proof(void **state)
{
        struct play p = play("criu", false);
        struct criu_grip grip;

        (void)state;
        criu_grip_take(p.root, &grip);
        assert_int_equal(criu_grip_hold(&grip), CRIU_HELD);
        (void)kill(p.criu, SIGCONT);
        for (int i = 0; i < 1000 && criu_grip_hold(&grip) == CRIU_HELD; i++)
                (void)usleep(1000);
        assert_int_equal(criu_grip_hold(&grip), CRIU_UNHELD);
        criu_grip_end(&grip);
        play_end(&p);
}

static void nobody_else_is_stopped(void **state)
{
        struct play p = play("monitor", false);
        struct criu_grip grip;
        char mark;

        (void)state;
        criu_grip_take(p.root, &grip);
        assert_int_equal(criu_grip_hold(&grip), CRIU_UNHELD);
        while (read(p.at, &mark, 1) == 1)
                ;
        for (int i = 0; i < 1000 && read(p.at, &mark, 1) != 1; i++)
                (void)usleep(10000);
        assert_int_equal(kill(p.criu, 0), 0);
        play_end(&p);
        criu_grip_take(0, &grip);
        assert_int_equal(criu_grip_hold(&grip), CRIU_UNHELD);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(what_proves_that_nothing_ran, setup, teardown),
                cmocka_unit_test_setup_teardown(notes_follow_each_other, setup, teardown),
                cmocka_unit_test(criu_outlives_its_tasks),
                cmocka_unit_test(one_that_goes_on_is_no_proof),
                cmocka_unit_test(nobody_else_is_stopped),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
