/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

int fd_write_all(int fd, const void *data, size_t size)
{
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);
                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                p += n;
                size -= (size_t)n;
        }
        return 0;
}

ssize_t fd_read_full(int fd, void *data, size_t size)
{
        size_t done = 0;

        while (done < size) {
                ssize_t n = read(fd, (char *)data + done, size - done);
                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        break;
                done += (size_t)n;
        }
        return (ssize_t)done;
}

ssize_t fd_read_until(int fd, void *data, size_t size, uint64_t deadline_ms)
{
        size_t used = 0;

        while (used < size) {
                uint64_t now = clock_ms();
                struct pollfd p = {.fd = fd, .events = POLLIN};

                if (now >= deadline_ms)
                        return -ETIMEDOUT;
                int r = poll(&p, 1, deadline_ms - now < INT_MAX ? (int)(deadline_ms - now) : INT_MAX);
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r <= 0)
                        continue;
                ssize_t n = read(fd, (char *)data + used, size - used);
                if (n < 0 && errno != EINTR && errno != EAGAIN)
                        return -errno;
                if (n == 0)
                        break;
                if (n > 0)
                        used += (size_t)n;
        }
        return (ssize_t)used;
}

int fd_open_regular(int dir_fd, const char *path, off_t *ret_size)
{
        struct stat st;

        AUTO_FD int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (ret_size)
                *ret_size = st.st_size;
        return TAKE_FD(fd);
}

int fd_read_file(int dir_fd, const char *path, size_t limit, char **ret, size_t *ret_size)
{
        AUTO_FD int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        AUTO_FREE char *text = NULL;
        size_t used = 0, room = 0;

        if (fd < 0)
                return -errno;

        for (;;) {
                if (used == room) {
                        size_t next = room ? room * 2 : 4096;
                        if (next > limit + 1)
                                next = limit + 1;
                        if (next <= room)
                                return -EFBIG;
                        char *grown = realloc(text, next + 1);
                        if (!grown)
                                return -ENOMEM;
                        text = grown;
                        room = next;
                }
                ssize_t n = fd_read_full(fd, text + used, room - used);
                if (n < 0)
                        return (int)n;
                used += (size_t)n;
                if (used < room)
                        break;
        }
        if (used > limit)
                return -EFBIG;
        text[used] = '\0';
        *ret = TAKE_PTR(text);
        if (ret_size)
                *ret_size = used;
        return 0;
}

static int sync_parent(int dir_fd, const char *path)
{
        char parent[PATH_MAX];
        const char *slash = strrchr(path, '/');

        if (!slash)
                (void)strcpy(parent, ".");
        else if (slash == path)
                (void)strcpy(parent, "/");
        else if ((size_t)(slash - path) < sizeof(parent))
                (void)snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
        else
                return -ENAMETOOLONG;

        AUTO_FD int fd = openat(dir_fd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return fsync(fd) < 0 ? -errno : 0;
}

int fd_write_file(int dir_fd, const char *path, const void *data, size_t size, mode_t mode)
{
        char beside[PATH_MAX];

        if (snprintf(beside, sizeof(beside), "%s.new", path) >= (int)sizeof(beside))
                return -ENAMETOOLONG;

        AUTO_FD int fd = openat(dir_fd, beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
        if (fd < 0)
                return -errno;

        int r = fd_write_all(fd, data, size);
        if (r == 0 && fchmod(fd, mode) < 0)
                r = -errno;
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && renameat(dir_fd, beside, dir_fd, path) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlinkat(dir_fd, beside, 0);
                return r;
        }
        return sync_parent(dir_fd, path);
}

int fd_nonblock(int fd)
{
        int flags = fcntl(fd, F_GETFL);
        return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int fd_cloexec(int fd, bool on)
{
        return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) < 0 ? -errno : 0;
}

int fd_lift(int fd)
{
        struct rlimit before, raised;

        if (getrlimit(RLIMIT_NOFILE, &before) < 0 || before.rlim_cur >= before.rlim_max || before.rlim_cur > INT_MAX)
                return fd;
        raised = before;
        raised.rlim_cur = raised.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &raised) < 0)
                return fd;
        int lifted = fcntl(fd, F_DUPFD_CLOEXEC, (int)before.rlim_cur);
        (void)setrlimit(RLIMIT_NOFILE, &before);
        if (lifted < 0)
                return fd;
        (void)close(fd);
        return lifted;
}

ssize_t fd_send_packet(int socket, const void *data, size_t size, int pass_fd)
{
        struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
        union {
                struct cmsghdr header;
                char room[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

        if (pass_fd >= 0) {
                message.msg_control = control.room;
                message.msg_controllen = sizeof(control.room);
                struct cmsghdr *c = CMSG_FIRSTHDR(&message);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
        }

        for (;;) {
                ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
                if (n >= 0)
                        return n;
                if (errno != EINTR)
                        return -errno;
        }
}

ssize_t fd_recv_packet(int socket, void *data, size_t size, int *ret_fd)
{
        struct iovec iov = {.iov_base = data, .iov_len = size};
        union {
                struct cmsghdr header;
                char room[CMSG_SPACE(sizeof(int) * 4)];
        } control;
        struct msghdr message;
        int got = -1;
        ssize_t n;

        do {
                message = (struct msghdr){
                        .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = control.room,
                        .msg_controllen = sizeof(control.room),
                };
                n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        } while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (got < 0 && ret_fd)
                                got = fd;
                        else
                                (void)close(fd);
                }
        }
        if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
                if (got >= 0)
                        (void)close(got);
                return -EMSGSIZE;
        }
        if (ret_fd)
                *ret_fd = got;
        return n;
}

int fd_mkdir_p(const char *path, mode_t mode)
{
        char part[PATH_MAX];
        size_t n = strlen(path);

        if (n == 0 || n >= sizeof(part))
                return -ENAMETOOLONG;
        memcpy(part, path, n + 1);

        for (char *p = part + 1;; p++) {
                if (*p != '/' && *p != '\0')
                        continue;
                char saved = *p;
                *p = '\0';
                if (mkdir(part, mode) < 0 && errno != EEXIST)
                        return -errno;
                if (saved == '\0')
                        return 0;
                *p = saved;
        }
}

/* Also where the same file system is mounted once more (a bind mount), which its device does not tell. */
static bool is_mount(int fd)
{
        struct statx st;

        return statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) < 0 || st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

static int remove_at(int dir_fd, const char *name, struct error *err)
{
        struct stat st;

        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot look at %s", name);
        if (!S_ISDIR(st.st_mode)) {
                if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
                        return error_errno(err, errno, "cannot remove %s", name);
                return 0;
        }

        int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot open %s", name);
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir) {
                int saved = errno;
                (void)close(fd);
                return error_errno(err, saved, "cannot read %s", name);
        }
        if (is_mount(fd))
                return error_set(err, EXDEV, "not removing %s: something is mounted there", name);

        for (;;) {
                errno = 0;
                const struct dirent *e = readdir(dir);
                if (!e) {
                        if (errno)
                                return error_errno(err, errno, "cannot read %s", name);
                        break;
                }
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                int r = remove_at(dirfd(dir), e->d_name, err);
                if (r < 0)
                        return r;
        }
        if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                return error_errno(err, errno, "cannot remove directory %s", name);
        return 0;
}

int fd_remove_tree(int dir_fd, const char *path, struct error *err)
{
        return remove_at(dir_fd, path, err);
}

bool fd_is_scarce(int fd)
{
        struct rlimit limit;

        return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max != RLIM_INFINITY &&
               (rlim_t)fd + FD_RESERVE >= limit.rlim_max;
}
