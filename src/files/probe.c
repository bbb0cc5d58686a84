/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/name.h"
#include "files/files.h"

static int probe_name(const struct files_probe *probe, char *ret, size_t size, struct error *err)
{
        /* The name may come from the other host: it is one that files_probe_write() could have made, or nothing. */
        if (!id_is_valid(probe->name) || !id_is_valid(probe->secret))
                return error_set(err, EINVAL, "malformed probe of a shared directory");
        (void)snprintf(ret, size, ".phaul-probe-%s", probe->name);
        return 0;
}

static int open_directory(const char *path, struct error *err)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? error_errno(err, errno, "cannot open %s", path) : fd;
}

int files_probe_write(const char *path, struct files_probe *ret, struct error *err)
{
        char name[64];

        if (id_new(ret->name) < 0 || id_new(ret->secret) < 0)
                return error_set(err, EIO, "no random numbers");
        int r = probe_name(ret, name, sizeof(name), err);
        if (r < 0)
                return r;
        AUTO_FD int dir = open_directory(path, err);
        if (dir < 0)
                return dir;
        AUTO_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : fd_write_all(fd, ret->secret, ID_LENGTH);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        return r < 0 ? error_errno(err, -r, "cannot write into %s", path) : 0;
}

int files_probe_take(const char *path, const struct files_probe *probe, struct error *err)
{
        char name[64];

        int r = probe_name(probe, name, sizeof(name), err);
        if (r < 0)
                return r;
        AUTO_FD int dir = open_directory(path, err);
        if (dir < 0)
                return dir;
        AUTO_FD int fd = fd_open_regular(dir, name, NULL);
        if (fd < 0)
                return error_errno(err, -fd, "what was written on the other host is not in %s", path);
        char found[ID_LENGTH + 1] = "";
        ssize_t n = fd_read_full(fd, found, ID_LENGTH);
        if (n != ID_LENGTH || strcmp(found, probe->secret) != 0)
                return error_set(err, ESTALE, "what was written on the other host is not what is in %s", path);
        return unlinkat(dir, name, 0) < 0 ? error_errno(err, errno, "%s cannot be written", path) : 0;
}

int files_probe_end(const char *path, const struct files_probe *probe, struct error *err)
{
        char name[64];

        int r = probe_name(probe, name, sizeof(name), err);
        if (r < 0)
                return r;
        AUTO_FD int dir = open_directory(path, err);
        if (dir < 0)
                return dir;
        if (unlinkat(dir, name, 0) == 0)
                return 1;
        return errno == ENOENT ? 0 : error_errno(err, errno, "cannot look into %s", path);
}
