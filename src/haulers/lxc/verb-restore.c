/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"
#include "base/spawn.h"
#include "haulers/unconfined.h"

/*
 * A restore by liblxc: it forks what becomes the container's monitor, which forks CRIU. The monitor lives as long as
 * the container, so it is forked from a worker that has let go of everything of ours; the worker ends when the
 * container runs or has failed, and this process only waits for it.
 *
 * Of the configuration only memory is changed: the veth pairs get a known name here and no bridge (the engine attaches
 * them at the switchover), and an overlay, which liblxc cannot restore from ("overlay:…" is no path to bind), is
 * mounted here and given to it as a directory.
 */

struct restore {
        const char *name, *lxcpath, *config, *images, *hold, *socket, *record;
        char *mountpoint; /* of the overlay; NULL: none */
        char *log;
        char **changes; /* veth:N=NAME */
        bool apart;     /* CRIU gets a network namespace of its own */
        bool lazy;      /* memory comes after the tasks run */
        int n_changes;
};

static int write_criu_options(struct restore *r, char **ret_path, struct error *err)
{
        static const char options[] = "network-lock skip\n";
        char text[256];
        struct stat st;

        AUTO_FREE char *socket = NULL;
        AUTO_FREE char *path = NULL;
        if (asprintf(&socket, "%s/lazy-pages.socket", r->images) < 0)
                socket = NULL;
        if (asprintf(&path, "%s/phaul-criu.conf", r->images) < 0)
                path = NULL;
        if (!socket || !path)
                return error_set(err, ENOMEM, "out of memory");
        /* Somebody serves pages there: memory comes through it. */
        r->lazy = stat(socket, &st) == 0 && S_ISSOCK(st.st_mode);
        (void)snprintf(text, sizeof(text), "%s%s", options, r->lazy ? "lazy-pages\n" : "");
        int result = fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        if (result < 0)
                return error_errno(err, -result, "cannot write %s", path);
        *ret_path = TAKE_PTR(path);
        return 0;
}

/* liblxc is to find our program of that name, apart.c, where it looks for criu. */
static bool clean_environment(const struct restore *r, const char *criu_options)
{
        char path[PATH_MAX];
        const char *directory = secure_getenv("PHAUL_LIBEXECDIR");

        (void)snprintf(path, sizeof(path), "%s/apart:" SPAWN_PATH, directory ? directory : PHAUL_LIBEXECDIR);
        /* HOME: CRIU would read somebody's ~/.criu; a directory that does not exist has none. */
        return clearenv() == 0 && setenv("PATH", path, 1) == 0 &&
               (!r->apart || setenv("PHAUL_CRIU_APART", "1", 1) == 0) && setenv("HOME", "/nonexistent", 1) == 0 &&
               setenv("LANG", "C.UTF-8", 1) == 0 && setenv("CRIU_CONFIG_FILE", criu_options, 1) == 0 &&
               setenv("PHAUL_HOLD_SOCKET", r->socket, 1) == 0 && setenv("PHAUL_RECORD", r->record, 1) == 0;
}

/*
 * The name liblxc gives to a generated profile (6.0.4, lsm/apparmor.c): lxc-NAME_<LXCPATH>, and below it, where
 * AppArmor can stack profiles, a policy namespace of the same name with dashes for slashes.
 */
static bool name_profile(struct lxc_container *c, const struct restore *r)
{
        char profile[64] = "", space[PATH_MAX], label[2 * PATH_MAX + 256];
        AUTO_FREE char *enabled = NULL;
        AUTO_FREE char *stacks = NULL;

        if (c->get_config_item(c, "lxc.apparmor.profile", profile, sizeof(profile)) <= 0 ||
            strcmp(profile, "generated") != 0)
                return true;
        if (fd_read_file(AT_FDCWD, "/sys/module/apparmor/parameters/enabled", 16, &enabled, NULL) < 0 ||
            enabled[0] != 'Y')
                return true;
        int n = snprintf(label, sizeof(label), "lxc-%s_<%s>", r->name, r->lxcpath);
        if (fd_read_file(AT_FDCWD, "/sys/kernel/security/apparmor/features/domain/stack", 16, &stacks, NULL) == 0 &&
            strncmp(stacks, "yes", 3) == 0) {
                (void)snprintf(space, sizeof(space), "lxc-%s_<%s>", r->name, r->lxcpath);
                for (char *s = space; *s; s++)
                        if (*s == '/')
                                *s = '-';
                n = snprintf(label, sizeof(label), "lxc-%s_<%s>//&:%s:", r->name, r->lxcpath, space);
        }
        return n > 0 && n < (int)sizeof(label) && setenv("PHAUL_CRIU_LSM", label, 1) == 0;
}

/* Lazily, and with ids of its own: CRIU needs help with that. */
static bool help_within(struct lxc_container *c, const struct restore *r)
{
        return !r->lazy || c->get_config_item(c, "lxc.idmap", NULL, 0) <= 0 || setenv("PHAUL_CRIU_WITHIN", "1", 1) == 0;
}

static bool change_config(struct lxc_container *c, const struct restore *r)
{
        char key[64];

        for (int i = 0; i < r->n_changes; i++) {
                char name[16];
                unsigned index;

                if (sscanf(r->changes[i], "veth:%u=%15[A-Za-z0-9_.-]", &index, name) != 2)
                        return false;
                (void)snprintf(key, sizeof(key), "lxc.net.%u.link", index);
                if (!c->set_config_item(c, key, ""))
                        return false;
                (void)snprintf(key, sizeof(key), "lxc.net.%u.veth.pair", index);
                if (!c->set_config_item(c, key, name))
                        return false;
        }
        if (r->mountpoint) {
                AUTO_FREE char *value = NULL;
                if (asprintf(&value, "dir:%s", r->mountpoint) < 0) {
                        value = NULL;
                        return false;
                }
                return c->set_config_item(c, "lxc.rootfs.path", value);
        }
        return true;
}

enum { WORKER_DONE = 0, WORKER_FAILED = 1, WORKER_BAD_CONFIG = 2 };

/* Never returns to our caller: it becomes, by fork, the monitor of the container. */
static _Noreturn void worker(const struct restore *r, const char *criu_options)
{
        /* Nothing of ours may stay: the monitor is as old as the container will get. */
        if (!leave_everything() || !clean_environment(r, criu_options))
                _exit(WORKER_FAILED);

        struct lxc_log log = {.name = r->name,
                              .lxcpath = r->lxcpath,
                              .file = r->log,
                              .level = "INFO",
                              .prefix = "phaul-lxc",
                              .quiet = true};
        (void)lxc_log_init(&log);
        struct lxc_container *c = lxc_container_new(r->name, r->lxcpath);
        if (!c || !c->load_config(c, r->config) || !change_config(c, r) || !name_profile(c, r) || !help_within(c, r))
                _exit(WORKER_BAD_CONFIG);

        struct migrate_opts options = {
                .directory = (char *)r->images,
                .action_script = (char *)r->hold,
                .verbose = true,
        };
        int result = c->migrate(c, MIGRATE_RESTORE, &options, sizeof(options));
        _exit(result == 0 ? WORKER_DONE : WORKER_FAILED);
}

static int run_worker(struct restore *r, struct error *err)
{
        AUTO_FREE char *criu_options = NULL;
        char complaint[1024];
        int status;

        int result = write_criu_options(r, &criu_options, err);
        if (result < 0)
                return result;
        pid_t pid = fork();
        if (pid < 0)
                return error_errno(err, errno, "cannot fork");
        if (pid == 0)
                worker(r, criu_options);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_errno(err, errno, "cannot wait for liblxc");
        if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_DONE)
                return 0;
        first_complaint(r->log, complaint, sizeof(complaint));
        if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_BAD_CONFIG)
                return error_set(err, EINVAL, "liblxc cannot load the configuration: %s", complaint);
        return error_set(err, EIO, "liblxc could not restore '%s': %s", r->name, complaint);
}

/* overlay:LOWER:UPPER:WORK on LXCPATH/NAME/rootfs. */
static int mount_overlay(struct restore *r, const char *what, struct error *err)
{
        AUTO_FREE char *copy = strdup(what);
        AUTO_FREE char *options = NULL;
        char *save = NULL;

        const char *lower = copy ? strtok_r(copy, ":", &save) : NULL;
        const char *upper = lower ? strtok_r(NULL, ":", &save) : NULL;
        const char *work = upper ? strtok_r(NULL, ":", &save) : NULL;
        if (!work || strpbrk(what, ",\\"))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "malformed overlay '%s'", what);
        if (asprintf(&r->mountpoint, "%s/%s/rootfs", r->lxcpath, r->name) < 0) {
                r->mountpoint = NULL;
                return error_set(err, ENOMEM, "out of memory");
        }
        if (asprintf(&options, "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work) < 0) {
                options = NULL;
                return error_set(err, ENOMEM, "out of memory");
        }
        if (mount("overlay", r->mountpoint, "overlay", 0, options) < 0)
                return error_errno(err, errno, "cannot mount the overlay of '%s'", r->name);
        return 0;
}

int verb_restore(int argc, char **argv, json_t **ret, struct error *err)
{
        struct restore r = {
                .name = argv[0],
                .lxcpath = argv[1],
                .config = argv[2],
                .images = argv[3],
                .hold = argv[4],
                .socket = argv[5],
                .record = argv[6],
                .changes = argv + 7,
                .n_changes = argc - 7,
        };

        if (!name_is_valid(r.name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        for (int i = 1; i < 7; i++)
                if (argv[i][0] != '/')
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not an absolute path", argv[i]);
        int result = unconfined_check(err);
        if (result < 0)
                return result;
        if (asprintf(&r.log, "%s/%s/phaul.log", r.lxcpath, r.name) < 0)
                return error_set(err, ENOMEM, "out of memory");
        if (r.n_changes && strcmp(r.changes[r.n_changes - 1], "apart") == 0) {
                r.apart = true;
                r.n_changes--;
        }
        if (r.n_changes && strncmp(r.changes[r.n_changes - 1], "overlay:", 8) == 0)
                result = mount_overlay(&r, r.changes[--r.n_changes] + 8, err);
        if (result == 0)
                result = run_worker(&r, err);
        /* The container has its own reference by now; a failed one has none. */
        if (r.mountpoint)
                (void)umount2(r.mountpoint, MNT_DETACH);
        free(r.mountpoint);
        free(r.log);
        if (result < 0)
                return result;
        *ret = guarded(2000, ask_state, argv[0]);
        if (!*ret)
                *ret = json_pack("{ss ss si}", "id", argv[0], "state", "unknown", "init_pid", 0);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}
