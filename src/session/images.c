/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "session/session.h"

#define LOG_FILE_MAX (64U << 20)

/* Where images pass through: a tmpfs of their own, or below a directory that somebody asked for; then they may reach a
 * disk. */

int session_images_place(struct session *s, struct error *err)
{
        const char *own = s->request.options.images_dir;
        char standard[sizeof(s->paths.runtime) + 16];

        (void)snprintf(standard, sizeof(standard), "%s/images", s->paths.runtime);
        if (snprintf(s->paths.images, sizeof(s->paths.images), "%s/%s-%s", own[0] ? own : standard, s->request.id,
                     s->request.side == SIDE_SOURCE ? "source" : "target") >= (int)sizeof(s->paths.images))
                return error_set(err, ENAMETOOLONG, "the path for images is too long");
        return 0;
}

void session_images_examine(const struct session *s, hauler_report_fn report, void *context)
{
        const char *own = s->request.options.images_dir;
        char text[400];
        struct stat st;

        if (!own[0])
                return;
        if (lstat(own, &st) < 0 || !S_ISDIR(st.st_mode))
                (void)snprintf(text, sizeof(text), "%s for images is not a directory here", own);
        else if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
                (void)snprintf(text, sizeof(text), "%s for images does not belong to root alone", own);
        else {
                report("images", GRADE_OK, own, context);
                return;
        }
        report("images", GRADE_ERROR, text, context);
}

/*
 * Huge pages make writing and reading images several times faster. Kernels that have none of them, or not in tmpfs, do
 * not know the option.
 */
static int mount_images(const char *path, uint64_t max_bytes)
{
        static const char *const huge[] = {",huge=within_size", ""};
        char options[96];

        for (size_t i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
                (void)snprintf(options, sizeof(options), "mode=0700,size=%llu%s", (unsigned long long)max_bytes,
                               huge[i]);
                if (mount("phaul", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0)
                        return 0;
                if (errno != EINVAL)
                        break;
        }
        return -errno;
}

int session_images_make(struct session *s, uint64_t max_bytes, struct error *err)
{
        int r = session_leftover("images", s->paths.images, s, err);
        if (r < 0)
                return r;
        if (s->request.options.images_dir[0])
                return mkdir(s->paths.images, 0700) < 0 ? error_errno(err, errno, "cannot make %s", s->paths.images)
                                                        : 0;
        r = fd_mkdir_p(s->paths.images, 0700);
        if (r < 0)
                return error_errno(err, -r, "cannot make %s", s->paths.images);
        r = mount_images(s->paths.images, max_bytes);
        return r < 0 ? error_errno(err, -r, "cannot mount a tmpfs at %s", s->paths.images) : 0;
}

/* Logs of CRIU into the migration's directory. */
static void save_logs(struct session *s)
{
        char target[sizeof(s->paths.directory) + 264];
        struct dirent *entry;

        AUTO_DIR DIR *dir = opendir(s->paths.images);
        while (dir && (entry = readdir(dir))) {
                AUTO_FREE char *text = NULL;
                const size_t n = strlen(entry->d_name);
                size_t size = 0;

                if (n < 5 || strcmp(entry->d_name + n - 4, ".log") != 0)
                        continue;
                (void)snprintf(target, sizeof(target), "%s/%s", s->paths.directory, entry->d_name);
                int r = fd_read_file(dirfd(dir), entry->d_name, LOG_FILE_MAX, &text, &size);
                if (r == 0)
                        r = fd_write_file(AT_FDCWD, target, text, size, 0600);
                if (r < 0)
                        session_log(s, "warning", "cannot keep %s: %s", entry->d_name, strerror(-r));
        }
}

/* The link tells people, and phauld's `forget`, where they are. */
static int keep(struct session *s, struct error *err)
{
        char link[sizeof(s->paths.directory) + 8];

        if (access(s->paths.images, F_OK) < 0)
                return 0;
        (void)snprintf(link, sizeof(link), "%s/images", s->paths.directory);
        if (symlink(s->paths.images, link) < 0)
                return errno == EEXIST ? 0 : error_errno(err, errno, "cannot make %s", link);
        session_log(s, "info", "images are kept in %s until `phaul forget %s`; they hold the workload's memory",
                    s->paths.images, s->request.id);
        return 0;
}

int session_images_remove(struct session *s, struct error *err)
{
        if (s->request.options.verbose)
                save_logs(s);
        if (s->request.options.keep_images)
                return keep(s, err);
        if (s->request.options.images_dir[0])
                return fd_remove_tree(AT_FDCWD, s->paths.images, err);
        if (umount2(s->paths.images, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
                return error_errno(err, errno, "cannot unmount %s", s->paths.images);
        if (rmdir(s->paths.images) < 0 && errno != ENOENT)
                return error_errno(err, errno, "cannot remove %s", s->paths.images);
        return 0;
}
