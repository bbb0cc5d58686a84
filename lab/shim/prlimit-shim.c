/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets criu read resource limits on a machine whose root has no CAP_SYS_RESOURCE.
 *
 * Without it, prlimit64() on a process of another user fails with EPERM, and nothing that dropped its privileges could
 * be dumped. /proc/PID/limits shows the same numbers to everyone, so a pure read that was refused is answered from
 * there. criu makes the call through syscall(), libc users through prlimit(); both are covered. Lab only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* First words of the lines of /proc/PID/limits, by resource. */
static const char *const line_names[] = {
        [RLIMIT_CPU] = "Max cpu time",
        [RLIMIT_FSIZE] = "Max file size",
        [RLIMIT_DATA] = "Max data size",
        [RLIMIT_STACK] = "Max stack size",
        [RLIMIT_CORE] = "Max core file size",
        [RLIMIT_RSS] = "Max resident set",
        [RLIMIT_NPROC] = "Max processes",
        [RLIMIT_NOFILE] = "Max open files",
        [RLIMIT_MEMLOCK] = "Max locked memory",
        [RLIMIT_AS] = "Max address space",
        [RLIMIT_LOCKS] = "Max file locks",
        [RLIMIT_SIGPENDING] = "Max pending signals",
        [RLIMIT_MSGQUEUE] = "Max msgqueue size",
        [RLIMIT_NICE] = "Max nice priority",
        [RLIMIT_RTPRIO] = "Max realtime priority",
        [RLIMIT_RTTIME] = "Max realtime timeout",
};

static long (*real_syscall)(long number, ...);

/* Nothing that criu executes inherits the shim. */
__attribute__((constructor)) static void begin(void)
{
        *(void **)&real_syscall = dlsym(RTLD_NEXT, "syscall");
        if (!real_syscall)
                abort();
        unsetenv("LD_PRELOAD");
}

static rlim64_t parse_limit(const char *word)
{
        return strcmp(word, "unlimited") == 0 ? RLIM64_INFINITY : strtoull(word, NULL, 10);
}

static int read_from_proc(pid_t pid, unsigned resource, struct rlimit64 *ret)
{
        char path[64], line[256], soft[32], hard[32];
        int found = 0;

        if (resource >= sizeof(line_names) / sizeof(line_names[0]))
                return -1;
        snprintf(path, sizeof(path), "/proc/%d/limits", pid);
        FILE *file = fopen(path, "re");
        if (!file)
                return -1;
        size_t length = strlen(line_names[resource]);
        while (!found && fgets(line, sizeof(line), file))
                if (strncmp(line, line_names[resource], length) == 0)
                        found = sscanf(line + length, "%31s %31s", soft, hard) == 2;
        fclose(file);
        if (!found)
                return -1;
        *ret = (struct rlimit64){.rlim_cur = parse_limit(soft), .rlim_max = parse_limit(hard)};
        return 0;
}

static long shimmed_prlimit64(pid_t pid, unsigned resource, const void *new_limit, void *old_limit)
{
        long result = real_syscall(SYS_prlimit64, (long)pid, (long)resource, new_limit, old_limit);

        if (result == 0 || errno != EPERM || new_limit || !old_limit)
                return result;
        if (read_from_proc(pid, resource, old_limit) == 0)
                return 0;
        errno = EPERM;
        return -1;
}

int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *new_limit, struct rlimit *old_limit)
{
        return (int)shimmed_prlimit64(pid, resource, new_limit, old_limit);
}

int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *new_limit, struct rlimit64 *old_limit)
{
        return (int)shimmed_prlimit64(pid, resource, new_limit, old_limit);
}

long syscall(long number, ...)
{
        va_list list;
        long a[6];

        va_start(list, number);
        for (int n = 0; n < 6; n++)
                a[n] = va_arg(list, long);
        va_end(list);
        if (number == SYS_prlimit64)
                return shimmed_prlimit64((pid_t)a[0], (unsigned)a[1], (const void *)a[2], (void *)a[3]);
        return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
