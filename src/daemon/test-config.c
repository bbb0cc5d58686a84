/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The configuration: what is read, in which order, and that whatever is wrong is named with file and line. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/config.h"

static int setup(void **state)
{
        char *root = strdup("/tmp/phaul-config-XXXXXX");

        assert_non_null(mkdtemp(root));
        *state = root;
        return 0;
}

static int teardown(void **state)
{
        struct error err = {0};

        assert_int_equal(fd_remove_tree(AT_FDCWD, *state, &err), 0);
        free(*state);
        return 0;
}

static const char *put(const char *root, const char *name, const char *text)
{
        static char path[256];

        (void)snprintf(path, sizeof(path), "%s/%s", root, name);
        assert_int_equal(fd_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);
        return path;
}

static void defaults_without_a_file(void **state)
{
        CLEANUP(config_free_ptr) struct config *c = NULL;
        char path[256];
        struct error err = {0};

        (void)snprintf(path, sizeof(path), "%s/none.conf", (const char *)*state);
        assert_int_equal(config_load(path, &c, &err), 0);
        assert_int_equal(c->port, 12345);
        assert_int_equal(c->max_migrations, 4);
        assert_int_equal(c->max_connections, 64);
        assert_true(name_is_valid(c->host_name));
}

static void later_files_win(void **state)
{
        CLEANUP(config_free_ptr) struct config *c = NULL;
        char path[256], directory[256];
        struct error err = {0};

        (void)snprintf(directory, sizeof(directory), "%s/conf.d", (const char *)*state);
        assert_int_equal(fd_mkdir_p(directory, 0700), 0);
        (void)put(*state, "conf.d/20.conf", "[network]\nport = 20\nbandwidth = 1.5M\n");
        (void)put(*state, "conf.d/10.conf", "# first\n[network]\nport = 10\n[switchover]\naction = ucarp:/x\n");
        (void)put(*state, "conf.d/README", "this is no configuration\n");
        (void)snprintf(path, sizeof(path), "%s",
                       put(*state, "phaul.conf", "[host]\nname = web-1\n[network]\nport = 5\n"));
        assert_int_equal(config_load(path, &c, &err), 0);
        assert_string_equal(c->host_name, "web-1");
        assert_int_equal(c->port, 20);
        assert_int_equal(c->bandwidth, 1500000);
        assert_string_equal(c->actions[0], "ucarp:/x");
        assert_null(c->actions[1]);
}

static void mistakes_are_named(void **state)
{
        static const struct {
                const char *text, *says;
        } wrong[] = {
                {"[network]\nprot = 1\n", "phaul.conf:2: unknown key 'prot' in section [network]"},
                {"[networks]\n\nport = 1\n", "phaul.conf:3: unknown section 'networks'"},
                {"[network]\nport = 0\n", "phaul.conf:2: port = '0' is not a number from 1 to 65535"},
                {"[network]\nport = 12x\n", "phaul.conf:2: port"},
                {"[network]\nlisten = example.org\n", "phaul.conf:2: listen"},
                {"[network]\nbandwidth = fast\n", "phaul.conf:2: bandwidth"},
                {"[host]\nname = -x\n", "phaul.conf:2: name = '-x' is not a valid host name"},
                {"[limits]\nnonsense\n", "phaul.conf:2: neither"},
                {"[network]\nport = 1\n  2\n", "phaul.conf:3: line begins with white space"},
                {"[switchover]\nhooks = hooks.d\n", "phaul.conf:2: hooks"},
        };

        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                struct config *c = NULL;
                struct error err = {0};

                assert_true(config_load(put(*state, "phaul.conf", wrong[i].text), &c, &err) < 0);
                assert_int_equal(err.kind, ERROR_USAGE);
                if (!strstr(err.text, wrong[i].says))
                        fail_msg("'%s' does not say '%s'", err.text, wrong[i].says);
        }
}

/* The library would go on in the middle of a long line as if it were the next one. */
static void long_lines_are_refused(void **state)
{
        struct config *c = NULL;
        struct error err = {0};
        char text[600];

        (void)snprintf(text, sizeof(text), "[switchover]\naction = %0400d\n", 0);
        assert_true(config_load(put(*state, "phaul.conf", text), &c, &err) < 0);
        assert_non_null(strstr(err.text, "phaul.conf:2: line longer"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(defaults_without_a_file, setup, teardown),
                cmocka_unit_test_setup_teardown(later_files_win, setup, teardown),
                cmocka_unit_test_setup_teardown(mistakes_are_named, setup, teardown),
                cmocka_unit_test_setup_teardown(long_lines_are_refused, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
