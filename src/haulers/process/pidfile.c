/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "haulers/process/process.h"
#include "haulers/process/root.h"

/*
 * Where the pid of a tree is written to on the target is named by the source. It is a path, and we are root: what is
 * there must look like a pid file, and places where any new file means something are not for it.
 */
#define NUMBER_MAX 32

/* A place for pid files is no other place of the host's: /run, but not what programs read there. */
static bool is_allowed(const char *directory)
{
        static const char *const read[] = {"/run/phaul", "/run/systemd", "/run/udev"};

        for (size_t i = 0; i < sizeof(read) / sizeof(read[0]); i++)
                if (process_is_within(directory, read[i]))
                        return false;
        return process_is_within(directory, "/run") || !process_is_in_the_hosts(directory);
}

static bool holds_number(const char *path)
{
        AUTO_FREE char *text = NULL;

        if (fd_read_file(AT_FDCWD, path, NUMBER_MAX, &text, NULL) < 0)
                return false;
        const size_t n = strspn(text, "0123456789");
        return n > 0 && text[n + strspn(text + n, " \n")] == '\0';
}

int process_pidfile_check(const char *path, struct error *err)
{
        AUTO_FREE char *copy = strdup(path);
        char directory[PATH_MAX];
        struct stat st;

        if (!copy)
                return error_set(err, ENOMEM, "out of memory");
        /* By its true name: /var/run is /run, and a link may lead anywhere. */
        if (path[0] != '/' || !realpath(dirname(copy), directory))
                return error_set_kind(err, ERROR_REFUSED, path[0] == '/' ? errno : EINVAL,
                                      "the pid file %s cannot be written here: there is no such directory", path);
        if (!is_allowed(directory))
                return error_set_kind(err, ERROR_REFUSED, EPERM,
                                      "the pid file %s cannot be written here: %s belongs to the host", path,
                                      directory);
        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot look at the pid file %s", path);
        if (!S_ISREG(st.st_mode) || !holds_number(path))
                return error_set_kind(err, ERROR_REFUSED, EEXIST,
                                      "the pid file %s exists here, and is none: it does not hold a number", path);
        return 0;
}

void process_pidfile_verify(const char *path, struct process_findings *f)
{
        struct error why = {0};

        if (path[0] && process_pidfile_check(path, &why) < 0)
                process_say(f, "pidfile", GRADE_ERROR, "%s", why.text);
}

/* Whoever waits for the file reads a whole number in it. */
int process_pidfile_write(const char *path, pid_t pid, struct error *err)
{
        char text[NUMBER_MAX];

        int r = process_pidfile_check(path, err);
        if (r < 0)
                return r;
        int n = snprintf(text, sizeof(text), "%d\n", (int)pid);
        r = fd_write_file(AT_FDCWD, path, text, (size_t)n, 0644);
        return r < 0 ? error_errno(err, -r, "cannot write the pid file %s", path) : 0;
}
