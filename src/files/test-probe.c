/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "files/files.h"

static char first[] = "/tmp/phaul-probe-a-XXXXXX", second[] = "/tmp/phaul-probe-b-XXXXXX";

static int make_directories(void **unused)
{
        (void)unused;
        return mkdtemp(first) && mkdtemp(second) ? 0 : -1;
}

static int remove_directories(void **unused)
{
        (void)unused;
        return rmdir(first) | rmdir(second); /* fails when anything was left in them */
}

/* Found and dealt with there, and that is seen here. */
static void same_directory(void **unused)
{
        struct files_probe probe;
        struct error err = {0};

        (void)unused;
        assert_int_equal(files_probe_write(first, &probe, &err), 0);
        assert_int_equal(files_probe_take(first, &probe, &err), 0);
        assert_int_equal(files_probe_end(first, &probe, &err), 0);
}

/* Another directory has no probe; the one that was written is still there, and goes. */
static void other_directory(void **unused)
{
        struct files_probe probe;
        struct error err = {0};

        (void)unused;
        assert_int_equal(files_probe_write(first, &probe, &err), 0);
        assert_true(files_probe_take(second, &probe, &err) < 0);
        assert_non_null(strstr(err.text, second));
        assert_int_equal(files_probe_end(first, &probe, &err), 1);
}

/* A file of that name with another content, a copy that is late for instance, is not it and stays. */
static void another_secret(void **unused)
{
        struct files_probe probe, claimed;
        struct error err = {0};

        (void)unused;
        assert_int_equal(files_probe_write(first, &probe, &err), 0);
        claimed = probe;
        claimed.secret[0] = probe.secret[0] == '0' ? '1' : '0';
        assert_true(files_probe_take(first, &claimed, &err) < 0);
        assert_int_equal(files_probe_end(first, &probe, &err), 1);
}

/* The other host cannot make us open or remove anything but a probe. */
static void strange_names(void **unused)
{
        static const char *const names[] = {"", "../../../../etc/passwd", "/etc/passwd", "0123"};
        struct error err = {0};

        (void)unused;
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                struct files_probe probe = {.secret = "00000000000000000000000000000000"};
                (void)snprintf(probe.name, sizeof(probe.name), "%s", names[i]);
                assert_int_equal(files_probe_take(first, &probe, &err), -EINVAL);
                assert_int_equal(files_probe_end(first, &probe, &err), -EINVAL);
        }
}

/* A link in its place is not followed. */
static void a_link(void **unused)
{
        struct files_probe probe = {.name = "00000000000000000000000000000001",
                                    .secret = "00000000000000000000000000000000"};
        struct error err = {0};
        char path[128];

        (void)unused;
        (void)snprintf(path, sizeof(path), "%s/.phaul-probe-%s", first, probe.name);
        assert_int_equal(symlink("/etc/hostname", path), 0);
        assert_true(files_probe_take(first, &probe, &err) < 0);
        assert_int_equal(unlink(path), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(same_directory), cmocka_unit_test(other_directory), cmocka_unit_test(another_secret),
                cmocka_unit_test(strange_names),  cmocka_unit_test(a_link),
        };

        return cmocka_run_group_tests_name("probe", tests, make_directories, remove_directories);
}
