/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "criu/criu.h"

/*
 * What a restore writes to its log, in this order (criu/cr-restore.c): after the post-restore script said yes "Unlock
 * network"; then the last stages, in which the tasks are caught on their way out of the restorer; "Running pre-resume
 * scripts"; and it lets them go. Until "Unlock network" no task can leave the restorer, whatever happens to CRIU. After
 * it, only CRIU's own word that it killed them before it let them go is worth anything: a CRIU that died there holds
 * nobody.
 */
int criu_restore_may_have_resumed(int dir_fd, const char *file)
{
        bool unlocked = false, killed = false, resumed = false, escaped = false;
        char line[1024];

        AUTO_FD int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        AUTO_FILE FILE *log = fd >= 0 ? fdopen(fd, "re") : NULL;
        if (!log)
                return 1;
        (void)TAKE_FD(fd);

        while (fgets(line, sizeof(line), log)) {
                unlocked |= strstr(line, "Unlock network") != NULL;
                escaped |= strstr(line, "Can't stop all tasks on rt_sigreturn") != NULL;
                resumed |= strstr(line, "Running pre-resume scripts") != NULL;
                killed |= strstr(line, "Killing processes because of failure on restore") != NULL;
        }
        if (ferror(log))
                return 1;
        return unlocked && (!killed || escaped || resumed);
}
