/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

/* Between the two ends of the pipe: same program, same machine, so a plain structure will do. */
struct inside_result {
        int value;
        size_t size;
        struct error err;
};
#define INSIDE_OUTPUT_MAX (16 << 20)

int inside_open(pid_t pid, struct error *err)
{
        char path[64];
        struct stat theirs, ours;

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot open the network namespace of process %d", (int)pid);
        if (fstat(fd, &theirs) < 0 || stat("/proc/self/ns/net", &ours) < 0)
                return error_errno(err, errno, "cannot look at the network namespace of process %d", (int)pid);
        if (theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev)
                return error_set(err, EOPNOTSUPP, "process %d shares the network of this host", (int)pid);
        return TAKE_FD(fd);
}

static _Noreturn void child(int netns_fd, int out, inside_fn fn, void *context)
{
        struct inside_result result = {0};
        char *output = NULL;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setns(netns_fd, CLONE_NEWNET) < 0)
                result.value = error_errno(&result.err, errno, "cannot enter a network namespace");
        else
                result.value = fn(&output, &result.size, context, &result.err);
        if (!output)
                result.size = 0;
        if (fd_write_all(out, &result, sizeof(result)) == 0 && result.size)
                (void)fd_write_all(out, output, result.size);
        _exit(0);
}

static int collect(int fd, uint64_t deadline, struct inside_result *result, char **ret)
{
        ssize_t n = fd_read_until(fd, result, sizeof(*result), deadline);

        if (n < 0)
                return (int)n;
        if (n != (ssize_t)sizeof(*result) || result->size > INSIDE_OUTPUT_MAX)
                return -EIO;
        AUTO_FREE char *output = malloc(result->size + 1);
        if (!output)
                return -ENOMEM;
        n = fd_read_until(fd, output, result->size, deadline);
        if (n < 0)
                return (int)n;
        if ((size_t)n != result->size)
                return -EIO;
        output[n] = '\0';
        *ret = TAKE_PTR(output);
        return 0;
}

int inside_run(pid_t pid, int timeout_ms, inside_fn fn, void *context, char **ret, size_t *ret_size, struct error *err)
{
        uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;
        struct inside_result result = {0};
        AUTO_FREE char *output = NULL;
        int fds[2];

        int opened = inside_open(pid, err);
        if (opened < 0)
                return opened;
        AUTO_FD int netns_fd = opened;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        AUTO_FD int in = fds[0];
        AUTO_FD int out = fds[1];

        pid_t worker = fork();
        if (worker < 0)
                return error_errno(err, errno, "cannot fork");
        if (worker == 0)
                child(netns_fd, out, fn, context);
        (void)close(TAKE_FD(out));

        int r = collect(in, deadline, &result, &output);
        if (r < 0)
                (void)kill(worker, SIGKILL);
        while (waitpid(worker, NULL, 0) < 0 && errno == EINTR)
                ;
        if (r < 0)
                return error_errno(err, -r, "no answer from within the network of process %d", (int)pid);
        if (result.value < 0) {
                if (err)
                        *err = result.err;
                return result.value;
        }
        if (ret) {
                *ret = TAKE_PTR(output);
                if (ret_size)
                        *ret_size = result.size;
        }
        return result.value;
}
