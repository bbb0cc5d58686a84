/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "haulers/process/phaul-restore.h"

#define LOOK_MS 500
#define ALONE_MS 50

/*
 *   phaul-restore ── waits for criu's result only
 *     └─ keeper: reaper of the tree; leader of its session and holder of its terminal's master; process 1 of its pid
 *          │     namespace
 *          ├─ criu restore, with the terminal as its standard input, which is what CRIU gives to the tree
 *          └─ the root of the tree, once criu has gone
 *
 * With a terminal: what the tree prints is read and thrown away, or it would stand still when the terminal's buffer is
 * full. Nobody types.
 *
 * With a pid namespace: CRIU gives pids in the namespace it runs in, and needs a /proc that shows that one. Tasks are
 * born in CRIU's mount namespace, so the tree stays in the one that is made for this: the host's mounts (those made
 * later, too, where the host shares them, as systemd does), and its own /proc.
 *
 * When the last of the tree is gone, so is the keeper.
 */

/* ------------------------------------------------------------------------------------------------------- terminal */

static int open_terminal(int *ret_slave)
{
        char name[64];

        AUTO_FD int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, name, sizeof(name)) != 0)
                return -errno;
        *ret_slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
        return *ret_slave < 0 ? -errno : TAKE_FD(master);
}

static _Noreturn void give_up(const char *what)
{
        (void)fprintf(stderr, "cannot %s: %s\n", what, strerror(errno));
        _exit(1);
}

/* *ret_slave is left alone without one. */
static int take_terminal(bool wanted, int *ret_slave)
{
        /* The last shell's signals would end it with the tree's terminal; only the end of the tree does. */
        (void)signal(SIGHUP, SIG_IGN);
        (void)signal(SIGTTOU, SIG_IGN);
        if (!wanted)
                return -1;
        int master = open_terminal(ret_slave);
        if (master < 0 || ioctl(*ret_slave, TIOCSCTTY, 0) < 0)
                give_up("make a terminal");
        return master;
}

/* ------------------------------------------------------------------------------------------------------ namespaces */

/* Images hold memory, and must not live as long as the tree because it sees their mounts. */
static void detach_images(const char *but)
{
        char buffer[4096];
        struct mntent entry;

        AUTO_FILE FILE *f = setmntent("/proc/self/mounts", "re");
        while (f && getmntent_r(f, &entry, buffer, sizeof(buffer)))
                if (strcmp(entry.mnt_fsname, "phaul") == 0 && strcmp(entry.mnt_type, "tmpfs") == 0 &&
                    (!but || strcmp(entry.mnt_dir, but) != 0))
                        (void)umount2(entry.mnt_dir, MNT_DETACH | UMOUNT_NOFOLLOW);
}

/* The next process gets `pid`: CRIU and its children must not have numbers of the tree. */
static int continue_at(pid_t pid)
{
        AUTO_FD int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
        char text[16];

        int n = snprintf(text, sizeof(text), "%d", (int)pid - 1);
        return fd < 0 || write(fd, text, (size_t)n) != n ? -errno : 0;
}

static void settle_in_namespace(const struct keep *k, const char *images)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                give_up("make a mount namespace");
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                give_up("mount /proc");
        detach_images(images);
        if (continue_at(k->first_pid) < 0)
                give_up("choose a pid");
}

/* Whoever is in the namespace without being our child (who came by setns) would be killed by our end. */
static bool is_alone(void)
{
        AUTO_DIR DIR *proc = opendir("/proc");

        for (const struct dirent *e; proc && (e = readdir(proc));)
                if (isdigit((unsigned char)e->d_name[0]) && strtol(e->d_name, NULL, 10) != getpid())
                        return false;
        return true;
}

/* ---------------------------------------------------------------------------------------------------------- keeping */

static _Noreturn void run_criu(const struct criu_restore_options *options, int slave)
{
        struct error err = {0};

        (void)signal(SIGHUP, SIG_DFL);
        (void)signal(SIGTTOU, SIG_DFL);
        if (slave < 0 || dup2(slave, 0) >= 0)
                (void)criu_restore_exec(options, &err);
        (void)fprintf(stderr, "%s\n", err.text);
        _exit(127);
}

static int exit_code(int status)
{
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Reap until no child is left, and nobody else. */
static _Noreturn void keep(const struct keep *k, int master)
{
        char waste[4096];

        for (;;) {
                struct pollfd p = {.fd = master, .events = POLLIN};
                /* Without a terminal there is nothing else to wait for. */
                pid_t pid = waitpid(-1, NULL, master < 0 ? 0 : WNOHANG);

                if (pid < 0 && errno == ECHILD) {
                        if (!k->first_pid || is_alone())
                                _exit(0);
                        (void)poll(NULL, 0, ALONE_MS);
                } else if (pid == 0 && poll(&p, 1, LOOK_MS) > 0 && read(master, waste, sizeof(waste)) <= 0) {
                        (void)poll(NULL, 0, LOOK_MS); /* nobody has it open at the moment */
                }
        }
}

static _Noreturn void keeper(const struct criu_restore_options *options, const struct keep *k, int report)
{
        int slave = -1, status = 0, code = 1;

        (void)setsid();
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        if (k->first_pid)
                settle_in_namespace(k, options->images);
        int master = take_terminal(k->terminal, &slave);
        pid_t criu = fork();
        if (criu == 0)
                run_criu(options, slave);
        if (slave >= 0)
                (void)close(slave);
        if (criu > 0 && waitpid(criu, &status, 0) == criu)
                code = exit_code(status);
        if (k->first_pid)
                detach_images(NULL);
        (void)!write(report, &code, sizeof(code));
        if (code != 0)
                _exit(1);
        (void)close(report);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0)
                (void)dup2(null, 2);
        keep(k, master);
}

int restore_kept(const struct criu_restore_options *options, const struct keep *k)
{
        int fds[2], code = 1;

        if (pipe2(fds, O_CLOEXEC) < 0) {
                (void)fprintf(stderr, "cannot make a pipe: %s\n", strerror(errno));
                return 1;
        }
        if (k->first_pid && unshare(CLONE_NEWPID) < 0) {
                (void)fprintf(stderr, "cannot make a pid namespace: %s\n", strerror(errno));
                return 1;
        }
        pid_t pid = fork();
        if (pid < 0) {
                (void)fprintf(stderr, "cannot fork: %s\n", strerror(errno));
                return 1;
        }
        if (pid == 0)
                keeper(options, k, fds[1]);
        (void)close(fds[1]);
        if (fd_read_full(fds[0], &code, sizeof(code)) != (ssize_t)sizeof(code))
                code = 1;
        return code;
}
