/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define DEPTH_MAX 32
#define TASKS_MAX (1 << 20)
#define HIERARCHIES_MAX 32

/* ------------------------------------------------------------------------------------------------------ where it is */

static bool lists_controller(const char *list, const char *controller)
{
        size_t n = strlen(controller);

        for (const char *p = list; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ','))
                if (strncmp(p, controller, n) == 0 && (p[n] == ',' || p[n] == '\0'))
                        return true;
        return false;
}

/* The first mount of the hierarchy: by type, and for v1 by a controller it lists among its options. */
static bool find_mount(const char *mounts, bool v2, const char *controller, char *ret, size_t size)
{
        char buffer[4096];
        struct mntent entry;
        bool found = false;

        if (!mounts[0])
                return false;
        AUTO_FILE FILE *f = fmemopen((char *)mounts, strlen(mounts), "r");
        while (f && !found && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                if (strcmp(entry.mnt_type, v2 ? "cgroup2" : "cgroup") != 0)
                        continue;
                if (!v2 && !lists_controller(entry.mnt_opts, controller))
                        continue;
                found = snprintf(ret, size, "%s", entry.mnt_dir) < (int)size;
        }
        return found;
}

int lxc_freezer_find(const char *mounts, const json_t *cgroups, char **ret, bool *ret_v2, struct error *err)
{
        const char *v1 = NULL, *v2 = NULL;
        const json_t *entry;
        char mount[512];
        size_t i;

        json_array_foreach(cgroups, i, entry)
        {
                const char *controllers = lxc_string(entry, "controllers");
                if (controllers[0] == '\0')
                        v2 = lxc_string(entry, "path");
                else if (lists_controller(controllers, "freezer"))
                        v1 = lxc_string(entry, "path");
        }
        /* On a hybrid host liblxc freezes by v1, and so must we: a task has one freezer of each kind. */
        bool use_v2 = !(v1 && v1[0] == '/' && find_mount(mounts, false, "freezer", mount, sizeof(mount)));
        if (use_v2 && !(v2 && v2[0] == '/' && find_mount(mounts, true, "", mount, sizeof(mount))))
                return error_set_kind(err, ERROR_REFUSED, ENOENT,
                                      "the container has no cgroup whose freezer can be used");
        char *path = lxc_format("%s%s", mount, use_v2 ? v2 : v1);
        if (!path)
                return error_set(err, ENOMEM, "out of memory");
        *ret = path;
        *ret_v2 = use_v2;
        return 0;
}

/* ------------------------------------------------------------------------------------------------------------ tasks */

struct tasks {
        pid_t *pids;
        size_t n, room;
};

static int add_task(struct tasks *tasks, pid_t pid)
{
        for (size_t i = tasks->n > 64 ? tasks->n - 64 : 0; i < tasks->n; i++)
                if (tasks->pids[i] == pid)
                        return 0;
        if (tasks->n == tasks->room) {
                size_t room = tasks->room ? tasks->room * 2 : 64;
                pid_t *more = room <= TASKS_MAX ? realloc(tasks->pids, room * sizeof(*more)) : NULL;
                if (!more)
                        return -ENOMEM;
                tasks->pids = more;
                tasks->room = room;
        }
        tasks->pids[tasks->n++] = pid;
        return 0;
}

static int add_list(struct tasks *tasks, int dir_fd, const char *file)
{
        AUTO_FREE char *text = NULL;

        int r = fd_read_file(dir_fd, file, 16 << 20, &text, NULL);
        if (r < 0)
                return r == -ENOENT || r == -ENODEV || r == -ESRCH || r == -EOPNOTSUPP ? 0 : r;
        for (char *p = text, *end; r == 0; p = end) {
                long pid = strtol(p, &end, 10);
                if (end == p)
                        break;
                if (pid > 0)
                        r = add_task(tasks, (pid_t)pid);
        }
        return r;
}

/* Call `fn` for the directory and each below it, deepest first. */
static int walk(int parent, const char *name, int depth, int (*fn)(int parent, const char *name, int fd, void *context),
                void *context)
{
        struct dirent *entry;

        if (depth > DEPTH_MAX)
                return -ELOOP;
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir) {
                (void)close(fd);
                return -ENOMEM;
        }
        int r = 0;
        while (r == 0 && (entry = readdir(dir)))
                if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
                        r = walk(fd, entry->d_name, depth + 1, fn, context);
        return r == 0 ? fn(parent, name, fd, context) : r;
}

static int add_directory(int parent, const char *name, int fd, void *context)
{
        (void)parent;
        (void)name;
        return add_list(context, fd, "cgroup.procs");
}

static int remove_directory(int parent, const char *name, int fd, void *context)
{
        (void)fd;
        (void)context;
        return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int lxc_cgroup_tasks(const char *directory, pid_t **ret, size_t *ret_n)
{
        struct tasks tasks = {0};

        int r = walk(AT_FDCWD, directory, 0, add_directory, &tasks);
        if (r < 0) {
                free(tasks.pids);
                return r;
        }
        *ret = tasks.pids;
        *ret_n = tasks.n;
        return 0;
}

uint64_t lxc_cgroup_memory(const char *directory)
{
        AUTO_FREE pid_t *pids = NULL;
        uint64_t total = 0;
        size_t n = 0;

        if (lxc_cgroup_tasks(directory, &pids, &n) < 0)
                return 0;
        for (size_t i = 0; i < n; i++) {
                AUTO_FREE char *text = NULL;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pids[i]);
                if (fd_read_file(AT_FDCWD, path, 8192, &text, NULL) < 0)
                        continue;
                const char *pss = strstr(text, "\nPss:");
                if (pss)
                        total += strtoull(pss + 5, NULL, 10) * 1024;
        }
        return total;
}

/* ---------------------------------------------------------------------------------------------------------- freezer */

static int write_in(const char *directory, const char *file, const char *text)
{
        AUTO_FREE char *path = lxc_format("%s/%s", directory, file);

        if (!path)
                return -ENOMEM;
        AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        return fd_write_all(fd, text, strlen(text));
}

int lxc_cgroup_thaw(const char *directory, bool v2)
{
        return v2 ? write_in(directory, "cgroup.freeze", "0") : write_in(directory, "freezer.state", "THAWED");
}

int lxc_cgroup_frozen(const char *directory, bool v2)
{
        AUTO_FREE char *path = lxc_format("%s/%s", directory, v2 ? "cgroup.freeze" : "freezer.state");
        AUTO_FREE char *text = NULL;

        if (!path)
                return -ENOMEM;
        int r = fd_read_file(AT_FDCWD, path, 64, &text, NULL);
        if (r < 0)
                return r;
        return v2 ? text[0] == '1' : strncmp(text, "THAWED", 6) != 0;
}

/* ------------------------------------------------------------------------------------------- all of one container */

/* Directories of all hierarchies that are mounted here. Caller frees each. */
static size_t hierarchies(char *ret[HIERARCHIES_MAX], bool v2[HIERARCHIES_MAX])
{
        char buffer[4096];
        struct mntent entry;
        size_t n = 0;

        AUTO_FILE FILE *f = fopen("/proc/self/mounts", "re");
        while (f && n < HIERARCHIES_MAX && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                bool two = strcmp(entry.mnt_type, "cgroup2") == 0;
                if (!two && strcmp(entry.mnt_type, "cgroup") != 0)
                        continue;
                ret[n] = strdup(entry.mnt_dir);
                v2[n] = two;
                if (ret[n])
                        n++;
        }
        return n;
}

typedef int (*each_fn)(const char *directory, bool v2, bool monitor, void *context);

static int each_directory(const char *name, each_fn fn, void *context)
{
        char *mounts[HIERARCHIES_MAX];
        bool v2[HIERARCHIES_MAX];
        int result = 0;

        size_t n = hierarchies(mounts, v2);
        for (size_t i = 0; i < n; i++) {
                for (int monitor = 0; monitor < 2; monitor++) {
                        AUTO_FREE char *path =
                                lxc_format("%s/lxc.%s.%s", mounts[i], monitor ? "monitor" : "payload", name);
                        int r = path ? fn(path, v2[i], monitor, context) : -ENOMEM;
                        if (r < 0 && result == 0)
                                result = r;
                }
                free(mounts[i]);
        }
        return result;
}

struct inhabitants {
        struct tasks payload, monitor;
};

static int add_inhabitants(const char *directory, bool v2, bool monitor, void *context)
{
        struct inhabitants *all = context;

        (void)v2;
        return walk(AT_FDCWD, directory, 0, add_directory, monitor ? &all->monitor : &all->payload);
}

bool lxc_cgroup_populated(const char *name, bool monitor)
{
        struct inhabitants all = {0};

        (void)each_directory(name, add_inhabitants, &all);
        bool populated = all.payload.n || (monitor && all.monitor.n);
        free(all.payload.pids);
        free(all.monitor.pids);
        return populated;
}

static int note_existence(const char *directory, bool v2, bool monitor, void *context)
{
        (void)v2;
        (void)monitor;
        if (access(directory, F_OK) == 0)
                *(bool *)context = true;
        return 0;
}

bool lxc_cgroup_exists(const char *name)
{
        bool exists = false;

        (void)each_directory(name, note_existence, &exists);
        return exists;
}

pid_t lxc_find_init(const char *name)
{
        struct inhabitants all = {0};
        pid_t init = 0;

        (void)each_directory(name, add_inhabitants, &all);
        for (size_t i = 0; i < all.payload.n && !init; i++) {
                AUTO_FREE char *text = NULL;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)all.payload.pids[i]);
                if (fd_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
                        continue;
                /* "NSpid: 4711 1": process 1 of the namespace below ours */
                const char *ids = strstr(text, "\nNSpid:");
                char *end;
                if (!ids || strtol(ids + 7, &end, 10) != all.payload.pids[i])
                        continue;
                long inside = strtol(end, &end, 10);
                if (inside == 1 && *end == '\n')
                        init = all.payload.pids[i];
        }
        free(all.payload.pids);
        free(all.monitor.pids);
        return init;
}

/* phaul-lxc restore NAME, which liblxc's monitor is a child of and called like until it has entered its cgroup. */
static int add_restorers(const char *name, struct tasks *tasks)
{
        struct dirent *entry;
        int r = 0;

        AUTO_DIR DIR *proc = opendir("/proc");
        while (proc && r == 0 && (entry = readdir(proc))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                AUTO_FREE char *text = NULL;
                char path[300];
                size_t size;
                (void)snprintf(path, sizeof(path), "%s/cmdline", entry->d_name);
                if (fd_read_file(dirfd(proc), path, 65536, &text, &size) < 0 || size < 2)
                        continue;
                const char *verb = text + strlen(text) + 1;
                const char *which = verb < text + size ? verb + strlen(verb) + 1 : text + size;
                size_t n = strlen(text);
                if (n >= 10 && strcmp(text + n - 10, "/phaul-lxc") == 0 && which < text + size &&
                    strcmp(verb, "restore") == 0 && strcmp(which, name) == 0)
                        r = add_task(tasks, (pid_t)strtol(entry->d_name, NULL, 10));
        }
        return r;
}

/* Children of the monitor: CRIU, which has left our cgroups for the root, and tasks that are in no cgroup yet. */
static int add_children(struct tasks *tasks)
{
        size_t parents = tasks->n;
        int r = 0;

        for (size_t i = 0; i < parents && r == 0; i++) {
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)tasks->pids[i],
                               (int)tasks->pids[i]);
                r = add_list(tasks, AT_FDCWD, path);
        }
        return r;
}

static int thaw(const char *directory, bool v2, bool monitor, void *context)
{
        (void)monitor;
        (void)context;
        return lxc_cgroup_thaw(directory, v2);
}

void lxc_cgroup_thaw_container(const char *name)
{
        (void)each_directory(name, thaw, NULL);
}

static int remove_tree(const char *directory, bool v2, bool monitor, void *context)
{
        (void)v2;
        (void)monitor;
        (void)context;
        return walk(AT_FDCWD, directory, 0, remove_directory, NULL);
}

int lxc_cgroup_kill(const char *name, int timeout_ms, struct error *err)
{
        uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;

        for (;;) {
                struct inhabitants all = {0};

                int r = each_directory(name, add_inhabitants, &all);
                if (r == 0)
                        r = add_restorers(name, &all.monitor);
                if (r == 0)
                        r = add_children(&all.monitor);
                for (size_t i = 0; i < all.payload.n; i++)
                        (void)kill(all.payload.pids[i], SIGKILL);
                for (size_t i = 0; i < all.monitor.n; i++)
                        (void)kill(all.monitor.pids[i], SIGKILL);
                bool gone = r == 0 && all.payload.n == 0 && all.monitor.n == 0;
                free(all.payload.pids);
                free(all.monitor.pids);
                /* A frozen task of cgroup v1 does not even die. */
                (void)each_directory(name, thaw, NULL);
                if (gone)
                        break;
                if (clock_ms() >= deadline)
                        return error_set(err, ETIMEDOUT, "tasks of container '%s' do not die", name);
                (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
        /* A directory stays busy for a moment after its last task. */
        for (int attempt = 0;; attempt++) {
                int r = each_directory(name, remove_tree, NULL);
                if (r == 0)
                        return 0;
                if (attempt == 50)
                        return error_errno(err, -r, "cannot remove the cgroups of container '%s'", name);
                (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
}
