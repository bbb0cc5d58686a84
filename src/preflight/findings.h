/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "haulers/hauler.h"

/*
 * Everything the scanners can find. A problem is reported once, however many tasks have it: a few are named, the others
 * counted, so that a thousand workers do not make a thousand lines.
 */
enum problem {
        PROBLEM_OUTSIDE,
        PROBLEM_TRACED,
        PROBLEM_UNINTERRUPTIBLE,
        PROBLEM_DEAD_LEADER,
        PROBLEM_NAMESPACE,
        PROBLEM_SECCOMP_STRICT,
        PROBLEM_IO_URING,
        PROBLEM_USERFAULTFD,
        PROBLEM_BPF,
        PROBLEM_PERF,
        PROBLEM_SECCOMP_LISTENER,
        PROBLEM_ANONYMOUS,
        PROBLEM_DEVICE,
        PROBLEM_FOREIGN_MOUNT,
        PROBLEM_DELETED,
        PROBLEM_MPTCP,
        PROBLEM_SOCKET_FAMILY,
        PROBLEM_NETLINK_UNREAD,
        PROBLEM_INET_KERNEL,
        PROBLEM_HUGETLB,
        PROBLEM_UPROBES,
        PROBLEM_COMPAT,
        PROBLEM_COMPAT_REFUSED,
        PROBLEM_WATCH,
        PROBLEM_TERMINAL,
        PROBLEM_PIPE_OUTSIDE,
        PROBLEM_UNIX_OUTSIDE,
        PROBLEM_MEMORY_OUTSIDE,
        PROBLEM_SYSV_HOST,
        PROBLEM_LOCK_OUTSIDE,
        PROBLEM_WRITTEN_OUTSIDE,
        PROBLEM_OUTSIDE_UNSEEN,
        PROBLEM_RESTARTED,
        PROBLEM_UNIT,
        PROBLEM_UNIT_STAYS,
        PROBLEMS
};

#define EXAMPLES_MAX 3
#define EXAMPLE_SIZE 160

struct finding {
        size_t count;
        char examples[EXAMPLES_MAX][EXAMPLE_SIZE];
};

struct findings {
        struct finding of[PROBLEMS];
};

/* Note one case, told as "4711 (nginx) fd 7". Control characters and bytes that are not UTF-8 are escaped. */
void findings_note(struct findings *f, enum problem problem, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* Those problems that `from` has. */
void findings_take(struct findings *f, const struct findings *from);

/* Report all that was found. */
void findings_report(const struct findings *f, hauler_report_fn report, void *context);

/* "ok" for each item of a whole scan that has no problem. */
void findings_report_rest(const struct findings *f, size_t n_tasks, size_t n_descriptors, hauler_report_fn report,
                          void *context);

/* Item of a problem, for the test that holds docs/preflight.md against this table. */
const char *problem_item(enum problem problem);
