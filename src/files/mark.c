/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/mark.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"

#define NSEC_PER_SEC INT64_C(1000000000)

/* On top of one tick of the coarse clock: file systems that keep times in steps (exFAT: 10 ms), and small steps. */
#define MARGIN_NS INT64_C(10000000)

/* A clock that steps back by less than this is harmless (it stays within the margin), and is noise of measuring. */
#define STEP_NS INT64_C(5000000)

#ifndef SMB2_SUPER_MAGIC
#define SMB2_SUPER_MAGIC 0xFE534D42
#endif
#ifndef CIFS_SUPER_MAGIC
#define CIFS_SUPER_MAGIC 0xFF534D42
#endif
#ifndef CEPH_SUPER_MAGIC
#define CEPH_SUPER_MAGIC 0x00C36400
#endif
#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif
#ifndef GFS2_MAGIC
#define GFS2_MAGIC 0x01161970
#endif
#ifndef OCFS2_SUPER_MAGIC
#define OCFS2_SUPER_MAGIC 0x7461636F
#endif

static int64_t to_ns(struct timespec t)
{
        return (int64_t)t.tv_sec * NSEC_PER_SEC + t.tv_nsec;
}

/* The two clocks cannot be read at once: of a few tries, the one that took the least time is right. */
static int64_t wall_minus_monotonic(void)
{
        int64_t best = 0, shortest = INT64_MAX;

        for (int i = 0; i < 8; i++) {
                struct timespec before, wall, after;
                (void)clock_gettime(CLOCK_MONOTONIC, &before);
                (void)clock_gettime(CLOCK_REALTIME, &wall);
                (void)clock_gettime(CLOCK_MONOTONIC, &after);
                int64_t took = to_ns(after) - to_ns(before);
                if (took < shortest) {
                        shortest = took;
                        best = to_ns(wall) - (to_ns(before) + took / 2);
                }
        }
        return best;
}

/* File systems whose change times come from other machines' clocks. */
static bool clock_is_foreign(int fd)
{
        struct statfs s;

        if (fstatfs(fd, &s) < 0)
                return true;
        switch ((unsigned long)s.f_type) {
        case NFS_SUPER_MAGIC:
        case CIFS_SUPER_MAGIC:
        case SMB2_SUPER_MAGIC:
        case CEPH_SUPER_MAGIC:
        case FUSE_SUPER_MAGIC:
        case V9FS_MAGIC:
        case AFS_SUPER_MAGIC:
        case GFS2_MAGIC:
        case OCFS2_SUPER_MAGIC:
                return true;
        default:
                return false;
        }
}

int files_mark_take(const char *path, struct files_mark *ret, struct error *err)
{
        struct timespec now, tick;
        struct files_mark mark = {0};

        AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot open %s", path);

        /*
         * The clock first, the write-back second. A page that is clean when the write-back passes it faults on the
         * next store and gets a ctime younger than the mark; one that was dirty before may have been stored to
         * without a new ctime, but only before the write-back, and the round that follows reads it. The other way
         * round, a page that turns dirty between write-back and mark could be stored to after the round, unseen.
         */
        (void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
        (void)clock_getres(CLOCK_REALTIME_COARSE, &tick);
        mark.wall_minus_monotonic_ns = wall_minus_monotonic();
        if (!clock_is_foreign(fd)) {
                int64_t at = to_ns(now) - to_ns(tick) - MARGIN_NS;
                mark.change = (struct timespec){.tv_sec = at / NSEC_PER_SEC, .tv_nsec = at % NSEC_PER_SEC};
        }
        if (syncfs(fd) < 0)
                return error_errno(err, errno, "cannot write back the file system of %s", path);
        *ret = mark;
        return 0;
}

bool mark_is_void(const struct files_mark *mark)
{
        if (mark->change.tv_sec == 0 && mark->change.tv_nsec == 0)
                return true;
        return wall_minus_monotonic() < mark->wall_minus_monotonic_ns - STEP_NS;
}

bool mark_is_older(const struct files_mark *mark, const struct statx *st)
{
        const struct statx_timestamp *t = &st->stx_ctime;

        if (t->tv_sec != mark->change.tv_sec)
                return t->tv_sec > mark->change.tv_sec;
        /* No fraction: an inode that only holds seconds (ext4 with small inodes), rounded down. */
        return t->tv_nsec == 0 || (long)t->tv_nsec >= mark->change.tv_nsec;
}
