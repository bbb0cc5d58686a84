/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes of this test in real cgroups: gathered, given a CPU limit of their own, and back where they were. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/format.h"
#include "haulers/process/process.h"

/* A process, a child of it that lives, and one that has ended and is not waited for. */
struct family {
        pid_t root, child, dead;
};

static _Noreturn void wait_for_ever(void)
{
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
                (void)pause();
}

static bool is_zombie(pid_t pid)
{
        struct process_task task;

        return process_task_read(pid, &task) == 0 && task.state == 'Z';
}

static int set_up(void **state)
{
        struct family *f = calloc(1, sizeof(*f));
        int told[2];

        if (!f || pipe2(told, O_CLOEXEC) < 0)
                return -1;
        *state = f;
        f->root = fork();
        if (f->root == 0) {
                f->root = getpid();
                f->child = fork();
                if (f->child == 0)
                        wait_for_ever();
                f->dead = fork();
                if (f->dead == 0)
                        _exit(0);
                (void)!write(told[1], f, sizeof(*f));
                wait_for_ever();
        }
        const bool ready = f->root > 0 && read(told[0], f, sizeof(*f)) == (ssize_t)sizeof(*f);
        (void)close(told[0]);
        (void)close(told[1]);
        for (int i = 0; ready && i < 1000 && !is_zombie(f->dead); i++)
                (void)usleep(5000);
        return ready && is_zombie(f->dead) ? 0 : -1;
}

static int tear_down(void **state)
{
        struct family *f = *state;

        if (f->root > 0) {
                (void)kill(f->root, SIGKILL);
                (void)waitpid(f->root, NULL, 0);
        }
        free(f);
        return 0;
}

static char *cgroup_with(const char *controller, pid_t pid)
{
        char *path = NULL;
        bool v2;

        return process_cgroup_with(controller, pid, &path, &v2, NULL) == 0 ? path : NULL;
}

static void expect_in(const char *controller, pid_t pid, const char *expected)
{
        AUTO_FREE char *path = cgroup_with(controller, pid);

        assert_non_null(path);
        assert_string_equal(path, expected);
}

/* One that nobody waits for is in no cgroup; each look at the tree would find it left behind. */
static void a_zombie_does_not_keep_its_tree(void **state)
{
        const struct family *f = *state;
        AUTO_FREE char *above = cgroup_with("freezer", f->root);
        struct error err = {0};

        if (!above || access(above, W_OK) < 0)
                skip();
        AUTO_FREE char *place = format_new("%s/phaul-test-%d", above, (int)getpid());
        assert_non_null(place);
        if (process_cgroup_enter(f->root, place, &err) < 0)
                fail_msg("%s", err.text);
        expect_in("freezer", f->root, place);
        expect_in("freezer", f->child, place);
        assert_int_equal(process_cgroup_leave(place, above, &err), 0);
        expect_in("freezer", f->child, above);
        assert_true(access(place, F_OK) < 0);
}

static json_t *describe(const struct family *f, const char *cgroup, bool v2)
{
        struct process_task task;

        assert_int_equal(process_task_read(f->root, &task), 0);
        json_t *info = json_pack("{s:i, s:I, s:s, s:b}", "host_pid", (int)f->root, "started", (json_int_t)task.started,
                                 "cgroup", cgroup, "v2", (int)v2);
        assert_non_null(info);
        assert_int_equal(process_cpu_describe(f->root, cgroup, v2, info), 0);
        return info;
}

/* Version 1: in the hierarchy of the CPU controller, all of them together. */
static void a_limit_of_its_own(void **state)
{
        const struct family *f = *state;
        AUTO_FREE char *above = cgroup_with("cpu", f->root), *freezer = cgroup_with("freezer", f->root);
        struct error err = {0};
        struct stat seen;

        AUTO_FREE char *file = above ? format_new("%s/cgroup.clone_children", above) : NULL; /* version 1 has it */
        if (!file || !freezer || access(file, W_OK) < 0)
                skip();
        struct process_private private = {.info = describe(f, freezer, false)};
        struct workload w = {.private_data = &private, .init_pid = f->root};
        if (process_limit(&w, &err) < 0)
                fail_msg("%s", err.text);
        assert_string_not_equal(w.cpu, above);
        expect_in("cpu", f->root, w.cpu);
        expect_in("cpu", f->child, w.cpu);
        assert_int_equal(cgroup_write(w.cpu, "cpu.cfs_quota_us", "20000"), 0);
        assert_int_equal(process_limit(&w, &err), 0);

        for (int i = 0; i < 2; i++) {
                assert_int_equal(process_cpu_leave(private.info, &err), 0);
                expect_in("cpu", f->root, above);
                expect_in("cpu", f->child, above);
                assert_true(stat(w.cpu, &seen) < 0);
        }
        free(w.cpu);
        json_decref(private.info);
}

/* Its members would come back to a place that only some of them were in. */
static void nobody_is_taken_out_of_another_limit(void **state)
{
        const struct family *f = *state;
        AUTO_FREE char *above = cgroup_with("cpu", f->root), *freezer = cgroup_with("freezer", f->root);
        struct error err = {0};
        char pid[16];

        AUTO_FREE char *file = above ? format_new("%s/cgroup.clone_children", above) : NULL;
        AUTO_FREE char *other = above ? format_new("%s/phaul-test-%d", above, (int)getpid()) : NULL;
        if (!file || !freezer || access(file, W_OK) < 0)
                skip();
        struct process_private private = {.info = describe(f, freezer, false)};
        struct workload w = {.private_data = &private, .init_pid = f->root};
        (void)snprintf(pid, sizeof(pid), "%d", (int)f->child);
        assert_true(other && mkdir(other, 0755) == 0);
        assert_int_equal(cgroup_write(other, "cgroup.procs", pid), 0);
        assert_int_equal(process_limit(&w, &err), -EOPNOTSUPP);
        assert_null(w.cpu);
        expect_in("cpu", f->root, above);
        expect_in("cpu", f->child, other);
        assert_int_equal(process_cgroup_leave(other, above, &err), 0);
        json_decref(private.info);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_zombie_does_not_keep_its_tree, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_limit_of_its_own, set_up, tear_down),
                cmocka_unit_test_setup_teardown(nobody_is_taken_out_of_another_limit, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("cgroups of process trees", tests, NULL, NULL);
}
