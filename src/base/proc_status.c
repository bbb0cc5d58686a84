/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/proc_status.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define STATUS_MAX 65536

int proc_status_read(pid_t pid, char **ret)
{
        char path[40];

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        int r = pid > 0 ? fd_read_file(AT_FDCWD, path, STATUS_MAX, ret, NULL) : -ESRCH;
        return r == -ENOENT ? -ESRCH : r;
}

const char *proc_status_value(const char *status, const char *key)
{
        const size_t n = strlen(key);

        for (const char *line = status; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, key, n) == 0 && line[n] == ':')
                        return line + n + 1 + strspn(line + n + 1, " \t");
        }
        return NULL;
}

uint64_t proc_status_number(const char *status, const char *key)
{
        const char *value = proc_status_value(status, key);

        return value ? strtoull(value, NULL, 10) : 0;
}

int proc_status_pids(const char *status, const char *key, pid_t *ret, size_t max)
{
        const char *at = proc_status_value(status, key);
        size_t n = 0;

        for (char *end; at && n < max && *at && *at != '\n'; at = end + strspn(end, " \t")) {
                const long number = strtol(at, &end, 10);
                if (end == at || number < 0 || number > INT_MAX)
                        return -EBADMSG;
                ret[n++] = (pid_t)number;
        }
        return n ? (int)n : -EBADMSG;
}

bool proc_status_runs(pid_t pid)
{
        AUTO_FREE char *status = NULL;

        if (proc_status_read(pid, &status) < 0)
                return false;
        const char *state = proc_status_value(status, "State");
        return state && !strchr("tTXZ", *state) && proc_status_number(status, "TracerPid") == 0;
}
