/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define DEPTH_MAX 32
#define PIDS_MAX (1 << 20)
#define FILE_MAX (16U << 20)

int pid_list_add(struct pid_list *list, pid_t pid)
{
        /* The hierarchies of version 1 name the same tasks, one after the other: most need not be kept twice. */
        for (size_t i = list->n > 64 ? list->n - 64 : 0; i < list->n; i++)
                if (list->pids[i] == pid)
                        return 0;
        if (list->n == list->room) {
                size_t room = list->room ? list->room * 2 : 64;
                pid_t *grown = room <= PIDS_MAX ? reallocarray(list->pids, room, sizeof(*grown)) : NULL;
                if (!grown)
                        return -ENOMEM;
                list->pids = grown;
                list->room = room;
        }
        list->pids[list->n++] = pid;
        return 0;
}

int pid_list_add_file(struct pid_list *list, int dir_fd, const char *file)
{
        AUTO_FREE char *text = NULL;

        int r = fd_read_file(dir_fd, file, FILE_MAX, &text, NULL);
        if (r < 0) /* of a threaded cgroup the kernel tells no processes; its parent has them */
                return r == -ENOENT || r == -ENODEV || r == -ESRCH || r == -EOPNOTSUPP ? 0 : r;
        for (char *p = text, *end; r == 0; p = end) {
                long pid = strtol(p, &end, 10);
                if (end == p)
                        break;
                if (pid > 0 && pid <= INT_MAX)
                        r = pid_list_add(list, (pid_t)pid);
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
        return pid_list_add_file(context, fd, "cgroup.procs");
}

int cgroup_add_tasks(struct pid_list *list, const char *directory)
{
        return walk(AT_FDCWD, directory, 0, add_directory, list);
}

static int remove_directory(int parent, const char *name, int fd, void *context)
{
        (void)fd;
        (void)context;
        return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int cgroup_remove(const char *directory)
{
        return walk(AT_FDCWD, directory, 0, remove_directory, NULL);
}

int cgroup_write(const char *directory, const char *file, const char *text)
{
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/%s", directory, file) >= (int)sizeof(path))
                return -ENAMETOOLONG;
        AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}
