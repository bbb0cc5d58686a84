/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "haulers/process/phaul-restore.h"

#define LOOK_MS 500

/*
 *   phaul-restore ── waits for criu's result only
 *     └─ keeper: leader of the session, holds the terminal's master, reaper of the tree
 *          ├─ criu restore, with the terminal as its standard input, which is what CRIU gives to the tree
 *          └─ the root of the tree, once criu has gone
 *
 * What the tree prints is read and thrown away, or it would stand still when the terminal's buffer is full. Nobody
 * types. When the last of the tree is gone, so is the keeper.
 */
static int open_terminal(int *ret_slave)
{
        char name[64];

        AUTO_FD int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, name, sizeof(name)) != 0)
                return -errno;
        *ret_slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
        return *ret_slave < 0 ? -errno : TAKE_FD(master);
}

static _Noreturn void run_criu(const struct criu_restore_options *options, int slave)
{
        struct error err = {0};

        if (dup2(slave, 0) >= 0)
                (void)criu_restore_exec(options, &err);
        (void)fprintf(stderr, "%s\n", err.text);
        _exit(127);
}

static int exit_code(int status)
{
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Reap until no child is left. */
static _Noreturn void keep(int master)
{
        char waste[4096];

        for (;;) {
                struct pollfd p = {.fd = master, .events = POLLIN};
                pid_t pid = waitpid(-1, NULL, WNOHANG);

                if (pid < 0 && errno == ECHILD)
                        _exit(0);
                if (pid > 0)
                        continue;
                if (poll(&p, 1, LOOK_MS) > 0 && read(master, waste, sizeof(waste)) <= 0)
                        (void)poll(NULL, 0, LOOK_MS); /* nobody has it open at the moment */
        }
}

static _Noreturn void keeper(const struct criu_restore_options *options, int report)
{
        int slave = -1, status = 0, code = 1;

        (void)setsid();
        /* The last shell's signals would end it with the tree's terminal; only the end of the tree does. */
        (void)signal(SIGHUP, SIG_IGN);
        (void)signal(SIGTTOU, SIG_IGN);
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        int master = open_terminal(&slave);
        if (master < 0 || ioctl(slave, TIOCSCTTY, 0) < 0) {
                (void)fprintf(stderr, "cannot make a terminal: %s\n", strerror(errno));
                _exit(1);
        }
        pid_t criu = fork();
        if (criu == 0) {
                (void)signal(SIGHUP, SIG_DFL);
                (void)signal(SIGTTOU, SIG_DFL);
                run_criu(options, slave);
        }
        (void)close(slave);
        if (criu > 0 && waitpid(criu, &status, 0) == criu)
                code = exit_code(status);
        (void)!write(report, &code, sizeof(code));
        if (code != 0)
                _exit(1);
        (void)close(report);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0)
                (void)dup2(null, 2);
        keep(master);
}

int restore_at_terminal(const struct criu_restore_options *options)
{
        int fds[2], code = 1;

        if (pipe2(fds, O_CLOEXEC) < 0) {
                (void)fprintf(stderr, "cannot make a pipe: %s\n", strerror(errno));
                return 1;
        }
        pid_t pid = fork();
        if (pid < 0) {
                (void)fprintf(stderr, "cannot fork: %s\n", strerror(errno));
                return 1;
        }
        if (pid == 0)
                keeper(options, fds[1]);
        (void)close(fds[1]);
        if (fd_read_full(fds[0], &code, sizeof(code)) != (ssize_t)sizeof(code))
                code = 1;
        return code;
}
