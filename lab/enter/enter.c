/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * enter [--terminal] PID [CGROUP.PROCS …] -- COMMAND [ARGUMENT …]: run a command in the simulated host whose pid 1 is
 * PID here, as one of the cgroups whose files are named. It ends as the command ends; when it dies, the command dies.
 *
 * All that nsenter, setpriv, env and setsid would do one after the other, for tests enter hosts thousands of times.
 * Its environment, directory and descriptors are the caller's affair.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SPACES (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP)
#define NOT_ENTERED 125 /* as env, nohup and the like say that they failed themselves */

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
        int reason = errno;
        va_list list;

        fputs("enter: ", stderr);
        va_start(list, format);
        vfprintf(stderr, format, list);
        va_end(list);
        fprintf(stderr, ": %s\n", strerror(reason));
        exit(NOT_ENTERED);
}

static void join(const char *procs)
{
        int fd = open(procs, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, "0", 1) != 1)
                fail("%s", procs);
        close(fd);
}

static void enter(const char *text)
{
        char *end;
        long pid = strtol(text, &end, 10);

        errno = EINVAL;
        int host = *end || pid <= 0 ? -1 : (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
        if (host < 0 || setns(host, SPACES) < 0)
                fail("the host of process %s", text);
        close(host);
}

/* Whoever runs us in the background of a script, or under nohup, has some signals ignored. */
static void default_signals(void)
{
        sigset_t none;

        for (int number = 1; number < NSIG; number++)
                (void)signal(number, SIG_DFL);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Away from a terminal it leads a session: CRIU dumps no process whose session is outside of its pid namespace. */
__attribute__((noreturn)) static void become(char **command, bool session, int parent)
{
        struct pollfd gone = {.fd = parent};

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (poll(&gone, 1, 0) != 0)
                _exit(NOT_ENTERED); /* the parent was faster */
        close(parent);
        default_signals();
        if (session && setsid() < 0)
                fail("setsid");
        execvp(command[0], command);
        fprintf(stderr, "enter: cannot execute %s: %s\n", command[0], strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
}

/* Stops with the child, as a shell's job control wants it. */
static int wait_for(pid_t child)
{
        int status;

        for (;;) {
                if (waitpid(child, &status, WUNTRACED) < 0) {
                        if (errno != EINTR)
                                fail("waitpid");
                } else if (WIFSTOPPED(status)) {
                        kill(getpid(), SIGSTOP);
                        kill(child, SIGCONT);
                } else {
                        return status;
                }
        }
}

int main(int argc, char **argv)
{
        char **word = argv + 1;
        int ends[2];

        bool terminal = argc > 1 && strcmp(*word, "--terminal") == 0;
        word += terminal;
        const char *host = *word ? *word++ : "";
        while (*word && strcmp(*word, "--") != 0)
                join(*word++);
        if (!*word || !word[1]) {
                fputs("usage: enter [--terminal] PID [CGROUP.PROCS ...] -- COMMAND [ARGUMENT ...]\n", stderr);
                return NOT_ENTERED;
        }
        if (pipe2(ends, O_CLOEXEC) < 0)
                fail("pipe");
        enter(host);
        pid_t child = fork();
        if (child < 0)
                fail("fork");
        if (child == 0) {
                close(ends[1]);
                become(word + 1, !terminal, ends[0]);
        }
        close(ends[0]);
        int status = wait_for(child);
        if (WIFEXITED(status))
                return WEXITSTATUS(status);
        default_signals();
        kill(getpid(), WTERMSIG(status));
        return 128 + WTERMSIG(status);
}
