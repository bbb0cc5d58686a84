/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "network/network.h"

int lxc_list(json_t **ret, struct error *err)
{
        char program[256];

        /* A host without LXC has no containers; that is not an error. */
        if (access(lxc_program("phaul-lxc", program, sizeof(program)), X_OK) < 0 && errno == ENOENT) {
                *ret = json_array();
                return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
        }
        return lxc_tool(5000, ret, err, "list", NULL);
}

static int refuse_state(const json_t *info, bool restart, struct error *err)
{
        const char *id = json_text(info, "id"), *state = json_text(info, "state");

        if (restart && strcmp(state, "stopped") == 0)
                return 0;
        if (strcmp(state, "running") != 0)
                return error_set_kind(
                        err, ERROR_REFUSED, EINVAL, "container '%s' is %s, only a running one%s can be migrated%s", id,
                        state, restart ? " or a stopped one" : "",
                        !restart && strcmp(state, "stopped") == 0 ? " live; --mode restart moves it" : "");
        if (json_integer_value(json_object_get(info, "init_pid")) <= 1)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "container '%s' has no process", id);
        return 0;
}

/* What can be neither copied nor released. */
static int refuse_config(const json_t *info, struct error *err)
{
        const json_t *rootfs = json_object_get(info, "rootfs");
        const char *backing = json_text(rootfs, "backing");

        uid_t uid;
        gid_t gid;
        if (lxc_is_idmapped(info) && lxc_idmap_root(info, &uid, &gid, err) < 0)
                return -EOPNOTSUPP;
        if (strcmp(backing, "dir") != 0 && strcmp(backing, "overlay") != 0)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "the root file system '%.256s' is neither a directory nor an overlay of them",
                                      json_text(rootfs, "path"));
        if (strcmp(backing, "overlay") == 0 && json_array_size(json_object_get(rootfs, "lowers")) != 1)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "an overlay with more than one lower directory cannot be migrated yet");
        /* liblxc deletes it as soon as it stops, which is what a release looks like. */
        if (strcmp(json_text(info, "ephemeral"), "1") == 0)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP, "ephemeral containers cannot be migrated");
        if (json_text(info, "cgroup_dir")[0] || json_text(info, "cgroup_container_dir")[0])
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP, "lxc.cgroup.dir is set, which is not supported");
        return 0;
}

/* What CRIU or liblxc's use of it cannot carry. */
static int refuse_checkpoint(const json_t *info, struct error *err)
{
        static const char *const shared[] = {"share_net", "share_pid", "share_ipc"};

        for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
                if (json_text(info, shared[i])[0])
                        return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                              "it shares a namespace with '%.64s' (lxc.namespace.%s)",
                                              json_text(info, shared[i]), shared[i]);
        /* liblxc would hand CRIU the path of a new terminal, which CRIU cannot open from where it looks (open_tree). */
        if (strcmp(json_text(info, "console"), "none") != 0)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "its console is a terminal of this host; set lxc.console.path = none");
        return 0;
}

/* What the kernel has must be what the configuration says: CRIU is told by name which veth is which. */
static int refuse_network(const json_t *info, pid_t pid, hauler_report_fn report, void *context, struct error *err)
{
        const json_t *network, *networks = json_object_get(info, "networks");
        AUTO_FREE struct network_port *ports = NULL;
        size_t n, i, configured = 0;
        char name[16], text[160];

        int r = network_ports(pid, &ports, &n, err);
        if (r < 0) {
                if (err)
                        err->kind = ERROR_REFUSED;
                return r;
        }
        json_array_foreach(networks, i, network)
        {
                const char *type = json_text(network, "type");
                if (strcmp(type, "empty") == 0)
                        continue;
                if (strcmp(type, "veth") != 0 || strcmp(json_text(network, "veth.mode"), "router") == 0)
                        return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                              "a network of type '%s' cannot be migrated, only veth on a bridge", type);
                (void)lxc_network_name(network, i, name);
                size_t k = 0;
                while (k < n && strcmp(ports[k].inside, name) != 0)
                        k++;
                if (k == n)
                        return error_set_kind(err, ERROR_REFUSED, ENODEV, "interface %s is missing inside", name);
                if (!ports[k].bridge[0])
                        return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP, "%s (%s outside) is on no bridge", name,
                                              ports[k].outside);
                if (network_bridge_delays(ports[k].bridge)) {
                        (void)snprintf(text, sizeof(text),
                                       "bridge %s runs spanning tree: after a failed migration the network comes back "
                                       "only after its delay",
                                       ports[k].bridge);
                        report("bridge", GRADE_WARNING, text, context);
                }
                configured++;
        }
        if (configured != n)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "there are %zu interfaces inside and %zu in the configuration", n, configured);
        return 0;
}

/* Is the device filter that of cgroup v2? With version 1 it is a file that CRIU carries. */
static bool filters_by_v2(const json_t *info)
{
        const json_t *entry;
        size_t i;

        json_array_foreach(json_object_get(info, "cgroups"), i, entry)
        {
                if (strstr(json_text(entry, "controllers"), "devices"))
                        return false;
        }
        return true;
}

static void report_start_only(const json_t *info, hauler_report_fn report, void *context)
{
        char text[700] = "";
        const json_t *entry;
        size_t i;

        json_array_foreach(json_object_get(info, "start_only"), i, entry)
        {
                const char *key = json_string_value(entry) ?: "";
                const size_t n = strlen(text);
                if (strncmp(key, "lxc.cgroup2.devices", 19) != 0 || filters_by_v2(info))
                        (void)snprintf(text + n, sizeof(text) - n, "%s%.64s", n ? ", " : "", key);
        }
        if (!text[0])
                return;
        const size_t n = strlen(text);
        (void)snprintf(text + n, sizeof(text) - n,
                       ": not in force after a live migration, until the container is started anew. Do by hand on the "
                       "target what they stand for, or use --mode restart");
        report("keys", GRADE_WARNING, text, context);
}

static void report_config(const json_t *info, bool restart, hauler_report_fn report, void *context)
{
        const json_t *mount;
        char text[512];
        size_t i;

        if (!restart)
                report_start_only(info, report, context);
        if (!restart && strcmp(json_text(info, "tty_max"), "0") != 0 && json_text(info, "tty_max")[0])
                report("tty", GRADE_WARNING,
                       "lxc.tty.max is not 0: a process that has such a terminal open cannot be moved", context);
        if (strcmp(json_text(info, "autostart"), "1") == 0)
                report("autostart", GRADE_WARNING,
                       "lxc.start.auto is set: should this host crash and boot between the commit and the release, "
                       "lxc-autostart would start the copy that is left here",
                       context);
        json_array_foreach(json_object_get(info, "mounts"), i, mount)
        {
                (void)snprintf(text, sizeof(text), "%.200s is mounted from %.200s, whose content is not moved",
                               json_text(mount, "target"), json_text(mount, "source"));
                report("mount", GRADE_WARNING, text, context);
        }
        if (json_object_size(json_object_get(info, "files")))
                report("hook", GRADE_WARNING,
                       "hooks, fstab or seccomp files of this host are named in the configuration: they must be the "
                       "same on the target, and stop hooks run here at the end",
                       context);
}

static char *describe(const json_t *info)
{
        json_t *d = json_object();

        if (!d)
                return NULL;
        (void)json_object_set_new(d, "format", json_integer(1));
        (void)json_object_set(d, "lxc", json_object_get(info, "version"));
        (void)json_object_set(d, "config", json_object_get(info, "config"));
        (void)json_object_set(d, "includes", json_object_get(info, "includes"));
        (void)json_object_set(d, "networks", json_object_get(info, "networks"));
        (void)json_object_set(d, "rootfs", json_object_get(json_object_get(info, "rootfs"), "path"));
        (void)json_object_set(d, "backing", json_object_get(json_object_get(info, "rootfs"), "backing"));
        const json_t *rootfs = json_object_get(info, "rootfs");
        if (strcmp(json_text(rootfs, "backing"), "overlay") == 0)
                (void)json_object_set_new(d, "trees",
                                          json_pack("[O? O?]", json_array_get(json_object_get(rootfs, "lowers"), 0),
                                                    json_object_get(rootfs, "upper")));
        else
                (void)json_object_set_new(d, "trees", json_pack("[O?]", json_object_get(rootfs, "path")));
        const pid_t init = (pid_t)json_integer_value(json_object_get(info, "init_pid"));
        json_t *live = init > 0 ? lxc_addresses_describe(init) : NULL;
        if (live)
                (void)json_object_set_new(d, "live", live);
        (void)json_object_set_new(d, "away", json_boolean(init <= 0));
        char *text = json_dumps(d, JSON_COMPACT);
        json_decref(d);
        return text;
}

static int fill_trees(struct workload *w, const struct lxc_private *p)
{
        const json_t *rootfs = json_object_get(p->info, "rootfs");

        w->trees = calloc(2, sizeof(*w->trees));
        if (!w->trees)
                return -ENOMEM;
        w->n_trees = p->overlay ? 2 : 1;
        w->trees[0].label = strdup(p->overlay ? "lower" : "rootfs");
        w->trees[0].source =
                strdup(p->overlay ? json_string_value(json_array_get(json_object_get(rootfs, "lowers"), 0)) ?: ""
                                  : json_text(rootfs, "path"));
        if (!w->trees[0].label || !w->trees[0].source)
                return -ENOMEM;
        if (p->overlay) {
                w->trees[1].label = strdup("upper");
                w->trees[1].source = strdup(json_text(rootfs, "upper"));
                if (!w->trees[1].label || !w->trees[1].source)
                        return -ENOMEM;
        }
        return 0;
}

static int fill(struct workload *w, struct lxc_private *p, struct error *err)
{
        w->init_pid = (pid_t)json_integer_value(json_object_get(p->info, "init_pid"));
        p->lxcpath = strdup(json_text(p->info, "lxcpath"));
        p->base = format_new("%s/%s", json_text(p->info, "lxcpath"), w->id);
        p->overlay = strcmp(json_text(json_object_get(p->info, "rootfs"), "backing"), "overlay") == 0;
        w->description = describe(p->info);
        if (!p->lxcpath || !p->base || !w->description || fill_trees(w, p) < 0)
                return error_set(err, ENOMEM, "out of memory");
        return 0;
}

static bool lies_in(const char *path, const char *directory)
{
        const size_t n = strlen(directory);

        return strncmp(path, directory, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Shared storage stays where it is when the container's own directory is put away here and made there. */
static int refuse_shared(const struct workload *w, const struct lxc_private *p, bool restart, struct error *err)
{
        if (p->overlay && !restart)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "an overlay on shared storage cannot be mounted by both hosts at once, as a live "
                                      "migration would; --mode restart can move it");
        AUTO_FREE char *base = realpath(p->base, NULL);
        for (size_t i = 0; i < w->n_trees; i++) {
                AUTO_FREE char *tree = realpath(w->trees[i].source, NULL);
                if (!tree || !base)
                        return error_errno(err, errno, "cannot look at %s", w->trees[i].source);
                if (lies_in(tree, base) || lies_in(w->trees[i].source, p->base))
                        return error_set_kind(
                                err, ERROR_REFUSED, EINVAL,
                                "%s lies in %s, which is this host's own: shared storage has to be elsewhere",
                                w->trees[i].source, p->base);
        }
        return 0;
}

static int fill_freezer(struct workload *w, const struct lxc_private *p, struct error *err)
{
        AUTO_FREE char *mounts = NULL;

        int r = fd_read_file(AT_FDCWD, "/proc/self/mounts", 1 << 20, &mounts, NULL);
        if (r < 0)
                return error_errno(err, -r, "cannot read the list of mounts");
        r = lxc_freezer_find(mounts, json_object_get(p->info, "cgroups"), &w->freezer, &w->freezer_v2, err);
        if (r < 0)
                return r;
        if (lxc_cpu_find(mounts, json_object_get(p->info, "cgroups"), &w->cpu) == -ENOMEM)
                return error_set(err, ENOMEM, "out of memory");
        w->memory_bytes = lxc_cgroup_memory(w->freezer);
        return 0;
}

int lxc_examine(const char *id, struct workload *w, hauler_report_fn report, void *context, struct error *err)
{
        *w = (struct workload){.hauler = &lxc_hauler, .options = w->options};
        if (!name_is_valid(id))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        struct lxc_private *p = calloc(1, sizeof(*p));
        w->private_data = p;
        w->id = strdup(id);
        if (!p || !w->id)
                return error_set(err, ENOMEM, "out of memory");
        const bool restart = w->options && w->options->mode == MODE_RESTART;
        int r = lxc_tool(5000, &p->info, err, "inspect", id, NULL);
        if (r == 0)
                r = refuse_state(p->info, restart, err);
        if (r == 0)
                r = refuse_config(p->info, err);
        if (r == 0 && !restart)
                r = refuse_checkpoint(p->info, err);
        if (r == 0 && !restart)
                r = refuse_network(p->info, (pid_t)json_integer_value(json_object_get(p->info, "init_pid")), report,
                                   context, err);
        if (r < 0)
                return r;
        report_config(p->info, restart, report, context);
        r = fill(w, p, err);
        if (r == 0 && w->options && w->options->files == MOVE_SHARED)
                r = refuse_shared(w, p, restart, err);
        return r < 0 || restart ? r : fill_freezer(w, p, err);
}
