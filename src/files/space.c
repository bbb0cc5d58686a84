/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "files/files.h"
#include "files/inode-set.h"
#include "files/walk.h"

struct measure {
        uint64_t bytes, inodes;
        struct inode_set linked; /* files with several names, counted once */
};

static int measure_entry(const struct walk_dir *dir, const char *name, const struct statx *st, unsigned *ret_flags,
                         void *context)
{
        struct measure *m = context;
        bool is_dir = S_ISDIR(st->stx_mode);

        (void)dir;
        (void)name;
        (void)ret_flags;
        if (!is_dir && st->stx_nlink > 1) {
                int r = inode_set_add(&m->linked, inode_key_of(st));
                if (r <= 0)
                        return r;
        }
        m->bytes += st->stx_blocks * 512;
        m->inodes++;
        return is_dir;
}

int files_measure(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err)
{
        static const struct walk_ops ops = {.entry = measure_entry};
        struct measure m = {0};
        struct stat st;

        AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_errno(err, errno, "cannot measure %s", path);
        m.bytes = (uint64_t)st.st_blocks * 512;
        m.inodes = 1;

        int r = walk_tree(fd, "", 0, &ops, &m, err);
        inode_set_clear(&m.linked);
        if (r == -ENOMEM)
                return error_set(err, ENOMEM, "cannot measure %s: out of memory", path);
        if (r < 0)
                return error_wrap(err, "cannot measure %s", path);
        *ret_bytes = m.bytes;
        *ret_inodes = m.inodes;
        return 0;
}

int files_room(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err)
{
        struct statvfs s;

        if (statvfs(path, &s) < 0)
                return error_errno(err, errno, "cannot ask for the free space of %s", path);
        /* f_bfree: root may use what is reserved for it, and the receiver runs as root. */
        *ret_bytes = (uint64_t)s.f_bfree * (s.f_frsize ? s.f_frsize : s.f_bsize);
        *ret_inodes = s.f_files ? s.f_ffree : UINT64_MAX;
        return 0;
}

int files_sync(const char *path, struct error *err)
{
        AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot open %s", path);
        if (syncfs(fd) < 0)
                return error_errno(err, errno, "cannot sync the file system of %s", path);
        return 0;
}
