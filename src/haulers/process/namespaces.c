/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/look.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/format.h"

static bool same_namespace(pid_t pid, pid_t other, const char *which)
{
        struct stat one, two;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, which);
        if (stat(path, &one) < 0)
                return true; /* an old kernel without them, or it has died: found out elsewhere */
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)other, which);
        return stat(path, &two) < 0 || (one.st_ino == two.st_ino && one.st_dev == two.st_dev);
}

/* Namespaces that a tree never has of its own, and words for them. */
static const char *const host_names[] = {"net", "ipc", "uts", "user", "cgroup"};
static const char *const host_words[] = {"network", "IPC", "UTS", "user", "cgroup"};
#define HOST_NAMES (sizeof(host_names) / sizeof(host_names[0]))

/*
 * In a pid namespace below ours, as child of somebody there in whose mount namespace /proc fits, and beside that with
 * all that is the host's: that is what --new-pid-namespace makes, and what CRIU can dump from within, in the namespaces
 * of that parent. (The tree itself may see no /proc, or another.)
 */
static bool is_apart(const struct process_task *root)
{
        struct process_numbers numbers, parent;
        char path[96];
        struct stat inside, outside;

        for (size_t i = 0; i < HOST_NAMES; i++)
                if (!same_namespace(root->pid, getpid(), host_names[i]))
                        return false;
        if (process_numbers_read(root->pid, &numbers) < 0 || numbers.depth != 1 || numbers.pid <= 1 ||
            process_numbers_read(root->parent, &parent) < 0 || !same_namespace(root->pid, root->parent, "pid") ||
            same_namespace(root->parent, getpid(), "mnt"))
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/root/proc/%d/ns/pid", (int)root->parent, (int)parent.pid);
        if (stat(path, &inside) < 0)
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)root->pid);
        return stat(path, &outside) == 0 && inside.st_ino == outside.st_ino && inside.st_dev == outside.st_dev;
}

int process_look_apart(struct look *l)
{
        l->apart = !same_namespace(l->root.pid, getpid(), "pid");
        return l->apart && !is_apart(&l->root) ? -EPERM : 0;
}

static void examine_host_namespaces(struct look *l, pid_t pid)
{
        for (size_t k = 0; k < HOST_NAMES; k++)
                if (!same_namespace(pid, getpid(), host_names[k]))
                        process_say(&l->findings, "namespace", GRADE_ERROR,
                                    "process %d has a %s namespace of its own: only trees that share it with the host "
                                    "can be moved",
                                    (int)pid, host_words[k]);
}

void process_look_namespaces(struct look *l, bool has_root)
{
        /* Of these two the tree may have others than the host, but all of it the same. */
        static const char *const names[] = {"mnt", "pid"}, *const words[] = {"mount", "pid"};
        const pid_t around = l->apart ? l->root.parent : getpid();

        l->own_mounts = has_root && !same_namespace(l->root.pid, around, "mnt");
        for (size_t i = 0; i < l->pids.n; i++) {
                const pid_t pid = l->pids.pids[i];
                const pid_t like[] = {l->own_mounts ? l->root.pid : around, l->root.pid};

                examine_host_namespaces(l, pid);
                for (size_t k = 0; k < 2; k++)
                        if (!same_namespace(pid, like[k], names[k]))
                                process_say(&l->findings, "namespace", GRADE_ERROR,
                                            "process %d has a %s namespace of its own%s", (int)pid, words[k],
                                            k == 0 && !has_root
                                                    ? ": it can be moved when that begins in a root directory of its "
                                                      "own (--pid-root)"
                                                    : "");
        }
        if (l->apart && l->findings.errors == 0)
                process_say(&l->findings, "namespace", GRADE_OK,
                            "it is in a pid namespace of its own, and is dumped from within");
}

void process_look_files(struct look *l, const struct process_files *files)
{
        for (size_t i = 0; l->apart && i < files->n; i++) {
                const char *path = files->files[i].path;
                AUTO_FREE char *inside = format_new("/proc/%d/root%s", (int)l->root.parent, path);
                struct stat theirs, ours;

                if (inside && stat(inside, &theirs) == 0 && stat(path, &ours) == 0 && theirs.st_ino == ours.st_ino &&
                    theirs.st_dev == ours.st_dev)
                        continue;
                process_say(&l->findings, "namespace", GRADE_ERROR,
                            "%.400s is another file in its mount namespace than on the host", path);
        }
}
