/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Loaded into `criu restore --lazy-pages` (LD_PRELOAD) where the tasks get a user namespace of their own. In there they
 * may make no userfaultfd that sees what the kernel does to their memory (vm.unprivileged_userfaultfd, and the power
 * that they lack counts outside), and CRIU (4.2, criu/uffd.c, uffd_open()) lets each task make its own. Whoever has
 * /dev/userfaultfd open may (Linux 6.1): CRIU opens it by this library while it is still root of the host, its children
 * inherit it, and each task closes it when it has made its userfaultfd, which is long before it runs.
 *
 * CRIU closes what its children inherit, and puts the tasks' own descriptors where they belong; so closing ours is not
 * done, and when its place is wanted it is moved. Nothing here allocates, locks or prints.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEVICE "/dev/userfaultfd"
#define NEW_USERFAULTFD _IO(0xAA, 0x00) /* include/uapi/linux/userfaultfd.h, USERFAULTFD_IOC_NEW */

/* Few tasks have so many, and CRIU keeps its own at the upper end. Not far up: a table of descriptors does not shrink.
 */
#define PLACE 700

static long (*next_syscall)(long number, ...);
static int device = -1;
static dev_t number_of_device;

__attribute__((constructor)) static void begin(void)
{
        struct stat st;

        *(void **)&next_syscall = dlsym(RTLD_NEXT, "syscall");
        if (!next_syscall)
                abort();
        int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return;
        number_of_device = st.st_rdev;
        device = fcntl(fd, F_DUPFD_CLOEXEC, PLACE);
        (void)next_syscall(SYS_close, (long)fd);
}

/* What has that number may be another file by now, when tables are shared between tasks. */
static bool is_ours(int fd)
{
        struct stat st;

        return fd >= 0 && fd == device && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == number_of_device;
}

static long make_userfaultfd(long flags)
{
        long fd = next_syscall(SYS_userfaultfd, flags);

        if (fd >= 0 || errno != EPERM || !is_ours(device))
                return fd;
        fd = ioctl(device, NEW_USERFAULTFD, flags);
        const int saved = errno;
        (void)next_syscall(SYS_close, (long)device);
        device = -1;
        errno = saved;
        return fd;
}

long syscall(long number, ...)
{
        va_list list;
        long a[6];

        va_start(list, number);
        for (int n = 0; n < 6; n++)
                a[n] = va_arg(list, long);
        va_end(list);
        if (number == SYS_userfaultfd)
                return make_userfaultfd(a[0]);
        return next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int close(int fd)
{
        return is_ours(fd) ? 0 : (int)next_syscall(SYS_close, (long)fd);
}

static void make_room(int fd)
{
        if (is_ours(fd))
                device = fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
}

int dup2(int from, int to)
{
        if (from != to)
                make_room(to);
        return from == to ? fcntl(from, F_GETFD) < 0 ? -1 : to : (int)next_syscall(SYS_dup3, (long)from, (long)to, 0L);
}

int dup3(int from, int to, int flags)
{
        make_room(to);
        return (int)next_syscall(SYS_dup3, (long)from, (long)to, (long)flags);
}
