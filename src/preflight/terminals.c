/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "preflight/scan.h"

/*
 * Pseudo terminals. CRIU carries one whose both ends belong to the tree (screen, sshd); of one whose master somebody
 * else has, a shell or lxc-start in the foreground, it takes only that of a shell job (criu/tty.c).
 */
#define PTMX_MAJOR 5
#define PTMX_MINOR 2
#define SLAVE_MAJOR_FIRST 136
#define SLAVE_MAJOR_LAST 143

bool terminal_master_index(const char *fdinfo, uint64_t *ret)
{
        const char *line = strstr(fdinfo, "tty-index:");

        if (!line)
                return false;
        *ret = strtoull(line + strlen("tty-index:"), NULL, 10);
        return true;
}

int terminal_note(struct scan *s, const struct task *t, int fd, unsigned major, unsigned minor)
{
        AUTO_FREE char *text = NULL;
        char path[64];
        uint64_t index;

        if (major >= SLAVE_MAJOR_FIRST && major <= SLAVE_MAJOR_LAST)
                return shared_add(&s->shared, SHARED_TERMINAL, (major - SLAVE_MAJOR_FIRST) * 256U + minor, t->pid, fd);
        if (major != PTMX_MAJOR || minor != PTMX_MINOR)
                return 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)t->pid, fd);
        if (fd_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0 || !terminal_master_index(text, &index))
                return 0;
        return number_set_add(&s->masters, index);
}

void terminals_judge(struct scan *s, struct suspicion *suspicion)
{
        pid_t last = 0;

        number_set_sort(&s->masters);
        for (size_t i = 0; i < s->shared.n; i++) {
                const struct shared_end *end = &s->shared.ends[i];
                /* Once for a task: it has it as its input, output and errors. */
                if (end->kind != SHARED_TERMINAL || number_set_has(&s->masters, end->key) || end->pid == last)
                        continue;
                last = end->pid;
                if (suspicion_holds(suspicion, SHARED_TERMINAL, end->key))
                        findings_note(suspicion->findings, PROBLEM_TERMINAL, "process %d fd %d, pts/%llu",
                                      (int)end->pid, end->fd, (unsigned long long)end->key);
        }
}
