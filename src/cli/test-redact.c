/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* No secret gets into a bug report, and what helps does; and its archive is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "cli/redact.h"
#include "cli/tar.h"

static void secrets_are_found_in_any_dress(void **state)
{
        static const char *const texts[] = {
                "password=HUNTER2",
                "password = HUNTER2 HUNTER2",
                "db.Password: 'HUNTER2'",
                "{\"token\": \"HUNTER2\"}",
                "{\"a\":1,\"API_KEY\":\"HUNTER2\"}",
                "mysql --user=x --password HUNTER2 --host=y",
                "started with -e SECRET_KEY=HUNTER2 -e OTHER=HUNTER2",
                "Authorization: Bearer HUNTER2",
                "postgres://me:HUNTER2@db/x",
                "-----BEGIN PRIVATE KEY-----\nHUNTER2\nHUNTER2\n-----END PRIVATE KEY-----\n",
                "key is -----BEGIN EC PRIVATE KEY-----\nHUNTER2\n",
                "code 0HUN2-TER20-ABCDE-HUNTE-HUNTE on beta",
                "code 0hunt-er2ab-abcde-hunte-hunte on beta",
                "//nas/x /mnt cifs rw,password=HUNTER2,uid=0 0 0",
                "MYSQL_PWD=HUNTER2",
        };

        (void)state;
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                AUTO_FREE char *clean = redact_text(texts[i]);
                assert_non_null(clean);
                assert_null(strcasestr(clean, "hunt"));
                assert_non_null(strstr(clean, "[redacted]"));
        }
}

static void what_helps_stays(void **state)
{
        static const char *const texts[] = {
                "2026-03-01 beta gave no token for data connections\n",
                "Error (criu/cr-dump.c:1): Can't dump /dev/null: -22\n",
                "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 - ext3 /dev/root rw,errors=continue\n",
                "id 0123456789abcdef0123456789abcdef on 10.77.0.11:12345, fe80::1\n",
                "CONFIG_CHECKPOINT_RESTORE=y\n\n# CONFIG_MEM_SOFT_DIRTY is not set\n",
        };

        (void)state;
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                AUTO_FREE char *clean = redact_text(texts[i]);
                assert_string_equal(clean, texts[i]);
        }
}

/* After the end of a block, text is text again. */
static void a_block_ends(void **state)
{
        (void)state;
        AUTO_FREE char *clean = redact_text("a\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\nb\x1b\n");
        assert_string_equal(clean, "a\n[redacted]\nb?\n");
}

static void a_container_keeps_its_shape(void **state)
{
        static const char text[] = "# Parameters passed to the template: --pw HUNTER2\n"
                                   "lxc.net.0.type = veth\n"
                                   " lxc.idmap = u 0 100000 65536\n"
                                   "lxc.environment = A=HUNTER2\n"
                                   "lxc.init.cmd = /bin/x HUNTER2\n"
                                   "lxc.hook.start = /bin/y HUNTER2\n"
                                   "lxc.mount.entry = //nas/x mnt cifs password=HUNTER2 0 0\n";

        (void)state;
        AUTO_FREE char *clean = redact_lxc_config(text);
        assert_string_equal(clean, "# [redacted]\n"
                                   "lxc.net.0.type = veth\n"
                                   " lxc.idmap = u 0 100000 65536\n"
                                   "lxc.environment = [redacted]\n"
                                   "lxc.init.cmd = [redacted]\n"
                                   "lxc.hook.start = [redacted]\n"
                                   "lxc.mount.entry = //nas/x mnt cifs password=[redacted]\n");
}

static void documents_are_redacted_by_their_keys(void **state)
{
        json_t *document =
                json_pack("{s:s, s:[s,s], s:{s:s, s:i, s:n}, s:s, s:s, s:s, s:[{s:s, s:i}]}", "command", "x HUNTER2",
                          "argv", "HUNTER2", "HUNTER2", "inner", "token", "HUNTER2", "password", 12345678, "cookie",
                          "name", "shop", "config", "lxc.environment = HUNTER2\nlxc.uts.name = shop\n", "description",
                          "{\"env\":[\"HUNTER2\"],\"bridge\":\"br0\"}", "processes", "command", "HUNTER2", "pid", 7);

        (void)state;
        assert_non_null(document);
        assert_int_equal(redact_json(document), 0);
        AUTO_FREE char *text = json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS);
        assert_null(strstr(text, "HUNTER2"));
        assert_null(strstr(text, "12345678"));
        assert_non_null(strstr(text, "\"name\":\"shop\""));
        assert_non_null(strstr(text, "lxc.uts.name = shop"));
        assert_non_null(strstr(text, "br0"));
        assert_non_null(strstr(text, "\"pid\":7"));
        json_decref(document);
}

static void an_archive_of_two_files(void **state)
{
        unsigned char archive[8192];
        char long_name[120];

        (void)state;
        memset(long_name, 'x', sizeof(long_name) - 1);
        long_name[sizeof(long_name) - 1] = '\0';
        AUTO_FD int fd = memfd_create("archive", MFD_CLOEXEC);
        assert_int_equal(tar_add(fd, "a/b", "hello", 5, 1000), 0);
        assert_int_equal(tar_add(fd, "a/empty", "", 0, 1000), 0);
        assert_true(tar_add(fd, long_name, "", 0, 1000) < 0);
        assert_int_equal(tar_end(fd), 0);
        assert_int_equal(pread(fd, archive, sizeof(archive), 0), 5 * 512);
        assert_string_equal(archive, "a/b");
        assert_memory_equal(archive + 124, "00000000005", 12);
        assert_memory_equal(archive + 257, "ustar\00000", 8);
        assert_memory_equal(archive + 512, "hello\0", 6);
        unsigned sum = 0;
        for (int i = 0; i < 512; i++)
                sum += i >= 148 && i < 156 ? ' ' : archive[i];
        assert_int_equal(strtoul((const char *)archive + 148, NULL, 8), sum);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(secrets_are_found_in_any_dress),
                cmocka_unit_test(what_helps_stays),
                cmocka_unit_test(a_block_ends),
                cmocka_unit_test(a_container_keeps_its_shape),
                cmocka_unit_test(documents_are_redacted_by_their_keys),
                cmocka_unit_test(an_archive_of_two_files),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
