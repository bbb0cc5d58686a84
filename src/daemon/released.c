/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/released.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/name.h"

#define GONE ".gone-"
#define IDLE_IO (3 << 13) /* IOPRIO_CLASS_IDLE of linux/ioprio.h */
#define NICE 19

struct released {
        struct loop *loop;
        const char *state;
        pid_t pid; /* of the child that removes; 0: none */
        struct source *child;
        bool again; /* more has come since it began */
};

/* -- in the child ------------------------------------------------------------------------------------------------- */

/* Only what bears the migration's id: a link may also say where something was left in its place. */
static int remove_aside(int dir, const char *link, const char *id, struct error *err)
{
        char place[PATH_MAX], name[ID_LENGTH + 32];

        ssize_t n = readlinkat(dir, link, place, sizeof(place) - 1);
        if (n <= 0 || place[0] != '/')
                return 0;
        place[n] = '\0';
        (void)snprintf(name, sizeof(name), "/.phaul-released-%s", id);
        return strcmp(strrchr(place, '/'), name) == 0 ? fd_remove_tree(AT_FDCWD, place, err) : 0;
}

static int remove_one(int parent, const char *name, struct error *err)
{
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        AUTO_DIR DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        if (!dir && fd >= 0)
                (void)close(fd);
        for (const struct dirent *e; dir && (e = readdir(dir));) {
                int r = remove_aside(dirfd(dir), e->d_name, name + strlen(GONE), err);
                if (r < 0)
                        return r;
        }
        return fd_remove_tree(parent, name, err);
}

static bool is_gone(const char *name)
{
        return strncmp(name, GONE, strlen(GONE)) == 0 && id_is_valid(name + strlen(GONE));
}

/* Behind everybody else. Nothing of phauld's stays open in it: neither its lock nor its sockets. */
static _Noreturn void child(int dir_fd)
{
        int failed = 0;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)setpriority(PRIO_PROCESS, 0, NICE);
        (void)syscall(SYS_ioprio_set, 1, 0, IDLE_IO);
        if (dup2(dir_fd, 3) < 0)
                _exit(1);
        (void)close_range(4, ~0U, 0);
        DIR *dir = fdopendir(3);
        for (const struct dirent *e; dir && (e = readdir(dir));) {
                struct error err = {0};
                if (!is_gone(e->d_name))
                        continue;
                if (remove_one(3, e->d_name, &err) < 0) {
                        log_warning("cannot remove %s: %s", e->d_name, err.text);
                        failed = 1;
                } else {
                        log_info("removed %s", e->d_name);
                }
        }
        _exit(failed);
}

/* -- in phauld ---------------------------------------------------------------------------------------------------- */

static void on_end(pid_t pid, int status, void *context)
{
        struct released *r = context;

        (void)pid;
        r->pid = 0;
        source_free(TAKE_PTR(r->child));
        if (status != 0)
                log_warning("not all released files could be removed; they are tried again later");
        if (r->again)
                released_sweep(r);
}

static int open_home(const struct released *r)
{
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/released", r->state) >= (int)sizeof(path))
                return -ENAMETOOLONG;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static bool has_work(int fd)
{
        AUTO_FD int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        AUTO_DIR DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
        if (dir)
                (void)TAKE_FD(copy);
        for (const struct dirent *e; dir && (e = readdir(dir));)
                if (is_gone(e->d_name))
                        return true;
        return false;
}

static void end_child(struct released *r)
{
        if (r->pid <= 0)
                return;
        (void)kill(r->pid, SIGKILL);
        while (waitpid(r->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        r->pid = 0;
}

void released_sweep(struct released *r)
{
        AUTO_FD int fd = open_home(r);

        r->again = r->pid > 0;
        if (r->pid > 0 || fd < 0 || !has_work(fd))
                return;
        pid_t pid = fork();
        if (pid == 0)
                child(fd);
        if (pid < 0) {
                log_warning("cannot remove released files: %s", strerrordesc_np(errno));
                return;
        }
        r->pid = pid;
        int n = loop_add_child(r->loop, pid, on_end, r, &r->child);
        if (n < 0) {
                log_warning("cannot watch the removal of released files: %s", strerrordesc_np(-n));
                end_child(r);
        }
}

int released_forget(struct released *r, const char *id, struct error *err)
{
        char gone[ID_LENGTH + sizeof(GONE)];
        AUTO_FD int fd = open_home(r);

        (void)snprintf(gone, sizeof(gone), GONE "%s", id);
        if (fd < 0 ? fd != -ENOENT : renameat(fd, id, fd, gone) < 0 && errno != ENOENT)
                return error_errno(err, fd < 0 ? -fd : errno, "cannot put the released files of %s away", id);
        released_sweep(r);
        return 0;
}

int released_new(struct loop *loop, const char *state, struct released **ret)
{
        struct released *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        r->loop = loop;
        r->state = state;
        *ret = r;
        return 0;
}

void released_free(struct released *r)
{
        if (!r)
                return;
        source_free(r->child);
        end_child(r);
        free(r);
}
