/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"

static const char *const names[] = {
        [CRIU_STAGE_NONE] = "",
        [CRIU_STAGE_RELEASED] = "phaul.released",
        [CRIU_STAGE_UNLOCKED] = "phaul.unlocked",
        [CRIU_STAGE_RESUMED] = "phaul.resumed",
};

/* In this order a file that is being renamed meanwhile is found under one of its names. */
enum criu_stage criu_stage_get(int images_fd)
{
        for (int stage = CRIU_STAGE_RELEASED; stage <= CRIU_STAGE_RESUMED; stage++) {
                if (faccessat(images_fd, names[stage], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                        return (enum criu_stage)stage;
                if (errno != ENOENT)
                        return CRIU_STAGE_RESUMED;
        }
        return CRIU_STAGE_NONE;
}

static int forget(int images_fd)
{
        for (int stage = CRIU_STAGE_RELEASED; stage <= CRIU_STAGE_RESUMED; stage++)
                if (unlinkat(images_fd, names[stage], 0) < 0 && errno != ENOENT)
                        return -errno;
        return 0;
}

int criu_stage_set(int images_fd, enum criu_stage stage)
{
        if (stage == CRIU_STAGE_NONE)
                return forget(images_fd);
        if (stage > CRIU_STAGE_RESUMED)
                return -EINVAL;
        for (int before = (int)stage - 1; before >= CRIU_STAGE_RELEASED; before--) {
                if (renameat(images_fd, names[before], images_fd, names[stage]) == 0)
                        return 0;
                if (errno != ENOENT)
                        return -errno;
        }
        AUTO_FD int fd = openat(images_fd, names[stage], O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        return fd < 0 ? -errno : 0;
}
