/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define ENVIRONMENT_PATH "PATH=" SPAWN_PATH

/* Child side: from here on only async-signal-safe calls. Descriptors are first lifted above all targets. */
static int place_fds(const struct spawn_options *o, int *report_fd)
{
        int lifted[SPAWN_FDS_MAX], top = 2;

        for (size_t i = 0; i < o->n_fds; i++)
                if (o->fds[i].target > top)
                        top = o->fds[i].target;
        for (size_t i = 0; i < o->n_fds; i++) {
                lifted[i] = fcntl(o->fds[i].fd, F_DUPFD_CLOEXEC, top + 1);
                if (lifted[i] < 0)
                        return -errno;
        }
        int report = fcntl(*report_fd, F_DUPFD_CLOEXEC, top + 1);
        if (report < 0)
                return -errno;
        *report_fd = report;

        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0)
                return -errno;
        for (int target = 0; target <= 2; target++)
                if (dup2(null, target) < 0)
                        return -errno;
        for (size_t i = 0; i < o->n_fds; i++)
                if (dup2(lifted[i], o->fds[i].target) < 0)
                        return -errno;
        if (o->merge_stderr && dup2(1, 2) < 0)
                return -errno;

        /* What is not wanted closes at exec, so that the report pipe still works when exec fails. */
        if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) < 0)
                return -errno;
        for (size_t i = 0; i < o->n_fds; i++)
                if (o->fds[i].target > 2 && fcntl(o->fds[i].target, F_SETFD, 0) < 0)
                        return -errno;
        return 0;
}

static void reset_signals(void)
{
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigset_t none;

        for (int s = 1; s < NSIG; s++)
                (void)sigaction(s, &standard, NULL);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void keep_from_oom(void)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        /* Lowering needs CAP_SYS_RESOURCE; where it is missing the child stays as killable as its parent. */
        if (fd >= 0) {
                (void)!write(fd, "-1000", 5);
                (void)close(fd);
        }
}

/* Namespaces of another process, and our own pid namespace. */
struct places {
        int pid, mount, own;
};

static void places_done(struct places *p)
{
        const int fds[] = {p->pid, p->mount, p->own};

        for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
                if (fds[i] >= 0)
                        (void)close(fds[i]);
}

static int places_open(pid_t within, struct places *ret)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)within);
        ret->pid = open(path, O_RDONLY | O_CLOEXEC);
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)within);
        ret->mount = open(path, O_RDONLY | O_CLOEXEC);
        ret->own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
        return ret->pid < 0 || ret->mount < 0 || ret->own < 0 ? -errno : 0;
}

/*
 * A pid namespace is for children only: this process enters it for the moment of the fork. It may come back because it
 * never left.
 */
static pid_t fork_within(const struct places *p)
{
        if (p->pid < 0)
                return fork();
        if (setns(p->pid, CLONE_NEWPID) < 0)
                return -1;
        pid_t pid = fork();
        const int saved = errno;
        if (pid != 0 && setns(p->own, CLONE_NEWPID) < 0 && pid > 0) {
                /* What we start from now on would be in there as well: at least nothing is begun with it. */
                const int why = errno;
                (void)kill(pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                errno = why;
                return -1;
        }
        errno = saved;
        return pid;
}

/* The last thing before exec: what was opened above is opened as us. */
static int become(const struct spawn_user *user)
{
        if (setgroups(user->n_groups, user->groups) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
            setresuid(user->uid, user->uid, user->uid) < 0)
                return -errno;
        if (chdir(user->home) < 0 && chdir("/") < 0)
                return -errno;
        return 0;
}

static _Noreturn void child(const struct spawn_options *o, const struct places *places, char *const *env, pid_t parent,
                            int report_fd)
{
        int r;

        if (places->mount >= 0 && setns(places->mount, CLONE_NEWNS) < 0) {
                r = -errno;
                (void)!write(report_fd, &r, sizeof(r));
                _exit(126);
        }
        reset_signals();
        if (o->new_session)
                (void)setsid();
        if (o->die_with_parent) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(126);
        }
        if (o->keep_from_oom)
                keep_from_oom();

        r = place_fds(o, &report_fd);
        if (r == 0 && o->user)
                r = become(o->user);
        if (r == 0) {
                (void)execvpe(o->argv[0], (char *const *)o->argv, env);
                r = -errno;
        }
        (void)!write(report_fd, &r, sizeof(r));
        _exit(126);
}

int spawn_user_find(uid_t uid, struct spawn_user *ret, struct error *err)
{
        const int limit = (int)(sizeof(ret->groups) / sizeof(ret->groups[0]));
        struct passwd entry, *found = NULL;
        char buffer[8192];
        int n = limit;

        int r = getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found);
        if (r != 0)
                return error_errno(err, r, "cannot look user %u up", (unsigned)uid);
        if (!found)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no user %u", (unsigned)uid);
        *ret = (struct spawn_user){.uid = uid, .gid = entry.pw_gid};
        if (snprintf(ret->name, sizeof(ret->name), "%s", entry.pw_name) >= (int)sizeof(ret->name) ||
            snprintf(ret->home, sizeof(ret->home), "%s", entry.pw_dir) >= (int)sizeof(ret->home) ||
            getgrouplist(entry.pw_name, entry.pw_gid, ret->groups, &n) < 0)
                return error_set(err, E2BIG, "user %u has too long a name or home, or too many groups", (unsigned)uid);
        ret->n_groups = (size_t)n;
        return 0;
}

struct environment {
        char home[sizeof("HOME=") + sizeof(((struct spawn_user *)0)->home)];
        char user[sizeof("USER=") + sizeof(((struct spawn_user *)0)->name)];
        char logname[sizeof("LOGNAME=") + sizeof(((struct spawn_user *)0)->name)];
        const char **list; /* NULL-terminated */
};

static int make_environment(struct environment *e, const struct spawn_options *o)
{
        size_t n = 0, n_own = 0;

        while (o->env && o->env[n_own])
                n_own++;
        e->list = calloc(n_own + 6, sizeof(*e->list));
        if (!e->list)
                return -ENOMEM;
        (void)snprintf(e->home, sizeof(e->home), "HOME=%s", o->user ? o->user->home : "/root");
        e->list[n++] = ENVIRONMENT_PATH;
        e->list[n++] = e->home;
        e->list[n++] = "LANG=C.UTF-8";
        if (o->user) {
                (void)snprintf(e->user, sizeof(e->user), "USER=%s", o->user->name);
                (void)snprintf(e->logname, sizeof(e->logname), "LOGNAME=%s", o->user->name);
                e->list[n++] = e->user;
                e->list[n++] = e->logname;
        }
        for (size_t i = 0; i < n_own; i++)
                e->list[n++] = o->env[i];
        return 0;
}

int spawn(const struct spawn_options *options, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
        struct environment environment;
        int pipe_fds[2], failure = 0;

        if (options->n_fds > SPAWN_FDS_MAX)
                return error_set(err, E2BIG, "cannot start %s: too many descriptors", options->argv[0]);
        if (make_environment(&environment, options) < 0)
                return error_set(err, ENOMEM, "cannot start %s: out of memory", options->argv[0]);
        AUTO_FREE const char **env = environment.list;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot start %s", options->argv[0]);
        AUTO_FD int report_read = pipe_fds[0];
        AUTO_FD int report_write = pipe_fds[1];

        CLEANUP(places_done) struct places places = {-1, -1, -1};
        int r = options->within ? places_open(options->within, &places) : 0;
        if (r < 0)
                return error_errno(err, -r, "cannot look into the namespaces of process %d", (int)options->within);
        pid_t parent = getpid();
        pid_t pid = fork_within(&places);
        if (pid < 0)
                return error_errno(err, errno, "cannot start %s", options->argv[0]);
        if (pid == 0)
                child(options, &places, (char *const *)env, parent, report_write);

        (void)close(TAKE_FD(report_write));
        if (fd_read_full(report_read, &failure, sizeof(failure)) == (ssize_t)sizeof(failure)) {
                (void)waitpid(pid, NULL, 0);
                return error_errno(err, -failure, "cannot execute %s", options->argv[0]);
        }

        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
                int saved = errno;
                (void)kill(pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                return error_errno(err, saved, "cannot watch %s", options->argv[0]);
        }
        *ret_pid = pid;
        if (ret_pidfd)
                *ret_pidfd = pidfd;
        else
                (void)close(pidfd);
        return 0;
}

/* Reads until end of file or the deadline; -ETIMEDOUT then. */
static int collect(int fd, uint64_t deadline, char *output, size_t limit)
{
        char waste[4096];

        ssize_t n = fd_read_until(fd, output, limit, deadline);
        if (n < 0)
                return (int)n;
        output[n] = '\0';
        if ((size_t)n < limit)
                return 0;
        do
                n = fd_read_until(fd, waste, sizeof(waste), deadline);
        while (n == (ssize_t)sizeof(waste));
        return n < 0 ? (int)n : 0;
}

int spawn_capture(const struct spawn_options *options, int timeout_ms, size_t limit, char **ret_output,
                  struct error *err)
{
        struct spawn_fd fds[SPAWN_FDS_MAX];
        struct spawn_options copy = *options;
        int pipe_fds[2], status;
        pid_t pid;

        if (options->n_fds >= SPAWN_FDS_MAX)
                return error_set(err, E2BIG, "cannot start %s: too many descriptors", options->argv[0]);
        AUTO_FREE char *output = malloc(limit + 1);
        if (!output)
                return error_set(err, ENOMEM, "cannot start %s: out of memory", options->argv[0]);
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot start %s", options->argv[0]);
        AUTO_FD int read_end = pipe_fds[0];
        AUTO_FD int write_end = pipe_fds[1];

        if (options->n_fds)
                memcpy(fds, options->fds, options->n_fds * sizeof(*fds));
        fds[options->n_fds] = (struct spawn_fd){.fd = write_end, .target = 1};
        copy.fds = fds;
        copy.n_fds = options->n_fds + 1;

        uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;
        AUTO_FD int pidfd = -1;
        int r = spawn(&copy, &pid, &pidfd, err);
        if (r < 0)
                return r;
        (void)close(TAKE_FD(write_end));

        r = collect(read_end, deadline, output, limit);
        if (r == 0) {
                /* Output closed is not yet the end of the child. */
                uint64_t now = clock_ms();
                struct pollfd p = {.fd = pidfd, .events = POLLIN};
                if (poll(&p, 1, now < deadline ? (int)(deadline - now) : 0) == 0)
                        r = -ETIMEDOUT;
        }
        /* In a session of its own also what it has started. It is not reaped yet, so the number is still its own. */
        if (r < 0)
                (void)kill(options->new_session ? -pid : pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_errno(err, errno, "cannot wait for %s", options->argv[0]);
        if (r == -ETIMEDOUT)
                return error_set(err, ETIMEDOUT, "%s did not answer within %d ms", options->argv[0], timeout_ms);
        if (r < 0)
                return error_errno(err, -r, "cannot read from %s", options->argv[0]);

        *ret_output = TAKE_PTR(output);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
