/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "preflight/findings.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"

/* The ids of items are part of the API; docs/preflight.md explains each. */
static const struct {
        const char *item;
        enum grade grade;
        const char *what, *advice;
} problems[PROBLEMS] = {
        [PROBLEM_OUTSIDE] = {"outside", GRADE_ERROR,
                             "put into it from outside and not part of its tree, so it would be lost",
                             "End what was started by lxc-attach or nsenter"},
        [PROBLEM_TRACED] = {"tasks", GRADE_ERROR, "being traced, and CRIU has to trace it itself",
                            "Detach the debugger or strace"},
        [PROBLEM_UNINTERRUPTIBLE] = {"tasks", GRADE_WARNING,
                                     "in uninterruptible sleep: if that lasts, CRIU cannot stop it and gives up",
                                     "Look what it waits for (a disk, a network file system, a vfork)"},
        [PROBLEM_DEAD_LEADER] = {"tasks", GRADE_ERROR, "a process whose first thread has ended while others run",
                                 "CRIU cannot carry one; restart it"},
        [PROBLEM_NAMESPACE] = {"namespaces", GRADE_ERROR, "in a namespace of its own that CRIU cannot nest",
                               "Switch off the sandbox of that service (PrivateUsers=, ProtectHostname=, "
                               "PrivateIPC=, nested containers) or stop it"},
        [PROBLEM_SECCOMP_STRICT] = {"seccomp", GRADE_WARNING, "under strict seccomp, which few have tried with CRIU",
                                    "Try it on a copy first"},
        [PROBLEM_IO_URING] = {"io_uring", GRADE_ERROR, "uses io_uring, which CRIU cannot carry",
                              "Switch it off in that program and restart it"},
        [PROBLEM_USERFAULTFD] = {"userfaultfd", GRADE_ERROR, "uses a userfaultfd, which CRIU cannot carry",
                                 "Stop that program"},
        [PROBLEM_BPF] = {"bpf", GRADE_ERROR, "holds a BPF object, which CRIU cannot carry", "Stop that program"},
        [PROBLEM_PERF] = {"perf", GRADE_ERROR, "measures by a perf event, which CRIU cannot carry",
                          "Stop that profiler"},
        [PROBLEM_SECCOMP_LISTENER] = {"seccomp", GRADE_ERROR,
                                      "listens for system calls of others (seccomp notify), which CRIU cannot carry",
                                      "Stop that program"},
        [PROBLEM_ANONYMOUS] = {"descriptors", GRADE_ERROR, "holds a descriptor of a kind that CRIU cannot carry",
                               "Stop that program"},
        [PROBLEM_DEVICE] = {"devices", GRADE_ERROR, "has a device open or mapped, whose state CRIU cannot carry",
                            "Stop that program, or let it give the device back"},
        [PROBLEM_FOREIGN_MOUNT] =
                {"mounts", GRADE_ERROR,
                 "has a file open that lies outside the mounts it can see, so it cannot be opened again",
                 "Restart what inherited it, with its standard descriptors redirected"},
        [PROBLEM_DELETED] = {"deleted", GRADE_ERROR, "holds a deleted file that is larger than what CRIU takes along",
                             "Restart that program, or truncate the file through /proc/PID/fd"},
        [PROBLEM_MPTCP] = {"sockets", GRADE_ERROR,
                           "uses multipath TCP (as Go 1.24 does by itself), which CRIU cannot carry",
                           "Start it with GODEBUG=multipathtcp=0, or set net.mptcp.enabled=0"},
        [PROBLEM_SOCKET_FAMILY] = {"sockets", GRADE_ERROR, "has a socket of a kind that CRIU cannot carry",
                                   "Stop that program"},
        [PROBLEM_NETLINK_UNREAD] = {"netlink", GRADE_WARNING,
                                    "has not read what the kernel told it by netlink: if it stays so, CRIU gives up",
                                    "Try again in a moment; restart it if it never reads"},
        [PROBLEM_INET_KERNEL] = {"sockets", GRADE_ERROR,
                                 "has TCP or UDP sockets, which a CRIU before 4.2 cannot carry on Linux 6.16 and later",
                                 "Update CRIU to 4.2 or later"},
        [PROBLEM_HUGETLB] = {"hugetlb", GRADE_WARNING, "has huge pages mapped: as many must be free on the target",
                             "Look at HugePages_Free in /proc/meminfo there"},
        [PROBLEM_UPROBES] = {"tasks", GRADE_ERROR, "has user probes set, which CRIU refuses", "Remove the uprobes"},
        [PROBLEM_COMPAT] = {"programs", GRADE_WARNING,
                            "a program of 32 bits, which CRIU here can carry: that of the target must, too",
                            "Run `criu check --feature compat_cr` there"},
        [PROBLEM_COMPAT_REFUSED] = {"programs", GRADE_ERROR,
                                    "a program of 32 bits, which this CRIU or this kernel cannot carry",
                                    "Run it as a program of 64 bits"},
        [PROBLEM_WATCH] = {"watches", GRADE_ERROR,
                           "watches (inotify, fanotify) what CRIU cannot find again, as in /proc or /sys, or on a "
                           "file system that opens no handles",
                           "Stop that program"},
        [PROBLEM_TERMINAL] =
                {"terminals", GRADE_ERROR,
                 "has a terminal open whose other end is outside, as a shell or lxc-start in the foreground "
                 "has it",
                 "Start it without a terminal (lxc-start -d, setsid, output redirected), or --shell-job "
                 "for a process tree"},
        [PROBLEM_PIPE_OUTSIDE] = {"pipes", GRADE_JUDGED,
                                  "shares a pipe or fifo with a process that stays: it would be cut, and what is in it "
                                  "lost",
                                  "Move the tree that has both ends, or start it without that pipe"},
        [PROBLEM_UNIX_OUTSIDE] = {"unix", GRADE_ERROR,
                                  "has a Unix socket that is connected to a process that stays, which CRIU refuses",
                                  "Let it close that connection (to a log daemon, D-Bus), or move both"},
        [PROBLEM_MEMORY_OUTSIDE] = {"ipc", GRADE_JUDGED,
                                    "shares memory with a process that stays: each would have its own from then on",
                                    "Move both, or stop the other one"},
        [PROBLEM_SYSV_HOST] = {"ipc", GRADE_ERROR,
                               "has SysV shared memory of this host attached, which CRIU carries only with an IPC "
                               "namespace",
                               "Stop that program, or run it in a container"},
        [PROBLEM_LOCK_OUTSIDE] = {"locks", GRADE_JUDGED,
                                  "a file lock across the border: after the migration each host would grant it",
                                  "Wait until it is given back, or stop the other process"},
        [PROBLEM_WRITTEN_OUTSIDE] = {"writers", GRADE_WARNING,
                                     "has a file open for writing that a process that stays has open for writing, too: "
                                     "what that one writes later does not follow",
                                     "Stop the other process, or let each write a file of its own"},
        [PROBLEM_OUTSIDE_UNSEEN] = {"outside", GRADE_WARNING, "not looked at in time for what they share with it",
                                    "Try again when the host is less busy"},
        [PROBLEM_RESTARTED] = {"unit", GRADE_ERROR,
                               "belongs to a unit that systemd starts again when it ends here: two copies would run",
                               "Set Restart=no by a drop-in for the time of the migration"},
        [PROBLEM_UNIT] = {"unit", GRADE_WARNING, "belongs to a unit, which systemd will see end here",
                          "Make sure that nothing else starts it again"},
        [PROBLEM_UNIT_STAYS] = {"unit", GRADE_WARNING,
                                "belongs to a unit that goes on here without it, so systemd does not start it again. "
                                "What is left of the unit may",
                                "Make sure that it does not"},
};

/* What a scan without problems says nothing bad about. */
static const struct {
        const char *item, *text;
} fine[] = {
        {"outside", "every process in it belongs to its tree"},
        {"namespaces", "no nested namespace that CRIU cannot carry"},
        {"sockets", "only sockets that CRIU can carry"},
        {"devices", "no device is in use"},
        {"deleted", "no deleted file is too large"},
        {"mounts", "all open files lie on its own mounts"},
        {"pipes", "no pipe leads outside"},
        {"unix", "no Unix socket is connected to the outside"},
        {"ipc", "no memory is shared with the outside"},
        {"locks", "no file lock is shared with the outside"},
        {"terminals", "no terminal leads outside"},
};

const char *problem_item(enum problem problem)
{
        return problems[problem].item;
}

void findings_note(struct findings *f, enum problem problem, const char *format, ...)
{
        struct finding *one = &f->of[problem];
        char text[EXAMPLE_SIZE];
        va_list list;

        if (one->count < EXAMPLES_MAX) {
                va_start(list, format);
                (void)vsnprintf(text, sizeof(text), format, list);
                va_end(list);
                (void)name_quote(text, one->examples[one->count], EXAMPLE_SIZE);
        }
        one->count++;
}

void findings_take(struct findings *f, const struct findings *from)
{
        for (size_t i = 0; i < PROBLEMS; i++)
                if (from->of[i].count)
                        f->of[i] = from->of[i];
}

static void report_one(const struct finding *one, enum problem problem, hauler_report_fn report, void *context)
{
        char who[EXAMPLES_MAX * EXAMPLE_SIZE + 64] = "", text[1024];
        size_t named = one->count < EXAMPLES_MAX ? one->count : EXAMPLES_MAX;

        for (size_t i = 0; i < named; i++)
                (void)snprintf(who + strlen(who), sizeof(who) - strlen(who), "%s%s", i ? ", " : "", one->examples[i]);
        if (one->count > named)
                (void)snprintf(who + strlen(who), sizeof(who) - strlen(who), " and %zu more", one->count - named);
        (void)snprintf(text, sizeof(text), "%s: %s. %s.", who, problems[problem].what, problems[problem].advice);
        report(problems[problem].item, problems[problem].grade, text, context);
}

static bool has_problem(const struct findings *f, const char *item)
{
        for (size_t i = 0; i < PROBLEMS; i++)
                if (f->of[i].count && strcmp(problems[i].item, item) == 0)
                        return true;
        return false;
}

void findings_report(const struct findings *f, hauler_report_fn report, void *context)
{
        for (size_t i = 0; i < PROBLEMS; i++)
                if (f->of[i].count)
                        report_one(&f->of[i], (enum problem)i, report, context);
}

void findings_report_rest(const struct findings *f, size_t n_tasks, size_t n_descriptors, hauler_report_fn report,
                          void *context)
{
        char text[128];

        if (!has_problem(f, "tasks")) {
                (void)snprintf(text, sizeof(text), "%zu processes with %zu open descriptors were looked at", n_tasks,
                               n_descriptors);
                report("tasks", GRADE_OK, text, context);
        }
        for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
                if (!has_problem(f, fine[i].item))
                        report(fine[i].item, GRADE_OK, fine[i].text, context);
}
