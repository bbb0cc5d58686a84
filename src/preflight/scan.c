/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "preflight/scan.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/proc_status.h"
#include "preflight/preflight.h"

#define MOUNTS_MAX (16U << 20)
#define CGROUP_SETTLES_MS 20

/* -- which tasks ------------------------------------------------------------------------------------------------ */

/* Who is in the cgroup and not in the tree, now and a moment later: a task that is just being born is in neither. */
static int find_outsiders(struct scan *s, const struct preflight_subject *subject)
{
        struct number_set before = {0};
        int r = 0;

        for (int look = 0; r == 0 && look < 2; look++) {
                struct pid_list tree = {0}, here = {0};
                struct number_set known = {0}, strangers = {0};
                r = cgroup_add_tasks(&here, subject->cgroup);
                if (r == 0)
                        r = tree_add(&tree, subject->init);
                if (r == 0)
                        r = tree_set(&tree, &known);
                const struct border border = {.root = subject->init, .tree = &known};
                for (size_t i = 0; r == 0 && i < here.n; i++) {
                        struct task t;
                        if (border_where(&border, here.pids[i]) != BORDER_OUTSIDE || task_read(here.pids[i], &t) < 0)
                                continue;
                        if (look == 0)
                                r = number_set_add(&strangers, (uint64_t)t.pid);
                        else if (number_set_has(&before, (uint64_t)t.pid))
                                findings_note(&s->findings, PROBLEM_OUTSIDE, "process %d (%s)", (int)t.pid, t.comm);
                }
                free(before.numbers);
                before = strangers;
                number_set_sort(&before);
                free(tree.pids);
                free(here.pids);
                free(known.numbers);
                if (before.n == 0)
                        break;
                (void)nanosleep(&(struct timespec){.tv_nsec = CGROUP_SETTLES_MS * 1000000L}, NULL);
        }
        free(before.numbers);
        return r;
}

/* -- one task --------------------------------------------------------------------------------------------------- */

static void read_namespaces(pid_t pid, uint64_t *ret)
{
        for (size_t i = 0; i < NAMESPACES; i++) {
                struct stat st;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, namespace_names[i]);
                ret[i] = stat(path, &st) == 0 ? st.st_ino : 0;
        }
}

/* A mount namespace of its own shows mounts of its own: they count as seen. */
static int add_mounts(struct scan *s, pid_t pid)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
        if (fd_read_file(AT_FDCWD, path, MOUNTS_MAX, &text, NULL) < 0)
                return 0;
        return mounts_add(text, &s->mounts);
}

static int scan_task(struct scan *s, pid_t pid)
{
        uint64_t namespaces[NAMESPACES];
        struct task t;

        if (task_read(pid, &t) < 0)
                return 0; /* it has just ended */
        t.pid = pid;
        /* Most waits are over in no time: only one that lasts is worth a word. */
        for (int look = 0; t.state == 'D' && look < 3; look++) {
                (void)nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
                if (task_read(pid, &t) < 0)
                        return 0;
        }
        task_judge(s, &t);
        if (t.state == 'Z')
                return 0;
        read_namespaces(pid, namespaces);
        namespaces_judge(s, &t, namespaces);
        program_judge(s, &t);
        int r = descriptors_scan(s, &t);
        return r < 0 ? r : mappings_scan(s, &t);
}

/* Who has a root directory of its own is shown no mount above it: we are, and its parent, in the same namespace. */
static int add_hidden_mounts(struct scan *s, pid_t init, const struct number_set *seen)
{
        AUTO_FREE char *text = NULL;
        char path[64];
        pid_t others[2] = {getpid(), 0};
        int r = 0;

        if (proc_status_read(init, &text) == 0)
                others[1] = (pid_t)proc_status_number(text, "PPid");
        for (size_t i = 0; r == 0 && i < 2; i++) {
                struct stat st;
                (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)others[i]);
                for (size_t k = 0; r == 0 && others[i] > 0 && stat(path, &st) == 0 && k < seen->n; k++)
                        if (seen->numbers[k] == st.st_ino) {
                                r = add_mounts(s, others[i]);
                                break;
                        }
        }
        return r;
}

static int prepare(struct scan *s, const struct preflight_subject *subject, const struct pid_list *tree)
{
        AUTO_FREE char *netlink = NULL;
        char path[64];
        struct number_set seen = {0};
        struct stat own;
        int r = 0;

        read_namespaces(subject->init, s->init_ns);
        s->host_ipc = stat("/proc/self/ns/ipc", &own) == 0 && own.st_ino == s->init_ns[NAMESPACE_IPC];
        for (size_t i = 0; r == 0 && i < tree->n; i++) {
                struct stat st;
                (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)tree->pids[i]);
                bool known = stat(path, &st) < 0;
                for (size_t k = 0; !known && k < seen.n; k++)
                        known = seen.numbers[k] == st.st_ino;
                if (known)
                        continue;
                r = number_set_add(&seen, st.st_ino);
                if (r == 0)
                        r = add_mounts(s, tree->pids[i]);
        }
        if (r == 0)
                r = add_hidden_mounts(s, subject->init, &seen);
        free(seen.numbers);
        number_set_sort(&s->mounts);
        (void)snprintf(path, sizeof(path), "/proc/%d/net/netlink", (int)subject->init);
        if (r == 0 && fd_read_file(AT_FDCWD, path, MOUNTS_MAX, &netlink, NULL) == 0)
                r = netlink_unread(netlink, &s->unread);
        return r;
}

/* -- in a child ------------------------------------------------------------------------------------------------- */

void scan_done(struct scan *s)
{
        number_set_done(&s->mounts);
        number_set_done(&s->unread);
        number_set_done(&s->masters);
        number_set_done(&s->hints.roots);
        number_set_done(&s->hints.files);
        free(s->shared.ends);
}

static int scan_all(struct scan *s, const struct preflight_subject *subject)
{
        struct pid_list tree = {0};
        struct utsname u;
        enum grade grade;

        s->ghost_limit = subject->ghost_limit;
        s->inet_kernel = uname(&u) == 0 && preflight_bad_pair(subject->criu, u.release, &grade) != NULL;
        int r = tree_add(&tree, subject->init);
        s->n_tasks = tree.n;
        if (r == 0)
                r = prepare(s, subject, &tree);
        for (size_t i = 0; r == 0 && i < tree.n; i++)
                r = scan_task(s, tree.pids[i]);
        if (r == 0 && subject->cgroup)
                r = find_outsiders(s, subject);
        if (r == 0)
                r = border_scan(s, subject, &tree);
        if (r == 0)
                unit_scan(s, subject->init, &tree);
        free(tree.pids);
        scan_done(s);
        return r;
}

/* What it finds is in memory that the parent has as well: a child that hangs has found that much. */
static _Noreturn void child(struct scan *s, const struct preflight_subject *subject, int out)
{
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        int r = scan_all(s, subject);
        (void)fd_write_all(out, &r, sizeof(r));
        _exit(r == 0 ? 0 : 1);
}

static int await(int fd, int timeout_ms)
{
        int result;

        ssize_t n = fd_read_until(fd, &result, sizeof(result), clock_ms() + (uint64_t)timeout_ms);
        if (n < 0)
                return (int)n;
        return n == (ssize_t)sizeof(result) ? result : -EIO;
}

static void conclude(const struct scan *s, int result, hauler_report_fn report, void *context)
{
        findings_report(&s->findings, report, context);
        if (result == 0)
                findings_report_rest(&s->findings, s->n_tasks, s->n_descriptors, report, context);
        else
                report("tasks", GRADE_JUDGED,
                       result == -ETIMEDOUT
                               ? "not everything could be looked at in time: one of the processes hangs, or there is "
                                 "too much of them. Look for tasks in state D"
                               : "the processes could not be looked at; is memory short?",
                       context);
}

static int scan_apart(struct scan *s, const struct preflight_subject *subject, int timeout_ms, hauler_report_fn report,
                      void *context, struct error *err)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        AUTO_FD int in = fds[0];
        AUTO_FD int out = fds[1];
        pid_t worker = fork();
        if (worker < 0)
                return error_errno(err, errno, "cannot fork");
        if (worker == 0)
                child(s, subject, out);
        (void)close(TAKE_FD(out));
        int r = await(in, timeout_ms);
        if (r < 0)
                (void)kill(worker, SIGKILL);
        /* Killed, it ends at once, unless it hangs in the kernel: then it is left to init. */
        for (int i = 0; i < 100 && waitpid(worker, NULL, r < 0 ? WNOHANG : 0) == 0; i++)
                (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        conclude(s, r, report, context);
        return 0;
}

int preflight_scan(const struct preflight_subject *subject, int timeout_ms, hauler_report_fn report, void *context,
                   struct error *err)
{
        struct scan *s =
                mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); /* all zeros */

        if (s == MAP_FAILED)
                return error_errno(err, errno, "cannot get memory");
        int r = scan_apart(s, subject, timeout_ms, report, context, err);
        (void)munmap(s, sizeof(*s));
        return r;
}
