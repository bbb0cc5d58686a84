/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

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

#define PASSES_MAX 200
#define NAP_NS 5000000L
#define REMOVE_TRIES 800 /* 4 s */

/* ------------------------------------------------------------------------------------------------------ where it is */

/* Where the hierarchy with a controller ("freezer") is mounted. */
static int find_hierarchy(const char *controller, char *ret, size_t size, bool *ret_v2, struct error *err)
{
        char buffer[4096], unified[512] = "";
        struct mntent entry;

        AUTO_FILE FILE *f = setmntent("/proc/self/mounts", "re");
        while (f && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                if (strcmp(entry.mnt_type, "cgroup") == 0 && hasmntopt(&entry, controller)) {
                        *ret_v2 = false;
                        return snprintf(ret, size, "%s", entry.mnt_dir) < (int)size
                                       ? 0
                                       : error_set(err, ENAMETOOLONG,
                                                   "the cgroups for %s are mounted at too long a path", controller);
                }
                if (strcmp(entry.mnt_type, "cgroup2") == 0 && !unified[0])
                        (void)snprintf(unified, sizeof(unified), "%s", entry.mnt_dir);
        }
        if (!unified[0] || strlen(unified) >= size)
                return error_set_kind(err, ERROR_REFUSED, ENOENT, "this host has no cgroups for %s", controller);
        (void)snprintf(ret, size, "%s", unified);
        *ret_v2 = true;
        return 0;
}

static bool lists(const char *controllers, const char *controller)
{
        const size_t n = strlen(controller);

        for (const char *at = controllers; *at; at += strcspn(at, ","), at += *at == ',')
                if (strncmp(at, controller, n) == 0 && (at[n] == '\0' || at[n] == ','))
                        return true;
        return false;
}

/* Its path in the hierarchy, out of "4:cpu,cpuacct:/path" or "0::/path". */
static char *path_in(char *text, const char *controller, bool v2)
{
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *controllers = strchr(line, ':');
                char *path = controllers ? strchr(controllers + 1, ':') : NULL;
                if (!path)
                        continue;
                *path++ = '\0';
                if (v2 ? controllers[1] == '\0' : lists(controllers + 1, controller))
                        return path;
        }
        return NULL;
}

int process_cgroup_with(const char *controller, pid_t pid, char **ret, bool *ret_v2, struct error *err)
{
        AUTO_FREE char *text = NULL;
        char mount[512], file[64];

        int r = find_hierarchy(controller, mount, sizeof(mount), ret_v2, err);
        if (r < 0)
                return r;
        (void)snprintf(file, sizeof(file), "/proc/%d/cgroup", (int)pid);
        r = fd_read_file(AT_FDCWD, file, 65536, &text, NULL);
        if (r < 0)
                return error_set_kind(err, ERROR_NOT_FOUND, ESRCH, "there is no process %d", (int)pid);
        const char *path = path_in(text, controller, *ret_v2);
        if (!path || path[0] != '/' || strncmp(path, "/..", 3) == 0 || strstr(path, " (deleted)"))
                return error_set_kind(err, ERROR_REFUSED, ENOENT,
                                      "process %d is in no cgroup that can be reached from here", (int)pid);
        *ret = format_new("%s%s", mount, path[1] ? path : "");
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

int process_cgroup_of(pid_t pid, char **ret, bool *ret_v2, struct error *err)
{
        return process_cgroup_with("freezer", pid, ret, ret_v2, err);
}

bool process_cgroup_frozen(const char *directory, bool v2)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, v2 ? "cgroup.events" : "freezer.state");
        AUTO_FREE char *text = NULL;

        if (!path || fd_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0)
                return false; /* the root of a hierarchy has no freezer */
        return v2 ? strstr(text, "frozen 1") != NULL : strncmp(text, "THAWED", 6) != 0;
}

/* ---------------------------------------------------------------------------------------------------- into and out */

/* 1 moved, 0 it has died. */
static int move(pid_t pid, const char *to, struct error *err)
{
        char text[16];

        (void)snprintf(text, sizeof(text), "%d", (int)pid);
        int r = cgroup_write(to, "cgroup.procs", text);
        if (r == -ESRCH)
                return 0;
        return r < 0 ? error_errno(err, -r, "cannot put process %d into %s", (int)pid, to) : 1;
}

static int members(const char *directory, struct process_set *ret, struct error *err)
{
        struct pid_list list = {0};

        int r = cgroup_add_tasks(&list, directory);
        if (r < 0) {
                free(list.pids);
                return error_errno(err, -r, "cannot list the tasks of %s", directory);
        }
        process_set_make(list.pids, list.n, ret);
        return 0;
}

/* Ended but for being waited for. The kernel takes it for any cgroup, and shows it in none; nothing comes of it. */
static bool is_dead(pid_t pid)
{
        char path[64];
        int threads = 0;

        if (!process_task_exits(pid))
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        for (struct dirent *e; dir && (e = readdir(dir));)
                threads += e->d_name[0] != '.';
        return threads <= 1; /* its first thread may have ended before the others */
}

/* One look at the tree: the number of those that had to be moved. */
static int enter_pass(pid_t root, const char *to, struct error *err)
{
        CLEANUP(process_set_done) struct process_set tree = {0}, inside = {0};
        int moved = 0;

        int r = process_tree(root, &tree, NULL, err);
        if (r == 0)
                r = members(to, &inside, err);
        for (size_t i = 0; r >= 0 && i < tree.n; i++) {
                if (process_set_has(&inside, tree.pids[i]))
                        continue;
                r = move(tree.pids[i], to, err);
                moved += r > 0 && !is_dead(tree.pids[i]);
        }
        return r < 0 ? r : moved;
}

int process_cgroup_enter(pid_t root, const char *to, struct error *err)
{
        if (mkdir(to, 0755) < 0 && errno != EEXIST)
                return error_errno(err, errno, "cannot make the cgroup %s", to);
        for (int pass = 0; pass < PASSES_MAX; pass++) {
                int r = enter_pass(root, to, err);
                if (r <= 0)
                        return r;
        }
        return error_set(err, EAGAIN,
                         "process %d and its children start others faster than they can be put into a cgroup",
                         (int)root);
}

/* A directory stays busy for a moment after its last task, and as long as the keeper of its terminal. */
static int remove_soon(const char *directory, struct error *err)
{
        for (int attempt = 0;; attempt++) {
                int r = cgroup_remove(directory);
                if (r == 0)
                        return 0;
                if (attempt == REMOVE_TRIES)
                        return error_errno(err, -r, "cannot remove the cgroup %s", directory);
                (void)nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        }
}

int process_cgroup_leave(const char *from, const char *to, struct error *err)
{
        for (int pass = 0; pass < PASSES_MAX; pass++) {
                CLEANUP(process_set_done) struct process_set inside = {0};

                int r = members(from, &inside, err);
                for (size_t i = 0; r >= 0 && i < inside.n; i++)
                        r = move(inside.pids[i], to, err);
                if (r < 0)
                        return r;
                if (inside.n == 0)
                        break;
        }
        return remove_soon(from, err);
}

int process_cgroup_evict(pid_t root, const char *from, const char *to, struct process_set *ret, struct error *err)
{
        CLEANUP(process_set_done) struct process_set tree = {0}, inside = {0};
        size_t n = 0;

        int r = process_tree(root, &tree, NULL, err);
        if (r == 0)
                r = members(from, &inside, err);
        for (size_t i = 0; r >= 0 && i < inside.n; i++)
                if (!process_set_has(&tree, inside.pids[i])) {
                        r = move(inside.pids[i], to, err);
                        if (r > 0)
                                inside.pids[n++] = inside.pids[i];
                }
        if (r < 0)
                return r;
        inside.n = n;
        *ret = inside;
        inside = (struct process_set){0};
        return 0;
}

/* ------------------------------------------------------------------------------------------------------ on the target
 */

int process_home(pid_t pid, const char *token, char **ret, bool *ret_v2, struct error *err)
{
        char mount[512];

        int r = find_hierarchy("freezer", mount, sizeof(mount), ret_v2, err);
        if (r < 0)
                return r;
        *ret = token ? format_new("%s/" PROCESS_HOME "/pid-%d-%s", mount, (int)pid, token)
                     : format_new("%s/" PROCESS_HOME, mount);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* "pid-1234-TOKEN" */
static bool is_home(const char *name)
{
        const char *dash = strrchr(name, '-');

        return strncmp(name, "pid-", 4) == 0 && dash && id_is_valid(dash + 1);
}

void process_home_sweep(void)
{
        AUTO_FREE char *all = NULL;
        bool v2;

        if (process_home(0, NULL, &all, &v2, NULL) < 0)
                return;
        AUTO_DIR DIR *dir = opendir(all);
        for (struct dirent *e; dir && (e = readdir(dir));)
                if (is_home(e->d_name)) /* the kernel refuses where a task lives */
                        (void)unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
        (void)rmdir(all);
}

void process_home_vacate(const char *cgroup)
{
        AUTO_FREE char *all = NULL;
        bool v2;

        if (process_home(0, NULL, &all, &v2, NULL) < 0)
                return;
        const size_t n = strlen(all);
        if (strncmp(cgroup, all, n) == 0 && cgroup[n] == '/' && is_home(cgroup + n + 1))
                (void)remove_soon(cgroup, NULL);
        process_home_sweep();
}

int process_cgroup_kill(const char *directory, bool v2, int timeout_ms, struct error *err)
{
        const uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;

        if (access(directory, F_OK) < 0 && errno == ENOENT)
                return 0;
        for (;;) {
                CLEANUP(process_set_done) struct process_set inside = {0};

                int r = members(directory, &inside, err);
                if (r < 0)
                        return r;
                for (size_t i = 0; i < inside.n; i++)
                        (void)kill(inside.pids[i], SIGKILL);
                /* A frozen task of cgroup v1 does not even die. */
                (void)cgroup_write(directory, v2 ? "cgroup.freeze" : "freezer.state", v2 ? "0" : "THAWED");
                if (inside.n == 0)
                        return remove_soon(directory, err);
                if (clock_ms() >= deadline)
                        return error_set(err, ETIMEDOUT, "tasks in %s do not die", directory);
                (void)nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        }
}
