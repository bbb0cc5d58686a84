/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "files/files.h"
#include "files/inode-set.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* As many mappings as a process may have. */
#define PATHS_MAX 65536

struct mapped {
        const char *root;
        int root_fd;
        struct inode_set seen;
        char **paths;
        size_t n, room;
};

void files_paths_free(char **paths)
{
        for (size_t i = 0; paths && paths[i]; i++)
                free(paths[i]);
        free(paths);
}

/* A store through a mapping faults once per write-back there, and gives the file a new ctime. */
static bool stores_show(int fd)
{
        struct statfs s;

        if (fstatfs(fd, &s) < 0)
                return false;
        return s.f_type == EXT4_SUPER_MAGIC || s.f_type == XFS_SUPER_MAGIC || s.f_type == BTRFS_SUPER_MAGIC ||
               s.f_type == F2FS_SUPER_MAGIC;
}

static int add(struct mapped *m, const char *path)
{
        if (m->n + 1 >= m->room) {
                size_t room = m->room ? m->room * 2 : 16;
                if (room > PATHS_MAX)
                        return -E2BIG;
                char **grown = reallocarray(m->paths, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                m->paths = grown;
                m->room = room;
        }
        m->paths[m->n] = strdup(path);
        if (!m->paths[m->n])
                return -ENOMEM;
        m->paths[++m->n] = NULL;
        return 0;
}

/* Whether `path` below the root is the mapped file itself, and not one of the same name in another mount. */
static bool is_there(const struct mapped *m, const char *path, const struct statx *mapped)
{
        struct statx st;

        return *path && statx(m->root_fd, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0 &&
               S_ISREG(st.stx_mode) && st.stx_ino == mapped->stx_ino && st.stx_dev_major == mapped->stx_dev_major &&
               st.stx_dev_minor == mapped->stx_dev_minor;
}

/* `range` is the name in map_files. */
static int look_at(struct mapped *m, int map_files, const char *range)
{
        char target[PATH_MAX];
        struct statx st;

        AUTO_FD int fd = openat(map_files, range, O_PATH | O_CLOEXEC);
        if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) < 0 || !S_ISREG(st.stx_mode) ||
            stores_show(fd) || inode_set_has(&m->seen, inode_key_of(&st)))
                return 0;
        ssize_t n = readlinkat(map_files, range, target, sizeof(target) - 1);
        if (n <= 1 || target[0] != '/')
                return 0;
        target[n] = '\0';

        /* Seen from us the path leads through the root's own; in a mount namespace of its own it starts at its root. */
        const char *path = target + 1;
        size_t length = strlen(m->root);
        while (length > 1 && m->root[length - 1] == '/')
                length--;
        if (strncmp(target, m->root, length) == 0 && target[length] == '/' && is_there(m, target + length + 1, &st))
                path = target + length + 1;
        else if (!is_there(m, path, &st))
                return 0; /* deleted, or on another mount: not part of the tree */
        if (inode_set_add(&m->seen, inode_key_of(&st)) < 0)
                return -ENOMEM;
        return add(m, path);
}

static int look_through(struct mapped *m, int pid)
{
        char path[64], *line = NULL;
        size_t size = 0;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/map_files", pid);
        AUTO_FD int map_files = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        (void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
        AUTO_FILE FILE *maps = fopen(path, "re");
        if (map_files < 0 || !maps)
                return errno == ENOENT || errno == ESRCH ? 0 : -errno;

        while (r == 0 && getline(&line, &size, maps) > 0) {
                uint64_t from, to;
                char access[5], range[40];

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, access) != 3)
                        continue;
                if (strlen(access) != 4 || access[1] != 'w' || access[3] != 's')
                        continue;
                (void)snprintf(range, sizeof(range), "%" PRIx64 "-%" PRIx64, from, to);
                r = look_at(m, map_files, range);
        }
        free(line);
        return r;
}

int files_mapped_shared(const int *pids, size_t n_pids, const char *root, char ***ret, struct error *err)
{
        struct mapped m = {.root = root};

        AUTO_FD int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root_fd < 0)
                return error_errno(err, errno, "cannot open %s", root);
        m.root_fd = root_fd;
        m.paths = calloc(1, sizeof(*m.paths));
        m.room = 1;
        int r = m.paths ? 0 : -ENOMEM;
        for (size_t i = 0; r == 0 && i < n_pids; i++)
                r = look_through(&m, pids[i]);
        inode_set_clear(&m.seen);
        if (r < 0) {
                files_paths_free(m.paths);
                return error_errno(err, -r, "cannot list the mapped files of the tasks");
        }
        *ret = m.paths;
        return 0;
}
