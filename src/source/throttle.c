/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/throttle.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/format.h"

#define FILE_MAX 4096
#define PERIOD_US 100000
#define QUOTA_MIN_US 2000 /* the kernel takes 1000; what runs less than this in a period looks dead to its clients */
#define SHARE 0.6         /* of what it took before */
#define UNLIMITED "max"

/*
 * Version 1 has two files for what version 2 has one. A limit is "QUOTA PERIOD" in microseconds, or "max PERIOD", as in
 * cpu.max.
 */
struct throttle {
        char *directory;
        bool v2, stepped;
        char before[64];
        uint64_t quota_us;           /* of the latest step, 0 before it */
        uint64_t used_us, looked_us; /* CPU time of the cgroup when it was last looked at, and when that was */
};

static bool has(const char *directory, const char *file)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, file);

        return path && access(path, F_OK) == 0;
}

/* The first line of a file of the cgroup. */
static int read_line(const char *directory, const char *file, char *ret, size_t size)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, file);
        AUTO_FREE char *text = NULL;

        if (!path)
                return -ENOMEM;
        int r = fd_read_file(AT_FDCWD, path, FILE_MAX, &text, NULL);
        if (r < 0)
                return r;
        text[strcspn(text, "\n")] = '\0';
        return snprintf(ret, size, "%s", text) < (int)size ? 0 : -E2BIG;
}

static int read_limit(const char *directory, bool v2, char *ret, size_t size)
{
        char quota[24], period[24];

        if (v2)
                return read_line(directory, "cpu.max", ret, size);
        int r = read_line(directory, "cpu.cfs_quota_us", quota, sizeof(quota));
        if (r == 0)
                r = read_line(directory, "cpu.cfs_period_us", period, sizeof(period));
        if (r < 0)
                return r;
        return snprintf(ret, size, "%s %s", quota[0] == '-' ? UNLIMITED : quota, period) < (int)size ? 0 : -E2BIG;
}

/* The period first where there is no quota: version 1 checks the two against each other. */
static int write_limit(const char *directory, bool v2, const char *limit)
{
        char quota[24], period[24], rest;

        if (sscanf(limit, "%23s %23s %c", quota, period, &rest) != 2)
                return -EINVAL;
        if (v2)
                return cgroup_write(directory, "cpu.max", limit);
        int r = cgroup_write(directory, "cpu.cfs_quota_us", "-1");
        if (r == 0)
                r = cgroup_write(directory, "cpu.cfs_period_us", period);
        if (r == 0 && strcmp(quota, UNLIMITED) != 0)
                r = cgroup_write(directory, "cpu.cfs_quota_us", quota);
        return r;
}

/* CPU time of all its tasks: of those that are there, for version 1 need not count in the same hierarchy. */
static int cpu_time(const char *directory, uint64_t *ret_us)
{
        const uint64_t tick_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
        struct pid_list tasks = {0};
        uint64_t ticks = 0;

        int r = cgroup_add_tasks(&tasks, directory);
        for (size_t i = 0; r == 0 && i < tasks.n; i++) {
                char path[64];
                AUTO_FREE char *text = NULL;
                unsigned long long user, system;

                (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)tasks.pids[i]);
                if (fd_read_file(AT_FDCWD, path, FILE_MAX, &text, NULL) < 0)
                        continue;
                const char *fields = strrchr(text, ')'); /* its name may be anything */
                if (fields &&
                    sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) == 2)
                        ticks += user + system;
        }
        free(tasks.pids);
        *ret_us = ticks * tick_us;
        return r;
}

int throttle_new(const char *directory, struct throttle **ret, struct error *err)
{
        CLEANUP(throttle_free_ptr) struct throttle *t = calloc(1, sizeof(*t));

        if (!t || !(t->directory = strdup(directory)))
                return error_set(err, ENOMEM, "out of memory");
        t->v2 = has(directory, "cpu.max");
        if (!t->v2 && !has(directory, "cpu.cfs_quota_us"))
                return error_set(err, EOPNOTSUPP, "%s has no CPU limit", directory);
        int r = read_limit(directory, t->v2, t->before, sizeof(t->before));
        if (r == 0)
                r = cpu_time(directory, &t->used_us);
        if (r < 0)
                return error_errno(err, -r, "cannot read the CPU limit of %s", directory);
        t->looked_us = clock_us();
        *ret = TAKE_PTR(t);
        return 0;
}

void throttle_free(struct throttle *throttle)
{
        if (!throttle)
                return;
        (void)throttle_lift(throttle, NULL);
        free(throttle->directory);
        free(throttle);
}

const char *throttle_before(const struct throttle *throttle)
{
        return throttle->before;
}

int throttle_step(struct throttle *t, unsigned *ret_allowed, struct error *err)
{
        const uint64_t now_us = clock_us();
        uint64_t used_us;
        char limit[64];

        int r = cpu_time(t->directory, &used_us);
        if (r < 0)
                return error_errno(err, -r, "cannot read the CPU time of %s", t->directory);
        /* Of tasks that ended nothing is known any more. */
        const uint64_t took_us = used_us > t->used_us ? used_us - t->used_us : 0;
        uint64_t quota = (uint64_t)(SHARE * PERIOD_US * (double)took_us / (double)(now_us - t->looked_us + 1));
        t->used_us = used_us;
        t->looked_us = now_us;
        /* What waits for something else than the CPU is slowed by nothing but a limit well below what it takes. */
        if (t->quota_us && quota > (uint64_t)(SHARE * (double)t->quota_us))
                quota = (uint64_t)(SHARE * (double)t->quota_us);
        if (quota < QUOTA_MIN_US)
                quota = QUOTA_MIN_US;
        if (t->quota_us && quota >= t->quota_us)
                return 1;
        (void)snprintf(limit, sizeof(limit), "%" PRIu64 " %d", quota, PERIOD_US);
        t->stepped = true; /* also when it failed half-way */
        r = write_limit(t->directory, t->v2, limit);
        if (r < 0)
                return error_errno(err, -r, "cannot set the CPU limit of %s", t->directory);
        t->quota_us = quota;
        *ret_allowed = (unsigned)(quota * 1000 / PERIOD_US);
        return 0;
}

int throttle_lift(struct throttle *t, struct error *err)
{
        if (!t->stepped)
                return 0;
        int r = throttle_restore(t->directory, t->before, err);
        if (r == 0)
                t->stepped = false;
        return r;
}

int throttle_restore(const char *directory, const char *before, struct error *err)
{
        const bool v2 = has(directory, "cpu.max");

        if (!v2 && !has(directory, "cpu.cfs_quota_us"))
                return 0;
        int r = write_limit(directory, v2, before);
        return r < 0 ? error_errno(err, -r, "cannot put the CPU limit of %s back to %s", directory, before) : 0;
}
