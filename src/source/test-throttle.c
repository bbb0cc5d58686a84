/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A process that takes all the CPU it can get, in a real cgroup of its own, is allowed ever less and then everything.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "source/throttle.h"

#define LOOK_US 200000

struct place {
        char directory[PATH_MAX];
        bool v2;
        pid_t busy;
};

static bool limits_cpu(const char *directory)
{
        char path[PATH_MAX + 32];

        (void)snprintf(path, sizeof(path), "%s/cpu.max", directory);
        if (access(path, F_OK) == 0)
                return true;
        (void)snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", directory);
        return access(path, F_OK) == 0;
}

/* The first hierarchy in which a new cgroup has a CPU limit. */
static bool make_cgroup(struct place *p)
{
        char buffer[4096];
        struct mntent entry;
        bool made = false;

        AUTO_FILE FILE *f = setmntent("/proc/self/mounts", "re");
        while (f && !made && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                p->v2 = strcmp(entry.mnt_type, "cgroup2") == 0;
                if (!p->v2 && strcmp(entry.mnt_type, "cgroup") != 0)
                        continue;
                (void)snprintf(p->directory, sizeof(p->directory), "%s/phaul-test-%d", entry.mnt_dir, (int)getpid());
                if (mkdir(p->directory, 0755) < 0)
                        continue;
                made = limits_cpu(p->directory);
                if (!made)
                        (void)rmdir(p->directory);
        }
        return made;
}

static int set_up(void **state)
{
        struct place *p = calloc(1, sizeof(*p));
        char pid[32];

        *state = p;
        if (!p || !make_cgroup(p))
                return p ? 0 : -1;
        p->busy = fork();
        if (p->busy == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (volatile unsigned i = 0;; i++)
                        ;
        }
        (void)snprintf(pid, sizeof(pid), "%d", (int)p->busy);
        return p->busy < 0 ? -1 : cgroup_write(p->directory, "cgroup.procs", pid);
}

static int tear_down(void **state)
{
        struct place *p = *state;

        if (p->busy) {
                (void)kill(p->busy, SIGKILL);
                (void)waitpid(p->busy, NULL, 0);
                for (int i = 0; i < 500 && rmdir(p->directory) < 0 && errno == EBUSY; i++)
                        (void)usleep(10000);
        }
        free(p);
        return 0;
}

static struct place *place(void **state)
{
        struct place *p = *state;

        if (!p->busy) {
                print_message("a new cgroup has no CPU limit here: the controller is not enabled in any hierarchy\n");
                skip();
        }
        return p;
}

/* In microseconds of a period; -1 for no limit. */
static long quota(const struct place *p)
{
        char path[PATH_MAX + 32];
        AUTO_FREE char *text = NULL;

        (void)snprintf(path, sizeof(path), "%s/%s", p->directory, p->v2 ? "cpu.max" : "cpu.cfs_quota_us");
        assert_int_equal(fd_read_file(AT_FDCWD, path, 4096, &text, NULL), 0);
        return strncmp(text, "max", 3) == 0 ? -1 : strtol(text, NULL, 10);
}

/* Each step allows less than it took before, down to next to nothing; then there is none left. */
static void test_steps(void **state)
{
        const struct place *p = place(state);
        CLEANUP(throttle_free_ptr) struct throttle *t = NULL;
        struct error err = {0};
        unsigned allowed = 0, before = UINT_MAX, steps = 0;
        int r;

        assert_int_equal(throttle_new(p->directory, &t, &err), 0);
        assert_string_equal(throttle_before(t), "max 100000");
        (void)usleep(LOOK_US);
        while ((r = throttle_step(t, &allowed, &err)) == 0) {
                assert_true(allowed < before);
                assert_int_equal(quota(p) / 100, (long)allowed);
                before = allowed;
                assert_true(++steps < 20);
                (void)usleep(LOOK_US);
        }
        assert_int_equal(r, 1);
        assert_true(steps >= 2 && allowed <= 20);
        assert_int_equal(throttle_lift(t, &err), 0);
        assert_int_equal(quota(p), -1);
        assert_int_equal(throttle_lift(t, &err), 0);
}

/* A limit that somebody has set is put back as it was, by whoever ends it, or by a later process. */
static void test_puts_back(void **state)
{
        const struct place *p = place(state);
        struct error err = {0};
        char before[64];
        unsigned allowed;

        if (p->v2) {
                assert_int_equal(cgroup_write(p->directory, "cpu.max", "45000 50000"), 0);
        } else {
                assert_int_equal(cgroup_write(p->directory, "cpu.cfs_period_us", "50000"), 0);
                assert_int_equal(cgroup_write(p->directory, "cpu.cfs_quota_us", "45000"), 0);
        }
        for (int i = 0; i < 2; i++) {
                struct throttle *t = NULL;
                assert_int_equal(throttle_new(p->directory, &t, &err), 0);
                (void)snprintf(before, sizeof(before), "%s", throttle_before(t));
                (void)usleep(LOOK_US);
                assert_int_equal(throttle_step(t, &allowed, &err), 0);
                assert_true(allowed < 900 && quota(p) / 100 == (long)allowed);
                if (i == 1)
                        assert_int_equal(throttle_restore(p->directory, before, &err), 0);
                throttle_free(t);
                assert_int_equal(quota(p), 45000);
        }
        assert_string_equal(before, "45000 50000");
}

/* A cgroup without a limit is refused by name, one that went away needs none back, and a record may be damaged. */
static void test_refuses(void **state)
{
        const struct place *p = place(state);
        struct throttle *t = NULL;
        struct error err = {0};

        assert_int_equal(throttle_new("/proc", &t, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err.text, "/proc"));
        assert_null(t);
        assert_int_equal(throttle_restore("/sys/fs/cgroup/phaul-that-never-was", "max 100000", &err), 0);
        assert_int_equal(throttle_restore(p->directory, "nonsense", &err), -EINVAL);
        assert_int_equal(throttle_restore(p->directory, "1 2 3", &err), -EINVAL);
        assert_int_equal(quota(p), -1);
        throttle_free(NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_steps, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_puts_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_refuses, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
