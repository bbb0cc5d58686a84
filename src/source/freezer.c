/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define SETTLE_MS 2000

/* v1: freezer.state says FROZEN or THAWED, with FREEZING on the way; v2: cgroup.events has "frozen 1". */
static int is_frozen(const char *directory, bool v2, bool *ret)
{
        char path[PATH_MAX];
        AUTO_FREE char *text = NULL;

        if (snprintf(path, sizeof(path), "%s/%s", directory, v2 ? "cgroup.events" : "freezer.state") >=
            (int)sizeof(path))
                return -ENAMETOOLONG;
        int r = fd_read_file(AT_FDCWD, path, 4096, &text, NULL);
        if (r < 0)
                return r;
        *ret = v2 ? strstr(text, "frozen 1") != NULL : strncmp(text, "FROZEN", 6) == 0;
        return 0;
}

static int set(const char *directory, bool v2, bool freeze, struct error *err)
{
        const uint64_t deadline = clock_ms() + SETTLE_MS;
        const struct timespec nap = {.tv_nsec = 200000};
        bool frozen = !freeze;

        int r = v2 ? cgroup_write(directory, "cgroup.freeze", freeze ? "1" : "0")
                   : cgroup_write(directory, "freezer.state", freeze ? "FROZEN" : "THAWED");
        if (r < 0)
                return error_errno(err, -r, "cannot %s %s", freeze ? "freeze" : "thaw", directory);

        for (;;) {
                r = is_frozen(directory, v2, &frozen);
                if (r < 0)
                        return error_errno(err, -r, "cannot read the freezer of %s", directory);
                if (frozen == freeze)
                        return 0;
                if (clock_ms() > deadline)
                        return error_set(err, ETIMEDOUT, "%s did not %s within %d ms", directory,
                                         freeze ? "freeze" : "thaw", SETTLE_MS);
                (void)nanosleep(&nap, NULL);
        }
}

int freezer_freeze(const char *directory, bool v2, struct error *err)
{
        return set(directory, v2, true, err);
}

int freezer_thaw(const char *directory, bool v2, struct error *err)
{
        return set(directory, v2, false, err);
}

int freezer_pids(const char *directory, pid_t **ret, size_t *ret_n, struct error *err)
{
        struct pid_list tasks = {0};

        int r = cgroup_add_tasks(&tasks, directory);
        if (r < 0) {
                free(tasks.pids);
                return error_errno(err, -r, "cannot list the tasks of %s", directory);
        }
        *ret = tasks.pids;
        *ret_n = tasks.n;
        return 0;
}

int freezer_kill(const char *directory, struct error *err)
{
        size_t before = 0;

        /* Frozen tasks cannot fork: a second pass only catches what was being born when the freezer came down. */
        for (int pass = 0; pass < 4; pass++) {
                AUTO_FREE pid_t *pids = NULL;
                size_t n = 0;

                int r = freezer_pids(directory, &pids, &n, err);
                if (r < 0)
                        return r;
                for (size_t i = 0; i < n; i++)
                        (void)kill(pids[i], SIGKILL);
                if (n == before)
                        break;
                before = n;
        }
        return 0;
}
