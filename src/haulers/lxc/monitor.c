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
#include "haulers/unconfined.h"

/* What a process must be before liblxc forks a container's monitor from it: that lives as long as the container. */

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
        unconfined_forget_oom_score(); /* nor does liblxc set one */
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
