/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What of the LXC hauler needs no container: texts taken apart and put together. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "haulers/lxc/lxc.h"

/* The root file system is replaced, wherever and however often it was set; everything else stays to the byte. */
static void configuration_is_rewritten(void **state)
{
        static const char text[] = "# a comment: lxc.rootfs.path = no\n"
                                   "lxc.include = /usr/share/lxc/config/common.conf\n"
                                   "lxc.uts.name = web\n"
                                   "  lxc.rootfs.path=overlay:/a:/b\n"
                                   "lxc.rootfs.options = noatime\n"
                                   "\n"
                                   "lxc.rootfs.path \t = dir:/c\n"
                                   "lxc.net.0.type = veth";
        AUTO_FREE char *out = NULL;

        (void)state;
        assert_int_equal(lxc_config_rewrite(text, "dir:/var/lib/lxc/web/rootfs", &out, NULL), 0);
        assert_string_equal(out, "# a comment: lxc.rootfs.path = no\n"
                                 "lxc.include = /usr/share/lxc/config/common.conf\n"
                                 "lxc.uts.name = web\n"
                                 "lxc.rootfs.options = noatime\n"
                                 "\n"
                                 "lxc.net.0.type = veth\n"
                                 "lxc.rootfs.path = dir:/var/lib/lxc/web/rootfs\n");
        AUTO_FREE char *alone = NULL;
        assert_int_equal(lxc_config_rewrite("", "dir:/x", &alone, NULL), 0);
        assert_string_equal(alone, "lxc.rootfs.path = dir:/x\n");
        assert_int_equal(lxc_config_rewrite("", "dir:/x\nlxc.hook.start = /bin/evil", &out, NULL), -EINVAL);
}

/* What root of a container is outside, from maps in any order. */
static void mapped_ids(void **state)
{
        static const struct {
                const char *maps;
                int result;
                uid_t uid;
                gid_t gid;
        } cases[] = {
                {"[\"u 0 100000 65536\",\"g 0 200000 65536\"]", 0, 100000, 200000},
                {"[\"u 1000 1000 1\",\"g 5 5 1\",\"b 0 300000 1000\"]", 0, 300000, 300000},
                {"[\"u 0 100000 65536\"]", -EOPNOTSUPP, 0, 0},
                {"[\"u 1 100000 65536\",\"g 0 100000 65536\"]", -EOPNOTSUPP, 0, 0},
                {"[\"u 0 4294967290 65536\",\"g 0 100000 65536\"]", -EOPNOTSUPP, 0, 0},
                {"[\"nonsense\"]", -EOPNOTSUPP, 0, 0},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                json_t *info = json_pack("{s:o}", "idmaps", json_loads(cases[i].maps, 0, NULL));
                struct error err = {0};
                uid_t uid = 0;
                gid_t gid = 0;
                assert_true(lxc_is_idmapped(info));
                assert_int_equal(lxc_idmap_root(info, &uid, &gid, &err), cases[i].result);
                assert_int_equal(uid, cases[i].uid);
                assert_int_equal(gid, cases[i].gid);
                assert_int_equal(err.kind, cases[i].result ? ERROR_REFUSED : ERROR_NONE);
                json_decref(info);
        }
        json_t *none = json_pack("{s:[]}", "idmaps");
        assert_false(lxc_is_idmapped(none));
        json_decref(none);
}

static void expect_freezer(const char *mounts, const char *cgroups, const char *path, bool v2)
{
        AUTO_FREE char *found = NULL;
        struct error err = {0};
        bool is_v2;

        json_t *list = json_loads(cgroups, 0, NULL);
        assert_non_null(list);
        int r = lxc_freezer_find(mounts, list, &found, &is_v2, &err);
        json_decref(list);
        if (!path) {
                assert_true(r < 0);
                assert_int_equal(err.kind, ERROR_REFUSED);
                return;
        }
        assert_int_equal(r, 0);
        assert_string_equal(found, path);
        assert_int_equal(is_v2, v2);
}

static void expect_cpu(const char *mounts, const char *cgroups, const char *path)
{
        AUTO_FREE char *found = NULL;
        json_t *list = json_loads(cgroups, 0, NULL);

        assert_int_equal(lxc_cpu_find(mounts, list, &found), path ? 0 : -ENOENT);
        json_decref(list);
        if (path)
                assert_string_equal(found, path);
}

/* The freezer is found on the three kinds of host there are, and nowhere else. */
static void freezer_is_found(void **state)
{
        static const char legacy[] = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
                                     "cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n";
        static const char unified[] = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        static const char hybrid[] = "cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n"
                                     "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        static const char two[] = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
                                  "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";

        (void)state;
        expect_freezer(legacy, "[{\"controllers\":\"freezer\",\"path\":\"/lxc.payload.web\"}]",
                       "/sys/fs/cgroup/freezer/lxc.payload.web", false);
        expect_freezer(unified, "[{\"controllers\":\"\",\"path\":\"/lxc.payload.web\"}]",
                       "/sys/fs/cgroup/lxc.payload.web", true);
        expect_freezer(hybrid,
                       "[{\"controllers\":\"freezer\",\"path\":\"/lxc.payload.web\"},"
                       "{\"controllers\":\"\",\"path\":\"/lxc.payload.web\"}]",
                       "/sys/fs/cgroup/freezer/lxc.payload.web", false);
        expect_freezer(two, "[{\"controllers\":\"\",\"path\":\"/lxc.payload.web\"}]",
                       "/sys/fs/cgroup/unified/lxc.payload.web", true);
        expect_freezer(two, "[{\"controllers\":\"memory\",\"path\":\"/lxc.payload.web\"}]", NULL, false);
        expect_freezer("", "[]", NULL, false);

        static const char cgroups[] = "[{\"controllers\":\"cpu,cpuacct\",\"path\":\"/lxc.payload.web\"},"
                                      "{\"controllers\":\"\",\"path\":\"/lxc.payload.web\"}]";
        expect_cpu(legacy, cgroups, "/sys/fs/cgroup/cpu,cpuacct/lxc.payload.web");
        expect_cpu(unified, cgroups, "/sys/fs/cgroup/lxc.payload.web");
        expect_cpu(two, "[{\"controllers\":\"cpuset\",\"path\":\"/lxc.payload.web\"}]", NULL);
}

static void networks_are_named_as_liblxc_does(void **state)
{
        char name[16];

        (void)state;
        json_t *unnamed = json_pack("{si ss}", "index", 7, "name", "");
        json_t *named = json_pack("{si ss}", "index", 7, "name", "lan");
        assert_string_equal(lxc_network_name(unnamed, 1, name), "eth1");
        assert_string_equal(lxc_network_name(named, 1, name), "lan");
        json_decref(unnamed);
        json_decref(named);
        lxc_veth_name("0123456789abcdef0123456789abcdef", 12, name);
        assert_string_equal(name, "ph0123456712");
}

/* An address counts as a whole, in a network key, and not in a comment. */
static void addresses_are_found(void **state)
{
        static const char text[] = "lxc.net.0.hwaddr = 00:16:3E:aa:bb:cc\n# lxc.net.0.ipv4.address = 10.0.0.9/24\n"
                                   "lxc.uts.name = 10.0.0.8\n  lxc.net.0.ipv4.address=10.0.0.5/24\n"
                                   "lxc.net.1.ipv4.address = 10.0.0.77";

        (void)state;
        assert_true(lxc_config_has_address(text, "00:16:3e:aa:bb:cc"));
        assert_true(lxc_config_has_address(text, "10.0.0.5"));
        assert_false(lxc_config_has_address(text, "10.0.0.7"));
        assert_false(lxc_config_has_address(text, "10.0.0.8"));
        assert_false(lxc_config_has_address(text, "10.0.0.9"));
        assert_false(lxc_config_has_address("", "10.0.0.5"));
}

static void profiles_are_found(void **state)
{
        static const char text[] = "lxc-container-default (enforce)\n/usr/bin/man (enforce)\na b (complain)\n";

        (void)state;
        assert_true(lxc_profile_loaded(text, "lxc-container-default"));
        assert_true(lxc_profile_loaded(text, "a b"));
        assert_false(lxc_profile_loaded(text, "lxc-container"));
        assert_false(lxc_profile_loaded("", "lxc-container"));
}

/* A discard gets its names from a record; what does not look like one of ours is left alone. */
static void strange_leftovers_are_refused(void **state)
{
        struct error err = {0};

        (void)state;
        assert_int_equal(lxc_discard("directory", "/var/lib/lxc/web", &err), -EINVAL);
        assert_int_equal(lxc_discard("directory", "/var/lib/lxc/web#", &err), -EINVAL);
        assert_int_equal(lxc_discard("directory", "/var/lib/lxc/web#0123", &err), -EINVAL);
}

/* A start that failed: only liblxc's word that it failed before init began lets the original run again. */
static void failed_starts_are_understood(void **state)
{
        (void)state;
        assert_false(lxc_start_may_have_run(
                "lxc web 2026 ERROR conf - ../src/lxc/conf.c:run_buffer:321 - Script exited with "
                "status 1\n"));
        assert_true(lxc_start_may_have_run(
                "lxc web 2026 NOTICE start - ../src/lxc/start.c:start:2205 - Exec'ing "
                "\"/sbin/init\"\nlxc web 2026 ERROR start - Received container state STOPPING\n"));
        assert_true(lxc_start_may_have_run("lxc web 2026 INFO start - Initialized LSM\n"));
        assert_true(lxc_start_may_have_run(""));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(configuration_is_rewritten),
                cmocka_unit_test(mapped_ids),
                cmocka_unit_test(freezer_is_found),
                cmocka_unit_test(networks_are_named_as_liblxc_does),
                cmocka_unit_test(addresses_are_found),
                cmocka_unit_test(profiles_are_found),
                cmocka_unit_test(strange_leftovers_are_refused),
                cmocka_unit_test(failed_starts_are_understood),
        };

        return cmocka_run_group_tests_name("lxc", tests, NULL, NULL);
}
