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

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "base/proc_status.h"

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

/* Of each kind a task has one: on a hybrid host that of v1, which liblxc uses, and so must we. */
static int find(const char *mounts, const json_t *cgroups, const char *controller, char **ret, bool *ret_v2)
{
        const char *v1 = NULL, *v2 = NULL;
        const json_t *entry;
        char mount[512];
        size_t i;

        json_array_foreach(cgroups, i, entry)
        {
                const char *controllers = json_text(entry, "controllers");
                if (controllers[0] == '\0')
                        v2 = json_text(entry, "path");
                else if (lists_controller(controllers, controller))
                        v1 = json_text(entry, "path");
        }
        bool use_v2 = !(v1 && v1[0] == '/' && find_mount(mounts, false, controller, mount, sizeof(mount)));
        if (use_v2 && !(v2 && v2[0] == '/' && find_mount(mounts, true, "", mount, sizeof(mount))))
                return -ENOENT;
        char *path = format_new("%s%s", mount, use_v2 ? v2 : v1);
        if (!path)
                return -ENOMEM;
        *ret = path;
        *ret_v2 = use_v2;
        return 0;
}

int lxc_freezer_find(const char *mounts, const json_t *cgroups, char **ret, bool *ret_v2, struct error *err)
{
        int r = find(mounts, cgroups, "freezer", ret, ret_v2);

        if (r == -ENOENT)
                return error_set_kind(err, ERROR_REFUSED, ENOENT,
                                      "the container has no cgroup whose freezer can be used");
        return r < 0 ? error_set(err, -r, "out of memory") : 0;
}

int lxc_cpu_find(const char *mounts, const json_t *cgroups, char **ret)
{
        bool v2;

        return find(mounts, cgroups, "cpu", ret, &v2);
}

/* ------------------------------------------------------------------------------------------------------------ tasks */

uint64_t lxc_cgroup_memory(const char *directory)
{
        struct pid_list tasks = {0};
        uint64_t total = 0;

        if (cgroup_add_tasks(&tasks, directory) < 0)
                tasks.n = 0;
        for (size_t i = 0; i < tasks.n; i++) {
                AUTO_FREE char *text = NULL;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)tasks.pids[i]);
                if (fd_read_file(AT_FDCWD, path, 8192, &text, NULL) < 0)
                        continue;
                const char *pss = strstr(text, "\nPss:");
                if (pss)
                        total += strtoull(pss + 5, NULL, 10) * 1024;
        }
        free(tasks.pids);
        return total;
}

/* ---------------------------------------------------------------------------------------------------------- freezer */

int lxc_cgroup_thaw(const char *directory, bool v2)
{
        int r = v2 ? cgroup_write(directory, "cgroup.freeze", "0") : cgroup_write(directory, "freezer.state", "THAWED");

        return r == -ENOENT ? 0 : r;
}

int lxc_cgroup_frozen(const char *directory, bool v2)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, v2 ? "cgroup.freeze" : "freezer.state");
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
                                format_new("%s/lxc.%s.%s", mounts[i], monitor ? "monitor" : "payload", name);
                        int r = path ? fn(path, v2[i], monitor, context) : -ENOMEM;
                        if (r < 0 && result == 0)
                                result = r;
                }
                free(mounts[i]);
        }
        return result;
}

struct inhabitants {
        struct pid_list payload, monitor;
};

static int add_inhabitants(const char *directory, bool v2, bool monitor, void *context)
{
        struct inhabitants *all = context;

        (void)v2;
        return cgroup_add_tasks(monitor ? &all->monitor : &all->payload, directory);
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

static int add_payload(const char *directory, bool v2, bool monitor, void *context)
{
        (void)v2;
        return monitor ? 0 : cgroup_add_tasks(context, directory);
}

int lxc_cgroup_tasks(const char *name, struct pid_list *ret)
{
        return each_directory(name, add_payload, ret);
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
                AUTO_FREE char *status = NULL;
                pid_t numbers[3];
                /* Process 1 of the namespace below ours. */
                if (proc_status_read(all.payload.pids[i], &status) == 0 &&
                    proc_status_pids(status, "NSpid", numbers, 3) == 2 && numbers[1] == 1)
                        init = all.payload.pids[i];
        }
        free(all.payload.pids);
        free(all.monitor.pids);
        return init;
}

/* phaul-lxc restore NAME (or start), which liblxc's monitor is a child of and called like until it has entered its
 * cgroup. */
static int add_restorers(const char *name, struct pid_list *tasks)
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
                    (strcmp(verb, "restore") == 0 || strcmp(verb, "start") == 0) && strcmp(which, name) == 0)
                        r = pid_list_add(tasks, (pid_t)strtol(entry->d_name, NULL, 10));
        }
        return r;
}

/* Children of the monitor: CRIU, which has left our cgroups for the root, and tasks that are in no cgroup yet. */
static int add_children(struct pid_list *tasks)
{
        size_t parents = tasks->n;
        int r = 0;

        for (size_t i = 0; i < parents && r == 0; i++) {
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)tasks->pids[i],
                               (int)tasks->pids[i]);
                r = pid_list_add_file(tasks, AT_FDCWD, path);
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
        return cgroup_remove(directory);
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
