/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "migration/options.h"

static int parse(const char *text, const char *kind, struct migration_options *ret, struct error *err)
{
        json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

        assert_non_null(object);
        int r = migration_options_parse(object, kind, ret, err);
        json_decref(object);
        return r;
}

/* Everything that can be said comes back as it was said, and what was not said does not. */
static void test_there_and_back(void **unused)
{
        static const char *const said[] = {"{}",
                                           "{\"timeout_s\":60}",
                                           "{\"bandwidth\":1000000,\"via\":\"192.0.2.1\"}",
                                           "{\"via\":\"2001:db8::1\"}",
                                           "{\"mode\":\"restart\",\"no_start\":true,\"stop_timeout_s\":5}",
                                           "{\"files\":\"shared\",\"force\":true,\"keep_images\":true}",
                                           "{\"images_dir\":\"/srv/images\",\"skip_cpu_check\":true}",
                                           "{\"skip_criu_check\":true,\"verbose\":true}"};

        (void)unused;
        for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
                struct migration_options o;
                struct error err = {0};
                assert_int_equal(parse(said[i], "lxc", &o, &err), 0);
                json_t *object = migration_options_json(&o);
                char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
                assert_string_equal(text, said[i]);
                free(text);
                json_decref(object);
        }
}

/* Options of one kind are known to that kind alone. */
static void test_kinds(void **unused)
{
        static const char said[] = "{\"files\":\"shared\",\"new_pid_namespace\":true,\"pid_root\":\"/srv/jail\"}";
        struct migration_options o;
        struct error err = {0};

        (void)unused;
        assert_int_equal(parse(said, "pid", &o, &err), 0);
        assert_true(o.new_pid_namespace && o.files == MOVE_SHARED);
        assert_string_equal(o.pid_root, "/srv/jail");
        json_t *object = migration_options_json(&o);
        char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
        assert_string_equal(text, said);
        free(text);
        json_decref(object);
        assert_int_equal(parse("{\"pid_root\":\"/srv/jail\"}", "lxc", &o, &err), -EINVAL);
        assert_non_null(strstr(err.text, "pid_root is not for"));
        assert_int_equal(parse("{\"pid_root\":\"/srv/../etc\"}", "pid", &o, &err), -EINVAL);
        assert_int_equal(parse("{\"new_pid_namespace\":1}", "pid", &o, &err), -EINVAL);
}

/* What is wrong is named by its key, and the caller's options stay as they are. */
static void test_refused(void **unused)
{
        static const struct {
                const char *text, *named;
        } wrong[] = {
                {"{\"timeout_s\":0}", "timeout_s"},
                {"{\"timeout_s\":604801}", "timeout_s"},
                {"{\"timeout_s\":-1}", "timeout_s"},
                {"{\"timeout_s\":\"60\"}", "timeout_s"},
                {"{\"bandwidth\":999}", "bandwidth"},
                {"{\"via\":\"beta\"}", "via"},
                {"{\"via\":\"10.0.0.1; reboot\"}", "via"},
                {"{\"mode\":\"dead\"}", "mode"},
                {"{\"mode\":0}", "mode"},
                {"{\"no_start\":true}", "no_start"}, /* live it is there and runs, or it is not there */
                {"{\"stop_timeout_s\":5}", "stop_timeout_s"},
                {"{\"files\":\"rsync\"}", "files"},
                {"{\"force\":1}", "force"},
                {"{\"images_dir\":\"images\"}", "images_dir"},
                {"{\"images_dir\":\"/srv/../etc\"}", "images_dir"},
                {"{\"speed\":1}", "speed"},
                {"{\"a\\u0001b\":1}", "a\\x01b"},
                {"[]", "object"},
        };

        (void)unused;
        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                struct migration_options o = {.timeout_s = 7};
                struct error err = {0};
                assert_int_equal(parse(wrong[i].text, "lxc", &o, &err), -EINVAL);
                assert_int_equal(err.kind, ERROR_USAGE);
                assert_non_null(strstr(err.text, wrong[i].named));
                assert_int_equal(o.timeout_s, 7);
        }
}

/* The table is whole: a name and help for people, a member of the size its type writes, a flag nobody else has. */
static void test_table(void **unused)
{
        char flag[64], other[64];

        (void)unused;
        for (const struct option_info *info = migration_option_table; info->key; info++) {
                assert_non_null(info->help);
                assert_true((info->type == OPTION_FLAG) == (info->argument == NULL));
                assert_true((info->type == OPTION_WORD) == (info->words != NULL));
                assert_true(info->offset + info->size <= sizeof(struct migration_options));
                if (info->type == OPTION_FLAG)
                        assert_int_equal(info->size, sizeof(bool));
                if (info->type == OPTION_NUMBER || info->type == OPTION_RATE)
                        assert_int_equal(info->size, sizeof(uint64_t));
                (void)migration_option_flag(info, flag, sizeof(flag));
                assert_null(strchr(flag, '_'));
                for (const struct option_info *next = info + 1; next->key; next++)
                        assert_string_not_equal(flag, migration_option_flag(next, other, sizeof(other)));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_there_and_back),
                cmocka_unit_test(test_kinds),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_table),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
