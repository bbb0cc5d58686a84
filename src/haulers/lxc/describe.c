/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define NETWORKS_MAX 64
#define ITEM_MAX (256 * 1024)

char *item(struct lxc_container *c, const char *key)
{
        int n = c->get_config_item(c, key, NULL, 0);

        if (n <= 0 || n > ITEM_MAX)
                return strdup("");
        char *value = calloc(1, (size_t)n + 1);
        if (value && c->get_config_item(c, key, value, n + 1) < 0)
                value[0] = '\0';
        if (value && strcmp(value, "(null)") == 0) /* how liblxc prints an unset string */
                value[0] = '\0';
        return value;
}

static json_t *string_item(struct lxc_container *c, const char *key)
{
        AUTO_FREE char *value = item(c, key);

        if (value)
                value[strcspn(value, "\n")] = '\0';
        return json_string(value ? value : "");
}

/* One string per line of a value. */
static json_t *lines_of(struct lxc_container *c, const char *key)
{
        AUTO_FREE char *value = item(c, key);
        json_t *list = json_array();
        char *save = NULL;

        for (char *line = value ? strtok_r(value, "\n", &save) : NULL; line && list; line = strtok_r(NULL, "\n", &save))
                (void)json_array_append_new(list, json_string(line));
        return list;
}

static bool is_directory(const char *path)
{
        struct stat st;

        return path[0] == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/*
 * liblxc splits "overlay:/lower:/upper" when it loads it and hands out what follows the first colon. What is left with
 * a colon in it and nothing but directories between colons is an overlay; one directory is "dir" (or something that
 * behaves as one, such as a btrfs subvolume); anything else is a device or an image.
 */
json_t *describe_rootfs(struct lxc_container *c)
{
        AUTO_FREE char *path = item(c, "lxc.rootfs.path");
        json_t *rootfs = json_object(), *lowers = json_array();

        if (!path || !rootfs || !lowers) {
                json_decref(rootfs);
                json_decref(lowers);
                return NULL;
        }
        const char *known[] = {"overlay:", "overlayfs:", "dir:"};
        const char *start = path;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
                if (strncmp(path, known[i], strlen(known[i])) == 0)
                        start = path + strlen(known[i]);
        (void)json_object_set_new(rootfs, "path", json_string(start));

        const char *backing = is_directory(start) ? "dir" : "other";
        if (strchr(start, ':')) {
                AUTO_FREE char *copy = strdup(start);
                char *save = NULL, *last = NULL;
                backing = "overlay";
                for (char *part = copy ? strtok_r(copy, ":", &save) : NULL; part; part = strtok_r(NULL, ":", &save)) {
                        if (last)
                                (void)json_array_append_new(lowers, json_string(last));
                        if (!is_directory(part))
                                backing = "other";
                        last = part;
                }
                if (last)
                        (void)json_object_set_new(rootfs, "upper", json_string(last));
        }
        (void)json_object_set_new(rootfs, "lowers", lowers);
        (void)json_object_set_new(rootfs, "backing", json_string(backing));
        return rootfs;
}

static json_t *describe_networks(struct lxc_container *c)
{
        static const char *const parts[] = {"link",      "name",  "hwaddr",       "veth.pair",
                                            "veth.mode", "flags", "ipv4.address", "ipv6.address"};
        json_t *list = json_array();

        for (int i = 0; i < NETWORKS_MAX && list; i++) {
                char key[64];

                (void)snprintf(key, sizeof(key), "lxc.net.%d.type", i);
                AUTO_FREE char *type = item(c, key);
                if (!type || !type[0])
                        continue;
                json_t *network = json_pack("{si ss}", "index", i, "type", type);
                for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++) {
                        (void)snprintf(key, sizeof(key), "lxc.net.%d.%s", i, parts[k]);
                        (void)json_object_set_new(network, parts[k], string_item(c, key));
                }
                (void)json_array_append_new(list, network);
        }
        return list;
}

/* Bind mounts of lxc.mount.entry, which CRIU must be told as external: just those that liblxc tells it on a restore. */
static json_t *describe_mounts(struct lxc_container *c)
{
        AUTO_FREE char *entries = item(c, "lxc.mount.entry");
        json_t *list = json_array();
        char buffer[4096];
        struct mntent entry;

        if (!entries || !entries[0])
                return list;
        AUTO_FILE FILE *f = fmemopen(entries, strlen(entries), "r");
        while (f && list && getmntent_r(f, &entry, buffer, sizeof(buffer)))
                if (hasmntopt(&entry, "bind") || hasmntopt(&entry, "rbind"))
                        (void)json_array_append_new(list, json_pack("{ss ss sb}", "source", entry.mnt_fsname, "target",
                                                                    entry.mnt_dir, "optional",
                                                                    hasmntopt(&entry, "optional") != NULL));
        return list;
}

/* Programs and files of the host that the configuration names. */
static json_t *describe_files(struct lxc_container *c)
{
        static const char *const keys[] = {
                "lxc.hook.pre-start", "lxc.hook.pre-mount",  "lxc.hook.mount",  "lxc.hook.autodev",
                "lxc.hook.start",     "lxc.hook.start-host", "lxc.hook.stop",   "lxc.hook.post-stop",
                "lxc.hook.clone",     "lxc.hook.destroy",    "lxc.mount.fstab", "lxc.seccomp.profile",
        };
        json_t *files = json_object();

        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && files; i++) {
                json_t *lines = lines_of(c, keys[i]);
                if (json_array_size(lines))
                        (void)json_object_set(files, keys[i], lines);
                json_decref(lines);
        }
        return files;
}

/*
 * What liblxc does when it starts a container and not when it restores one (6.0.4, criu.c, do_restore()), and CRIU does
 * not do either: not in force after a live migration, until the next start. The device filter of cgroup v2 is a BPF
 * program.
 */
static json_t *describe_start_only(struct lxc_container *c)
{
        static const char *const keys[] = {"lxc.cgroup2.devices.deny", "lxc.cgroup2.devices.allow", "lxc.sched.core",
                                           "lxc.hook.start-host"};
        static const char *const parts[] = {"script.up",           "l2proxy",         "veth.ipv4.route",
                                            "veth.ipv6.route",     "veth.n_rxqueues", "veth.vlan.id",
                                            "veth.vlan.tagged.id", "veth.n_txqueues"};
        json_t *list = json_array();
        char key[64];

        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && list; i++) {
                AUTO_FREE char *value = item(c, keys[i]);
                if (value && value[0] && strcmp(value, "0") != 0)
                        (void)json_array_append_new(list, json_string(keys[i]));
        }
        for (int i = 0; i < NETWORKS_MAX && list; i++) {
                (void)snprintf(key, sizeof(key), "lxc.net.%d.type", i);
                AUTO_FREE char *type = item(c, key);
                for (size_t k = 0; type && type[0] && k < sizeof(parts) / sizeof(parts[0]); k++) {
                        (void)snprintf(key, sizeof(key), "lxc.net.%d.%s", i, parts[k]);
                        AUTO_FREE char *value = item(c, key);
                        if (value && value[0] && strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
                                (void)json_array_append_new(list, json_string(key));
                }
        }
        return list;
}

int describe_config(struct lxc_container *c, json_t *object, struct error *err)
{
        static const char *const strings[][2] = {
                {"console", "lxc.console.path"},          {"tty_max", "lxc.tty.max"},
                {"autostart", "lxc.start.auto"},          {"apparmor", "lxc.apparmor.profile"},
                {"selinux", "lxc.selinux.context"},       {"ephemeral", "lxc.ephemeral"},
                {"cgroup_dir", "lxc.cgroup.dir"},         {"cgroup_container_dir", "lxc.cgroup.dir.container"},
                {"share_net", "lxc.namespace.share.net"}, {"share_pid", "lxc.namespace.share.pid"},
                {"share_ipc", "lxc.namespace.share.ipc"},
        };
        int r = 0;

        for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
                r |= json_object_set_new(object, strings[i][0], string_item(c, strings[i][1]));
        r |= json_object_set_new(object, "rootfs", describe_rootfs(c));
        r |= json_object_set_new(object, "networks", describe_networks(c));
        r |= json_object_set_new(object, "mounts", describe_mounts(c));
        r |= json_object_set_new(object, "files", describe_files(c));
        r |= json_object_set_new(object, "start_only", describe_start_only(c));
        r |= json_object_set_new(object, "idmaps", lines_of(c, "lxc.idmap"));
        return r ? error_set(err, ENOMEM, "out of memory") : 0;
}
