/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Hooks: who may be run, what is told to it, and that a failing one is a warning and no more. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "network/hooks.h"
#include "network/test-network.h"

struct place {
        char directory[64];
        int fd;
};

static int set_up(void **state)
{
        struct place *place = calloc(1, sizeof(*place));

        (void)snprintf(place->directory, sizeof(place->directory), "/tmp/phaul-hooks-XXXXXX");
        assert_non_null(mkdtemp(place->directory));
        place->fd = open(place->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = place;
        return 0;
}

static int tear_down(void **state)
{
        struct place *place = *state;

        (void)close(place->fd);
        assert_int_equal(fd_remove_tree(AT_FDCWD, place->directory, NULL), 0);
        free(place);
        return 0;
}

static void script(const struct place *place, const char *name, mode_t mode, const char *text)
{
        assert_int_equal(fd_write_file(place->fd, name, text, strlen(text), mode), 0);
        assert_int_equal(fchmodat(place->fd, name, mode, 0), 0);
}

/* Programs run in the order of their names, with the data in their environment; others' leftovers do not. */
static void programs_are_told(void **state)
{
        struct place *place = *state;
        struct error err = {0};
        const struct network_hook_context context = {
                .kind = "lxc", .id = "0123", .name = "web", .peer = "beta", .directory = place->directory};
        AUTO_FREE char *log = NULL;

        script(place, "20-b", 0755, "#!/bin/sh\necho b $PHAUL_EVENT $PHAUL_SIDE >>${0%/*}/log.txt\n");
        script(place, "10-a", 0755,
               "#!/bin/sh\necho a $PHAUL_KIND $PHAUL_ID $PHAUL_NAME $PHAUL_PEER >>${0%/*}/log.txt\n");
        script(place, "30-c.dpkg-old", 0755, "#!/bin/sh\necho c >>${0%/*}/log.txt\n");
        script(place, "40-not-executable", 0644, "#!/bin/sh\necho d >>${0%/*}/log.txt\n");
        if (network_hooks(NETWORK_ARRIVED, &context, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(fd_read_file(place->fd, "log.txt", 1000, &log, NULL), 0);
        assert_string_equal(log, "a lxc 0123 web beta\nb arrived target\n");

        const struct network_hook_context nowhere = {.directory = "/nonexistent/hooks.d"};
        assert_int_equal(network_hooks(NETWORK_STAYED, &nowhere, &err), 0);
}

/* A hook that others may write to would be a way to become root. */
static void unsafe_programs_are_refused(void **state)
{
        struct place *place = *state;
        struct error err = {0};
        const struct network_hook_context context = {.directory = place->directory};

        script(place, "10-open", 0777, "#!/bin/sh\ntouch ${0%/*}/ran\n");
        script(place, "20-good", 0755, "#!/bin/sh\ntouch ${0%/*}/good\n");
        assert_int_equal(network_hooks(NETWORK_LEAVING, &context, &err), -EPERM);
        assert_non_null(strstr(err.text, "10-open"));
        assert_int_equal(faccessat(place->fd, "ran", F_OK, 0), -1);
        assert_int_equal(faccessat(place->fd, "good", F_OK, 0), 0);

        script(place, "10-open", 0755, "#!/bin/sh\ntouch ${0%/*}/ran\n");
        assert_int_equal(fchownat(place->fd, "10-open", 65534, 65534, 0), 0);
        assert_int_equal(network_hooks(NETWORK_LEAVING, &context, &err), -EPERM);
        assert_int_equal(unlinkat(place->fd, "10-open", 0), 0);

        assert_int_equal(fchmod(place->fd, 0777), 0);
        assert_int_equal(unlinkat(place->fd, "good", 0), 0);
        assert_int_equal(network_hooks(NETWORK_LEAVING, &context, &err), -EPERM);
        assert_int_equal(faccessat(place->fd, "good", F_OK, 0), -1);
}

static void failures_are_reported(void **state)
{
        struct place *place = *state;
        struct error err = {0};
        static const char *const actions[] = {"teleport:now", NULL};
        struct network_hook_context context = {.directory = place->directory};

        script(place, "10-bad", 0755, "#!/bin/sh\necho no such router >&2\nexit 3\n");
        assert_int_equal(network_hooks(NETWORK_LEAVING, &context, &err), -EIO);
        assert_non_null(strstr(err.text, "ended with 3: no such router"));
        context.actions = actions;
        assert_int_equal(network_hooks(NETWORK_LEAVING, &context, &err), -EINVAL);
        assert_non_null(strstr(err.text, "2 hooks failed"));
}

static bool appears(const struct place *place, const char *name)
{
        for (int i = 0; i < 100; i++) {
                if (faccessat(place->fd, name, F_OK, 0) == 0)
                        return true;
                (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
        return false;
}

/* Something called ucarp that runs on an interface is asked to step back on leaving, and is left alone otherwise. */
static void ucarp_steps_back(void **state)
{
        struct place *place = *state;
        struct error err = {0};
        char path[96], text[32];
        pid_t pid;

        script(place, "ucarp", 0755,
               "#!/bin/sh\ntrap 'touch ${0%/*}/demoted' USR2\ntouch ${0%/*}/ready\n"
               "i=0\nwhile [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done\n");
        (void)snprintf(path, sizeof(path), "%s/ucarp", place->directory);
        const char *argv[] = {path, "-i", "vip0", NULL};
        const struct spawn_options options = {.argv = argv, .die_with_parent = true};
        assert_int_equal(spawn(&options, &pid, NULL, &err), 0);
        assert_true(appears(place, "ready"));

        assert_int_equal(hook_ucarp(NETWORK_ARRIVED, "vip0", &err), 0);
        assert_int_equal(hook_ucarp(NETWORK_STAYED, "vip0", &err), 0);
        assert_int_equal(hook_ucarp(NETWORK_LEAVING, "vip1", &err), -ESRCH);
        assert_int_equal(faccessat(place->fd, "demoted", F_OK, 0), -1);
        assert_int_equal(hook_ucarp(NETWORK_LEAVING, "vip0", &err), 0);
        assert_true(appears(place, "demoted"));

        assert_int_equal(unlinkat(place->fd, "demoted", 0), 0);
        (void)snprintf(text, sizeof(text), "%d\n", (int)pid);
        script(place, "ucarp.pid", 0644, text);
        (void)snprintf(path, sizeof(path), "%s/ucarp.pid", place->directory);
        assert_int_equal(hook_ucarp(NETWORK_LEAVING, path, &err), 0);
        assert_true(appears(place, "demoted"));

        /* A stale pid file points at some other process, here this test: it must not be hit. */
        (void)snprintf(text, sizeof(text), "%d\n", (int)getpid());
        script(place, "ucarp.pid", 0644, text);
        assert_int_equal(hook_ucarp(NETWORK_LEAVING, path, &err), -ESRCH);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
}

static void keepalived_gets_its_weight(void **state)
{
        struct place *place = *state;
        struct error err = {0};
        char directory[96];

        (void)snprintf(directory, sizeof(directory), "%s/run/keepalived", place->directory);
        assert_int_equal(hook_keepalived(NETWORK_LEAVING, "VI_1", directory, &err), 0);
        AUTO_FREE char *left = NULL;
        assert_int_equal(fd_read_file(place->fd, "run/keepalived/VI_1", 100, &left, NULL), 0);
        assert_string_equal(left, "-253\n");
        assert_int_equal(hook_keepalived(NETWORK_STAYED, "VI_1", directory, &err), 0);
        AUTO_FREE char *stayed = NULL;
        assert_int_equal(fd_read_file(place->fd, "run/keepalived/VI_1", 100, &stayed, NULL), 0);
        assert_string_equal(stayed, "0\n");
        assert_int_equal(hook_keepalived(NETWORK_LEAVING, "../VI_1", directory, &err), -EINVAL);
}

int test_hooks(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(programs_are_told, set_up, tear_down),
                cmocka_unit_test_setup_teardown(unsafe_programs_are_refused, set_up, tear_down),
                cmocka_unit_test_setup_teardown(failures_are_reported, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ucarp_steps_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(keepalived_gets_its_weight, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("hooks", tests, NULL, NULL);
}
