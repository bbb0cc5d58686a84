/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

static bool is_tcp(int fd)
{
        int protocol = 0;
        socklen_t size = sizeof(protocol);

        return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP;
}

/*
 * 1 if it was in repair, 0 if not. TCP_REPAIR_OFF (0) and not TCP_REPAIR_OFF_NO_WP: leaving repair with a window probe
 * makes the peer tell its window again. Its own updates may have been lost while the port was locked, and a connection
 * that waits for one would stand until the persist timer. When the port is still locked the probe is just dropped.
 */
static int repair_off(int fd)
{
        int value = 0, reuse = 1;
        socklen_t size = sizeof(value);

        if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, &size) < 0)
                return -errno;
        if (value != 1)
                return 0;
        value = 0;
        if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, sizeof(value)) < 0)
                return -errno;
        /*
         * Repair overwrites SO_REUSEADDR and leaving it clears the option; what it was is lost. Set is the harmless
         * guess: without it a server that is restarted later could not bind while this connection lingers.
         */
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
        return 1;
}

/* 1 if it was not in repair. A listening socket cannot be, and need not. */
static int repair_on(int fd)
{
        int value = 0;
        socklen_t size = sizeof(value);

        if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, &size) < 0)
                return -errno;
        if (value == 1)
                return 0;
        value = 1;
        if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, sizeof(value)) < 0)
                return errno == EPERM ? 0 : -errno;
        return 1;
}

static int each_socket(pid_t pid, int (*change)(int fd), struct error *err)
{
        char path[64], target[64];
        int count = 0;

        AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) /* a task that is gone, or a thread: its leader has the same descriptors */
                return errno == ESRCH || errno == EINVAL || errno == ENOENT
                               ? 0
                               : error_errno(err, errno, "cannot open process %d", (int)pid);
        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        if (!dir)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot list the descriptors of %d", (int)pid);

        struct dirent *entry;
        while ((entry = readdir(dir))) {
                char *end;
                long number = strtol(entry->d_name, &end, 10);
                if (*end != '\0' || end == entry->d_name)
                        continue;
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
                if (n <= 0)
                        continue;
                target[n] = '\0';
                if (strncmp(target, "socket:", 7) != 0)
                        continue;
                AUTO_FD int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)number, 0);
                if (fd < 0 && (errno == EBADF || errno == ESRCH))
                        continue;
                if (fd < 0)
                        return error_errno(err, errno, "cannot take descriptor %ld of process %d", number, (int)pid);
                if (!is_tcp(fd))
                        continue;
                int r = change(fd);
                if (r < 0)
                        return error_errno(err, -r, "cannot change the repair mode of socket %ld of process %d", number,
                                           (int)pid);
                count += r;
        }
        return count;
}

static int each_task(const pid_t *pids, size_t n_pids, int (*change)(int fd), struct error *err)
{
        int total = 0, failure = 0;

        /* One that fails is no reason to leave the others' connections dead. */
        for (size_t i = 0; i < n_pids; i++) {
                int r = each_socket(pids[i], change, failure ? NULL : err);
                if (r < 0)
                        failure = failure ? failure : r;
                else
                        total += r;
        }
        return failure ? failure : total;
}

int network_repair_off(const pid_t *pids, size_t n_pids, struct error *err)
{
        return each_task(pids, n_pids, repair_off, err);
}

int network_repair_on(const pid_t *pids, size_t n_pids, struct error *err)
{
        return each_task(pids, n_pids, repair_on, err);
}
