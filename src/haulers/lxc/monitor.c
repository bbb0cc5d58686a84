/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

/* What a process must be before liblxc forks a container's monitor from it: that lives as long as the container. */

int refuse_confinement(struct error *err)
{
        static const char *const fields[] = {"NoNewPrivs:", "Seccomp:"};
        AUTO_FREE char *ours = NULL, *first = NULL;

        if (fd_read_file(AT_FDCWD, "/proc/self/status", 65536, &ours, NULL) < 0 ||
            fd_read_file(AT_FDCWD, "/proc/1/status", 65536, &first, NULL) < 0)
                return 0;
        for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
                const char *a = strstr(ours, fields[i]), *b = strstr(first, fields[i]);
                if (!a || !b || strcspn(a, "\n") != strcspn(b, "\n") || strncmp(a, b, strcspn(a, "\n")) != 0)
                        return error_set(err, EPERM,
                                         "this process is confined (%.*s, unlike process 1), and so would be the "
                                         "container for ever",
                                         a ? (int)strcspn(a, "\n") : 0, a ? a : "");
        }
        return 0;
}

/* CRIU restores a score of its own only where it is not 0, and liblxc none: ours would become the workload's. */
static void forget_oom_score(void)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0) {
                (void)!write(fd, "0", 1);
                (void)close(fd);
        }
}

bool leave_everything(void)
{
        sigset_t none;

        (void)setsid();
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
                return false;
        if (syscall(SYS_close_range, 3U, ~0U, 0U) < 0 || chdir("/") < 0)
                return false;
        (void)umask(022);
        forget_oom_score();
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        return true;
}

void first_complaint(const char *path, char *text, size_t size)
{
        AUTO_FREE char *log = NULL;

        text[0] = '\0';
        if (fd_read_file(AT_FDCWD, path, 4 << 20, &log, NULL) < 0)
                return;
        const char *hit = strstr(log, " ERROR ");
        if (!hit)
                return;
        const char *message = strstr(hit, " - ");
        message = message ? message + 3 : hit + 7;
        /* What follows are its consequences. */
        (void)snprintf(text, size, "%.*s", (int)strcspn(message, "\n"), message);
}
