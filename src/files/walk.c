/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/name.h"

/* Far more directories waiting at once than a sane tree has; ends a walk that would eat the host's memory. */
#define WAITING_MAX (16U << 20)

#define WALK_STATX (STATX_BASIC_STATS)

struct waiting {
        char *path;
        unsigned flags;
};

struct walk {
        int root_fd;
        const struct walk_ops *ops;
        void *context;
        struct error *err;
        struct waiting *stack;
        size_t used, room;
};

int walk_open_dir(int root_fd, const char *path)
{
        struct open_how how = {
                .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
        };

        for (;;) {
                int fd = (int)syscall(SYS_openat2, root_fd, *path ? path : ".", &how, sizeof(how));
                if (fd >= 0)
                        return fd;
                /* EAGAIN: a rename elsewhere made the kernel unsure whether we stayed beneath. */
                if (errno != EINTR && errno != EAGAIN)
                        return -errno;
        }
}

static int fail(struct walk *w, int code, const char *path)
{
        char quoted[256];

        return error_errno(w->err, code, "cannot read %s", *path ? name_quote(path, quoted, sizeof(quoted)) : "/");
}

static int push(struct walk *w, const char *dir, const char *name, unsigned flags)
{
        if (strlen(dir) + strlen(name) + 2 > PATH_MAX)
                return fail(w, ENAMETOOLONG, dir);
        if (w->used == w->room) {
                size_t room = w->room ? w->room * 2 : 256;
                if (room > WAITING_MAX)
                        return fail(w, E2BIG, dir);
                struct waiting *grown = reallocarray(w->stack, room, sizeof(*grown));
                if (!grown)
                        return fail(w, ENOMEM, dir);
                w->stack = grown;
                w->room = room;
        }
        char *path = NULL;
        if (asprintf(&path, "%s%s%s", dir, *dir ? "/" : "", name) < 0)
                return fail(w, ENOMEM, dir);
        w->stack[w->used++] = (struct waiting){.path = path, .flags = flags};
        return 0;
}

static int read_entries(struct walk *w, const struct walk_dir *dir, DIR *handle)
{
        for (;;) {
                struct statx st;
                unsigned flags = 0;

                errno = 0;
                const struct dirent *d = readdir(handle);
                if (!d)
                        return errno ? fail(w, errno, dir->path) : 0;
                if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
                        continue;
                if (statx(dir->fd, d->d_name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, WALK_STATX,
                          &st) < 0) {
                        if (errno == ENOENT)
                                continue;
                        return fail(w, errno, dir->path);
                }
                int r = w->ops->entry(dir, d->d_name, &st, &flags, w->context);
                if (r > 0)
                        r = push(w, dir->path, d->d_name, flags);
                if (r < 0)
                        return r;
        }
}

static int walk_one(struct walk *w, const struct waiting *item)
{
        struct statx st;
        AUTO_DIR DIR *handle = NULL;

        AUTO_FD int fd = walk_open_dir(w->root_fd, item->path);
        if (fd < 0) {
                /* Gone, replaced by something else, or the mount point of another file system. */
                if (*item->path && (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || fd == -EXDEV))
                        return 0;
                return fail(w, -fd, item->path);
        }
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, WALK_STATX, &st) < 0)
                return fail(w, errno, item->path);
        handle = fdopendir(fd);
        if (!handle)
                return fail(w, errno, item->path);

        struct walk_dir dir = {.path = item->path, .fd = TAKE_FD(fd), .st = &st, .flags = item->flags};
        int r = w->ops->enter ? w->ops->enter(&dir, w->context) : 0;
        if (r == 0)
                r = read_entries(w, &dir, handle);
        if (r == 0 && w->ops->leave)
                r = w->ops->leave(&dir, w->context);
        return r;
}

int walk_tree(int root_fd, const char *start, unsigned flags, const struct walk_ops *ops, void *context,
              struct error *err)
{
        struct walk w = {.root_fd = root_fd, .ops = ops, .context = context, .err = err};
        int r = push(&w, "", start, flags);

        while (r == 0 && w.used > 0) {
                struct waiting item = w.stack[--w.used];
                r = walk_one(&w, &item);
                free(item.path);
        }
        while (w.used > 0)
                free(w.stack[--w.used].path);
        free(w.stack);
        return r;
}
