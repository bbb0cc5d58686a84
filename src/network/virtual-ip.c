/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"
#include "network/hooks.h"

/* ------------------------------------------------------------------------------------------------------------ ucarp */

/* A process called ucarp, of root, and of this host: those within containers are visible here as well. */
static bool is_our_ucarp(pid_t pid)
{
        char path[64];
        struct stat theirs, ours, process;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        AUTO_FREE char *comm = NULL;
        if (fd_read_file(AT_FDCWD, path, 64, &comm, NULL) < 0 || strcmp(comm, "ucarp\n") != 0)
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
        if (stat(path, &process) < 0 || process.st_uid != 0)
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
        return stat(path, &theirs) == 0 && stat("/proc/self/ns/pid", &ours) == 0 && theirs.st_ino == ours.st_ino;
}

/* Is `argument` the option `prefix` with `value` in the same word? */
static bool joined(const char *argument, const char *prefix, const char *value)
{
        size_t n = strlen(prefix);

        return strncmp(argument, prefix, n) == 0 && strlen(argument) == n + strlen(value) &&
               memcmp(argument + n, value, strlen(value)) == 0;
}

/* -i NAME, -iNAME, --interface NAME, --interface=NAME */
static bool runs_on(pid_t pid, const char *interface)
{
        char path[64];
        size_t size;
        bool next = false;

        (void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
        AUTO_FREE char *arguments = NULL;
        if (fd_read_file(AT_FDCWD, path, 65536, &arguments, &size) < 0)
                return false;
        for (size_t at = 0; at < size; at += strlen(arguments + at) + 1) {
                const char *word = arguments + at;
                if ((next && strcmp(word, interface) == 0) || joined(word, "-i", interface) ||
                    joined(word, "--interface=", interface))
                        return true;
                next = strcmp(word, "-i") == 0 || strcmp(word, "--interface") == 0;
        }
        return false;
}

/* By pidfd, so that what was looked at is what is signalled. 1 if it was sent, 0 if it is another process. */
static int demote(pid_t pid, const char *interface, struct error *err)
{
        AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

        if (pidfd < 0 || !is_our_ucarp(pid) || (interface && !runs_on(pid, interface)))
                return 0;
        if (syscall(SYS_pidfd_send_signal, pidfd, SIGUSR2, NULL, 0) < 0)
                return errno == ESRCH ? 0 : error_errno(err, errno, "cannot signal ucarp (process %d)", (int)pid);
        return 1;
}

static int demote_from_file(const char *path, struct error *err)
{
        AUTO_FREE char *text = NULL;

        int r = fd_read_file(AT_FDCWD, path, 64, &text, NULL);
        if (r < 0)
                return error_errno(err, -r, "ucarp: cannot read %s", path);
        char *end;
        long pid = strtol(text, &end, 10);
        if (end == text || pid <= 0 || pid > INT32_MAX || (*end && !isspace((unsigned char)*end)))
                return error_set(err, EINVAL, "ucarp: no process id in %s", path);
        return demote((pid_t)pid, NULL, err);
}

static int demote_all(const char *interface, struct error *err)
{
        int count = 0;
        struct dirent *entry;

        AUTO_DIR DIR *proc = opendir("/proc");
        if (!proc)
                return error_errno(err, errno, "ucarp: cannot list processes");
        while ((entry = readdir(proc))) {
                char *end;
                long pid = strtol(entry->d_name, &end, 10);
                if (*end || pid <= 0)
                        continue;
                int r = demote((pid_t)pid, interface, err);
                if (r < 0)
                        return r;
                count += r;
        }
        return count;
}

int hook_ucarp(enum network_event event, const char *which, struct error *err)
{
        int r;

        if (event != NETWORK_LEAVING)
                return 0;
        if (which[0] == '/')
                r = demote_from_file(which, err);
        else
                r = demote_all(strcmp(which, "*") == 0 ? NULL : which, err);
        if (r == 0)
                return error_set(err, ESRCH, "ucarp: none runs here for '%.64s'", which);
        return r < 0 ? r : 0;
}

/* ------------------------------------------------------------------------------------------------------- keepalived */

int hook_keepalived(enum network_event event, const char *instance, const char *directory, struct error *err)
{
        const char *weight = event == NETWORK_LEAVING ? "-253\n" : "0\n";

        if (!name_is_valid(instance))
                return error_set(err, EINVAL, "keepalived: '%.64s' is not a name", instance);
        int r = fd_mkdir_p(directory, 0755);
        AUTO_FD int dir = r < 0 ? -1 : open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (r == 0 && dir < 0)
                r = -errno;
        if (r == 0)
                r = fd_write_file(dir, instance, weight, strlen(weight), 0644);
        if (r < 0)
                return error_errno(err, -r, "keepalived: cannot write %s/%s", directory, instance);
        return 0;
}
