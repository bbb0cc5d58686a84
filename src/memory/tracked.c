/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/tracked.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "memory/page_notes.h"

void tracked_forget(struct tracked_list *list, struct tracked *process)
{
        if (process->uffd >= 0)
                (void)close(process->uffd);
        page_notes_free(process->notes);
        (void)close(process->pidfd);
        *process = list->list[--list->n];
}

void tracked_done(struct tracked_list *list)
{
        while (list->n)
                tracked_forget(list, &list->list[list->n - 1]);
        free(list->list);
        *list = (struct tracked_list){0};
}

static bool is_over(const struct tracked *process)
{
        struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};

        return poll(&fd, 1, 0) != 0;
}

void tracked_sweep(struct tracked_list *list)
{
        for (size_t i = 0; i < list->n;)
                if (is_over(&list->list[i]))
                        tracked_forget(list, &list->list[i]);
                else
                        i++;
}

/* No other than the one that is looked for is asked anything: the tasks may stand still. */
struct tracked *tracked_find(struct tracked_list *list, pid_t pid)
{
        for (size_t i = 0; i < list->n;) {
                struct tracked *p = &list->list[i];
                if (p->pid != pid)
                        i++;
                else if (is_over(p))
                        tracked_forget(list, p);
                else
                        return p;
        }
        return NULL;
}

int tracked_find_or_add(struct tracked_list *list, pid_t pid, struct tracked **ret, struct error *err)
{
        if ((*ret = tracked_find(list, pid)))
                return 0;
        if (list->n == list->room) {
                size_t room = list->room ? list->room * 2 : 16;
                struct tracked *grown = reallocarray(list->list, room, sizeof(*grown));
                if (!grown)
                        return error_set(err, ENOMEM, "out of memory");
                list->list = grown;
                list->room = room;
        }
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0 && (errno == ESRCH || errno == EINVAL || errno == ENOENT))
                return error_set(err, ESRCH, "process %d is gone", (int)pid);
        if (pidfd < 0)
                return error_errno(err, errno, "cannot open process %d", (int)pid);
        pidfd = fd_lift(pidfd);
        if (fd_is_scarce(pidfd)) { /* not even CRIU could be started any more */
                (void)close(pidfd);
                return error_set(err, EMFILE, "the hard limit on open files is too low to track process %d as well",
                                 (int)pid);
        }
        list->list[list->n] = (struct tracked){.pid = pid, .pidfd = pidfd, .uffd = -1};
        *ret = &list->list[list->n++];
        return 0;
}

int tracked_not(pid_t pid, struct error *err)
{
        return kill(pid, 0) < 0 && errno == ESRCH ? error_set(err, ESRCH, "process %d is gone", (int)pid)
                                                  : error_set(err, EOPNOTSUPP, "process %d is not tracked", (int)pid);
}
