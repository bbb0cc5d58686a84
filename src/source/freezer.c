/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/freezer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define SETTLE_MS 2000
#define PIDS_MAX 100000
#define PROCS_FILE_MAX (4U << 20)

static int write_text(const char *directory, const char *file, const char *text)
{
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/%s", directory, file) >= (int)sizeof(path))
                return -ENAMETOOLONG;
        AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}

/* v1: freezer.state says FROZEN or THAWED, with FREEZING on the way; v2: cgroup.events has "frozen 1". */
static int is_frozen(const char *directory, bool v2, bool *ret)
{
        char path[PATH_MAX];
        AUTO_FREE char *text = NULL;

        if (snprintf(path, sizeof(path), "%s/%s", directory, v2 ? "cgroup.events" : "freezer.state") >=
            (int)sizeof(path))
                return -ENAMETOOLONG;
        int r = fd_read_file(AT_FDCWD, path, 4096, &text, NULL);
        if (r < 0)
                return r;
        *ret = v2 ? strstr(text, "frozen 1") != NULL : strncmp(text, "FROZEN", 6) == 0;
        return 0;
}

static int set(const char *directory, bool v2, bool freeze, struct error *err)
{
        const uint64_t deadline = clock_ms() + SETTLE_MS;
        const struct timespec nap = {.tv_nsec = 200000};
        bool frozen = !freeze;

        int r = v2 ? write_text(directory, "cgroup.freeze", freeze ? "1" : "0")
                   : write_text(directory, "freezer.state", freeze ? "FROZEN" : "THAWED");
        if (r < 0)
                return error_errno(err, -r, "cannot %s %s", freeze ? "freeze" : "thaw", directory);

        for (;;) {
                r = is_frozen(directory, v2, &frozen);
                if (r < 0)
                        return error_errno(err, -r, "cannot read the freezer of %s", directory);
                if (frozen == freeze)
                        return 0;
                if (clock_ms() > deadline)
                        return error_set(err, ETIMEDOUT, "%s did not %s within %d ms", directory,
                                         freeze ? "freeze" : "thaw", SETTLE_MS);
                (void)nanosleep(&nap, NULL);
        }
}

int freezer_freeze(const char *directory, bool v2, struct error *err)
{
        return set(directory, v2, true, err);
}

int freezer_thaw(const char *directory, bool v2, struct error *err)
{
        return set(directory, v2, false, err);
}

struct pids {
        pid_t *list;
        size_t count, room;
};

static int pids_add(struct pids *p, pid_t pid)
{
        if (p->count == p->room) {
                size_t room = p->room ? 2 * p->room : 64;
                pid_t *grown = room <= PIDS_MAX ? realloc(p->list, room * sizeof(*grown)) : NULL;
                if (!grown)
                        return -ENOMEM;
                p->list = grown;
                p->room = room;
        }
        p->list[p->count++] = pid;
        return 0;
}

static int collect(int parent, const char *name, unsigned depth, struct pids *pids)
{
        AUTO_FREE char *text = NULL;
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir) {
                (void)close(fd);
                return -ENOMEM;
        }
        int r = fd_read_file(fd, "cgroup.procs", PROCS_FILE_MAX, &text, NULL);
        if (r < 0 && r != -EOPNOTSUPP)
                return r;

        char *state = NULL;
        for (char *line = text ? strtok_r(text, "\n", &state) : NULL; line; line = strtok_r(NULL, "\n", &state)) {
                long pid = strtol(line, NULL, 10);
                if (pid > 0 && pid <= INT_MAX && (r = pids_add(pids, (pid_t)pid)) < 0)
                        return r;
        }
        for (const struct dirent *e; depth < 32 && (e = readdir(dir));)
                if (e->d_type == DT_DIR && e->d_name[0] != '.' && (r = collect(fd, e->d_name, depth + 1, pids)) < 0)
                        return r;
        return 0;
}

int freezer_pids(const char *directory, pid_t **ret, size_t *ret_n, struct error *err)
{
        struct pids pids = {0};

        int r = collect(AT_FDCWD, directory, 0, &pids);
        if (r < 0) {
                free(pids.list);
                return error_errno(err, -r, "cannot list the tasks of %s", directory);
        }
        *ret = pids.list;
        *ret_n = pids.count;
        return 0;
}

int freezer_kill(const char *directory, struct error *err)
{
        size_t before = 0;

        /* Frozen tasks cannot fork: a second pass only catches what was being born when the freezer came down. */
        for (int pass = 0; pass < 4; pass++) {
                AUTO_FREE pid_t *pids = NULL;
                size_t n = 0;

                int r = freezer_pids(directory, &pids, &n, err);
                if (r < 0)
                        return r;
                for (size_t i = 0; i < n; i++)
                        (void)kill(pids[i], SIGKILL);
                if (n == before)
                        break;
                before = n;
        }
        return 0;
}
