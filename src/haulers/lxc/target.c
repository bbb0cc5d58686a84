/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "network/network.h"

void lxc_veth_name(const char *token, unsigned index, char buffer[static 16])
{
        (void)snprintf(buffer, 16, "ph%.8s%u", token, index % 1000);
}

/* ----------------------------------------------------------------------------------------------------------- verify */

struct findings {
        hauler_report_fn report;
        void *context;
};

static void say(const struct findings *f, const char *item, enum grade grade, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
static void say(const struct findings *f, const char *item, enum grade grade, const char *format, ...)
{
        char text[512];
        va_list list;

        va_start(list, format);
        (void)vsnprintf(text, sizeof(text), format, list);
        va_end(list);
        f->report(item, grade, text, f->context);
}

static int read_description(const char *description, const char **ret_config, bool *ret_overlay, json_t **ret,
                            struct error *err)
{
        json_error_t where;
        json_t *d = json_loads(description, JSON_REJECT_DUPLICATES, &where);
        const char *config = json_text(d, "config"), *backing = json_text(d, "backing");
        bool overlay = strcmp(backing, "overlay") == 0;

        if (json_integer_value(json_object_get(d, "format")) != 1 || !config[0] ||
            strlen(config) > LXC_CONFIG_MAX / 2 || (!overlay && strcmp(backing, "dir") != 0)) {
                json_decref(d);
                return error_set_kind(err, ERROR_REFUSED, EINVAL,
                                      "the description of the container cannot be understood here");
        }
        *ret_config = config;
        *ret_overlay = overlay;
        *ret = d;
        return 0;
}

static void verify_name(const struct findings *f, const char *id, const struct lxc_private *p)
{
        struct stat st;

        if (lstat(p->base, &st) == 0)
                say(f, "name", GRADE_ERROR, "%s exists already", p->base);
        else if (errno != ENOENT)
                say(f, "name", GRADE_ERROR, "%s cannot be looked at: %s", p->base, strerror(errno));
        else if (lxc_cgroup_populated(id, true))
                say(f, "name", GRADE_ERROR, "a container '%s' runs here", id);
        else
                say(f, "name", GRADE_OK, "the name '%s' is free", id);
}

static void verify_files(const struct findings *f, const json_t *info, const json_t *description)
{
        const json_t *entry, *list;
        const char *key;
        size_t i;
        bool missing = false;

        json_array_foreach(json_object_get(description, "includes"), i, entry)
        {
                const char *path = json_string_value(entry);
                if (!path || access(path, R_OK) < 0) {
                        missing = true;
                        say(f, "include", GRADE_ERROR, "%.256s, which the configuration includes, is missing here",
                            path ? path : "a file");
                }
        }
        json_object_foreach(json_object_get(info, "files"), key, list)
        {
                json_array_foreach(list, i, entry)
                {
                        char path[1024];
                        (void)snprintf(path, sizeof(path), "%s",
                                       json_string_value(entry) ? json_string_value(entry) : "");
                        path[strcspn(path, " \t")] = '\0';
                        if (path[0] == '/' && access(path, F_OK) < 0) {
                                missing = true;
                                say(f, "hook", GRADE_ERROR, "%.256s (%s) is missing here", path, key);
                        }
                }
        }
        json_array_foreach(json_object_get(info, "mounts"), i, entry)
        {
                const char *path = json_text(entry, "source");
                if (access(path, F_OK) < 0 && !json_is_true(json_object_get(entry, "optional"))) {
                        missing = true;
                        say(f, "mount", GRADE_ERROR, "%.256s, which is mounted into the container, is missing here",
                            path);
                }
        }
        if (!missing)
                say(f, "include", GRADE_OK, "all files that the configuration names exist");
}

/* Only one that runs is in the way today. */
static void say_taken(const struct findings *f, const char *owner, const char *what, const char *address)
{
        const bool runs = lxc_cgroup_populated(owner, false);

        say(f, "address", runs ? GRADE_JUDGED : GRADE_WARNING,
            "container '%s', which %s here, has the %s %.64s. Change one", owner, runs ? "runs" : "is stopped", what,
            address);
}

static void verify_addresses(const struct findings *f, const struct lxc_private *p, const json_t *network)
{
        static const char *const families[] = {"ipv4.address", "ipv6.address"};
        char owner[NAME_MAX_LENGTH + 1], address[64];

        for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
                (void)snprintf(address, sizeof(address), "%s", json_text(network, families[i]));
                address[strcspn(address, "/ ")] = '\0';
                if (address[0] && lxc_address_taken(p->lxcpath, address, owner))
                        say_taken(f, owner, "address", address);
        }
}

/* A profile that is not loaded makes the restore fail at its end; "unconfined" and "generated" need none. */
static void verify_security(const struct findings *f, const json_t *info)
{
        const char *profile = json_text(info, "apparmor"), *context = json_text(info, "selinux");
        AUTO_FREE char *loaded = NULL;

        if (context[0] && access("/sys/fs/selinux/enforce", F_OK) < 0)
                say(f, "security", GRADE_ERROR,
                    "lxc.selinux.context is set, and this host has no SELinux. Take it out of the configuration");
        if (!profile[0] || strcmp(profile, "unconfined") == 0 || strcmp(profile, "generated") == 0 ||
            strcmp(profile, "unchanged") == 0)
                return;
        if (fd_read_file(AT_FDCWD, "/sys/kernel/security/apparmor/profiles", 4 << 20, &loaded, NULL) < 0)
                say(f, "security", GRADE_WARNING,
                    "the configuration names the AppArmor profile '%.128s', and the profiles loaded here cannot be "
                    "read",
                    profile);
        else if (!lxc_profile_loaded(loaded, profile))
                say(f, "security", GRADE_ERROR,
                    "the AppArmor profile '%.128s' is not loaded here. Load it with "
                    "apparmor_parser",
                    profile);
}

static void verify_networks(const struct findings *f, const struct lxc_private *p, bool restart)
{
        const json_t *network;
        char owner[NAME_MAX_LENGTH + 1];
        size_t i;

        json_array_foreach(json_object_get(p->info, "networks"), i, network)
        {
                const char *type = json_text(network, "type"), *bridge = json_text(network, "link");
                const char *address = json_text(network, "hwaddr"), *pair = json_text(network, "veth.pair");

                if (strcmp(type, "empty") == 0)
                        continue;
                if (strcmp(type, "veth") != 0 && restart)
                        say(f, "bridge", GRADE_WARNING,
                            "whether a network of type '%.32s' can be made here is not known", type);
                else if (strcmp(type, "veth") != 0)
                        say(f, "bridge", GRADE_ERROR, "a network of type '%.32s' cannot be restored", type);
                else if (restart && !bridge[0])
                        say(f, "bridge", GRADE_OK, "an interface is on no bridge");
                else if (!network_bridge_exists(bridge))
                        say(f, "bridge", GRADE_ERROR, "there is no bridge '%.32s' here", bridge);
                else if (network_bridge_delays(bridge))
                        say(f, "bridge", GRADE_WARNING,
                            "bridge %s runs spanning tree: the network is down for its delay after the migration",
                            bridge);
                else
                        say(f, "bridge", GRADE_OK, "bridge %s exists", bridge);
                if (address[0] && lxc_address_taken(p->lxcpath, address, owner))
                        say_taken(f, owner, "hardware address", address);
                verify_addresses(f, p, network);
                if (pair[0] && network_interface_exists(pair))
                        say(f, "interface", GRADE_WARNING, "the name %.32s of its interface is taken here", pair);
        }
}

static void verify_cgroups(const struct findings *f, const char *id, const struct lxc_private *p, const char *pattern)
{
        if (pattern[0])
                say(f, "cgroup", GRADE_ERROR, "lxc.cgroup.pattern is set here, which is not supported");
        else if (json_text(p->info, "cgroup_dir")[0] || json_text(p->info, "cgroup_container_dir")[0])
                say(f, "cgroup", GRADE_ERROR, "lxc.cgroup.dir is set, which is not supported");
        else if (lxc_cgroup_exists(id))
                say(f, "cgroup", GRADE_WARNING, "empty cgroups of a container '%s' lie about and will be removed", id);
        else
                say(f, "cgroup", GRADE_OK, "cgroups can be made");
}

static void verify_ids(const struct findings *f, const struct lxc_private *p)
{
        char text[512];

        if (lxc_is_idmapped(p->info)) {
                bool ok = lxc_idmap_allowed(p->info, text, sizeof(text));
                say(f, "ids", ok ? GRADE_OK : GRADE_ERROR, "%s", text);
        }
}

/* liblxc reads a file, so it gets one. */
static int load_config(const char *id, struct lxc_private *p, struct error *err)
{
        char path[] = "/tmp/phaul-verify-XXXXXX";

        AUTO_FD int fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot make a temporary file");
        int r = fd_write_all(fd, p->config, strlen(p->config));
        if (r < 0)
                r = error_errno(err, -r, "cannot write %s", path);
        else
                r = lxc_tool(5000, &p->info, err, "verify", path, id, NULL);
        (void)unlink(path);
        return r;
}

/* A path that the other host names, of storage both have: plain, and not where this host keeps its containers. */
static bool is_plain(const char *path, const char *lxcpath)
{
        const size_t n = lxcpath ? strlen(lxcpath) : 0;

        if (n == 0 || path[0] != '/' || !path[1] || strpbrk(path, ":,\\\n") || strlen(path) > 2048 ||
            (strncmp(path, lxcpath, n) == 0 && (path[n] == '/' || !path[n])))
                return false;
        for (const char *part = path; part; part = strchr(part, '/')) {
                part++;
                size_t length = strcspn(part, "/");
                if ((length == 1 && part[0] == '.') || (length == 2 && memcmp(part, "..", 2) == 0))
                        return false;
        }
        return true;
}

/* The trees stay where they are, so the configuration goes on to name them. */
static int shared_paths(struct workload *w, struct lxc_private *p, const char *config, const json_t *description,
                        struct error *err)
{
        const json_t *trees = json_object_get(description, "trees");
        const size_t n = p->overlay ? 2 : 1;
        const char *first = json_string_value(json_array_get(trees, 0)) ?: "";
        const char *second = json_string_value(json_array_get(trees, 1)) ?: "";

        if (json_array_size(trees) != n || !is_plain(first, p->lxcpath) || (n == 2 && !is_plain(second, p->lxcpath)))
                return error_set_kind(err, ERROR_REFUSED, EINVAL,
                                      "the shared directories have no plain paths outside of %s", p->lxcpath);
        AUTO_FREE char *rootfs = n == 2 ? format_new("overlay:%s:%s", first, second) : format_new("dir:%s", first);
        w->trees = calloc(2, sizeof(*w->trees));
        if (!rootfs || !w->trees)
                return error_set(err, ENOMEM, "out of memory");
        w->n_trees = n;
        for (size_t i = 0; i < n; i++) {
                w->trees[i].label = strdup(n == 1 ? "rootfs" : i == 0 ? "lower" : "upper");
                w->trees[i].target = strdup(i == 0 ? first : second);
                if (!w->trees[i].label || !w->trees[i].target)
                        return error_set(err, ENOMEM, "out of memory");
        }
        return lxc_config_rewrite(config, rootfs, &p->config, err);
}

static int target_paths(struct workload *w, struct lxc_private *p, const char *config, const json_t *description,
                        struct error *err)
{
        if (w->options && w->options->files == MOVE_SHARED)
                return shared_paths(w, p, config, description, err);
        AUTO_FREE char *rootfs = p->overlay ? format_new("overlay:%s/lower:%s/upper", p->base, p->base)
                                            : format_new("dir:%s/rootfs", p->base);

        w->n_trees = p->overlay ? 2 : 1;
        w->trees = calloc(2, sizeof(*w->trees));
        if (!rootfs || !w->trees)
                return error_set(err, ENOMEM, "out of memory");
        static const char *const labels[] = {"rootfs", "lower", "upper"};
        for (size_t i = 0; i < w->n_trees; i++) {
                w->trees[i].label = strdup(labels[i + p->overlay]);
                w->trees[i].target = format_new("%s/%s", p->base, labels[i + p->overlay]);
                if (!w->trees[i].label || !w->trees[i].target)
                        return error_set(err, ENOMEM, "out of memory");
        }
        return lxc_config_rewrite(config, rootfs, &p->config, err);
}

int lxc_verify(const char *id, const char *description, struct workload *w, hauler_report_fn report, void *context,
               struct error *err)
{
        const struct findings f = {.report = report, .context = context};
        json_t *d = NULL, *path = NULL;
        const char *config = NULL;
        struct error why = {0};

        *w = (struct workload){.hauler = &lxc_hauler, .options = w->options};
        if (!name_is_valid(id))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        struct lxc_private *p = calloc(1, sizeof(*p));
        w->private_data = p;
        w->id = strdup(id);
        w->description = strdup(description);
        if (!p || !w->id || !w->description)
                return error_set(err, ENOMEM, "out of memory");

        int r = read_description(description, &config, &p->overlay, &d, err);
        if (r < 0)
                return r;
        r = lxc_tool(5000, &path, &why, "path", NULL);
        if (r == 0)
                r = lxc_tool_path(&p->lxcpath, &why);
        if (r < 0) {
                json_decref(d);
                json_decref(path);
                return error_set_kind(err, ERROR_REFUSED, -r, "LXC cannot be used here: %s", why.text);
        }
        say(&f, "kind", GRADE_OK, "LXC %s", json_text(path, "version"));
        p->base = format_new("%s/%s", p->lxcpath, id);
        r = p->base ? target_paths(w, p, config, d, err) : error_set(err, ENOMEM, "out of memory");
        if (r == 0) {
                verify_name(&f, id, p);
                if (load_config(id, p, &why) < 0) {
                        say(&f, "config", GRADE_ERROR, "%s", why.text);
                } else {
                        say(&f, "config", GRADE_OK, "the configuration loads");
                        verify_files(&f, p->info, d);
                        verify_networks(&f, p, w->options && w->options->mode == MODE_RESTART);
                        lxc_addresses_verify(json_object_get(p->info, "networks"), json_object_get(d, "live"),
                                             json_is_true(json_object_get(d, "away")), report, context);
                        verify_security(&f, p->info);
                        verify_cgroups(&f, id, p, json_text(path, "cgroup_pattern"));
                        verify_ids(&f, p);
                }
        }
        json_decref(d);
        json_decref(path);
        return r;
}

/* ---------------------------------------------------------------------------------------------------------- prepare */

static int leave(const struct lxc_private *p, hauler_leftover_fn leftover, void *context, const char *what,
                 struct error *err)
{
        AUTO_FREE char *name = format_new("%s#%s", p->base, p->token);

        return name ? leftover(what, name, context, err) : error_set(err, ENOMEM, "out of memory");
}

static int make_directory(const char *base, const char *name, mode_t mode, struct error *err)
{
        AUTO_FREE char *path = name ? format_new("%s/%s", base, name) : strdup(base);

        if (!path)
                return error_set(err, ENOMEM, "out of memory");
        return mkdir(path, mode) < 0 ? error_errno(err, errno, "cannot make %s", path) : 0;
}

/* liblxc looks for the root file system, and makes an overlay, with the ids of a mapped container. */
static int give_to_container(const struct lxc_private *p, bool shared, struct error *err)
{
        AUTO_FREE char *work = format_new("%s/work", p->base);
        uid_t uid;
        gid_t gid;

        if (!lxc_is_idmapped(p->info))
                return 0;
        int r = lxc_idmap_root(p->info, &uid, &gid, err);
        if (r < 0 || !work)
                return work ? r : error_set(err, ENOMEM, "out of memory");
        if (chown(p->base, (uid_t)-1, gid) < 0 || chmod(p->base, 0710) < 0 ||
            (p->overlay && !shared && chown(work, uid, gid) < 0))
                return error_errno(err, errno, "cannot give %s to the container", p->base);
        return 0;
}

static int make_files(const struct lxc_private *p, bool shared, struct error *err)
{
        AUTO_FREE char *config = format_new("%s/" LXC_CONFIG_UNPUBLISHED, p->base);
        int r = 0;

        if (!config)
                return error_set(err, ENOMEM, "out of memory");
        if (p->overlay && !shared) {
                r = make_directory(p->base, "lower", 0755, err);
                if (r == 0)
                        r = make_directory(p->base, "upper", 0755, err);
                if (r == 0)
                        r = make_directory(p->base, "work", 0700, err);
        }
        /* An overlay is mounted there for the restore; liblxc wants the directory as well. */
        if (r == 0 && !shared)
                r = make_directory(p->base, "rootfs", 0755, err);
        if (r == 0)
                r = give_to_container(p, shared, err);
        if (r < 0)
                return r;
        r = fd_write_file(AT_FDCWD, config, p->config, strlen(p->config), 0640);
        return r < 0 ? error_errno(err, -r, "cannot write %s", config) : 0;
}

int lxc_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err)
{
        struct lxc_private *p = w->private_data;

        if (!p->info)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "the configuration does not load here");
        int r = id_new(p->token);
        if (r < 0)
                return error_errno(err, -r, "cannot make a token");
        r = leave(p, leftover, context, "directory", err);
        if (r == 0 && p->overlay)
                r = leave(p, leftover, context, "mount", err);
        if (r == 0)
                r = leave(p, leftover, context, "container", err);
        if (r == 0)
                r = leave(p, leftover, context, "interface", err);
        if (r < 0)
                return r;

        if (mkdir(p->base, 0770) < 0)
                return error_set_kind(err, ERROR_REFUSED, errno, "cannot reserve the name '%s': %s", w->id,
                                      errno == EEXIST ? "it is taken" : strerror(errno));
        AUTO_FREE char *marker = format_new("%s/.phaul-%s", p->base, p->token);
        AUTO_FD int fd = marker ? open(marker, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
        if (fd < 0)
                return error_errno(err, marker ? errno : ENOMEM, "cannot mark %s", p->base);
        return make_files(p, w->options && w->options->files == MOVE_SHARED, err);
}

/* ---------------------------------------------------------------------------------------------------------- publish */

int lxc_publish(struct workload *w, struct error *err)
{
        struct lxc_private *p = w->private_data;
        AUTO_FREE char *from = format_new("%s/" LXC_CONFIG_UNPUBLISHED, p->base);
        AUTO_FREE char *to = format_new("%s/config", p->base);

        if (!from || !to)
                return error_set(err, ENOMEM, "out of memory");
        if (rename(from, to) == 0 || (errno == ENOENT && access(to, F_OK) == 0))
                return 0;
        return error_errno(err, errno, "cannot publish the configuration of '%s'", w->id);
}

/* ------------------------------------------------------------------------------------------------------------ ports */

/* The name that the configuration wants the outside end to have; while it is down it may be renamed. */
static void rename_outside(const json_t *network, struct network_port *port)
{
        const char *wanted = json_text(network, "veth.pair");

        if (wanted[0] && strlen(wanted) < sizeof(port->outside) && strcmp(wanted, port->outside) != 0 &&
            network_rename(port->outside, wanted, NULL) == 0)
                (void)snprintf(port->outside, sizeof(port->outside), "%s", wanted);
}

int lxc_ports(struct workload *w, struct hauler_port *ret, size_t max, struct error *err)
{
        struct lxc_private *p = w->private_data;
        AUTO_FREE struct network_port *ports = NULL;
        const json_t *network;
        size_t n, i, used = 0;
        char name[16];

        pid_t pid = w->init_pid > 0 ? w->init_pid : lxc_find_init(w->id);
        if (pid <= 0)
                return error_set(err, ESRCH, "container '%s' has no process", w->id);
        if (!p || !p->info)
                return error_set(err, EINVAL, "the configuration of '%s' does not load here", w->id);
        if (json_array_size(json_object_get(p->info, "networks")) == 0)
                return 0;
        int r = network_ports(pid, &ports, &n, err);
        if (r < 0)
                return r;
        json_array_foreach(json_object_get(p->info, "networks"), i, network)
        {
                const char *bridge = json_text(network, "link");
                size_t k = 0;

                if (strcmp(json_text(network, "type"), "veth") != 0)
                        continue;
                (void)lxc_network_name(network, i, name);
                while (k < n && strcmp(ports[k].inside, name) != 0)
                        k++;
                if (k == n)
                        return error_set(err, ENODEV, "interface %s of '%s' was not restored", name, w->id);
                if (used == max || strlen(bridge) >= sizeof(ret[0].bridge))
                        return error_set(err, E2BIG, "container '%s' has too many networks", w->id);
                rename_outside(network, &ports[k]);
                (void)snprintf(ret[used].outside, sizeof(ret[used].outside), "%s", ports[k].outside);
                (void)snprintf(ret[used].bridge, sizeof(ret[used].bridge), "%s", bridge);
                used++;
        }
        return (int)used;
}
