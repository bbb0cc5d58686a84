/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "preflight/scan.h"

#define GHOST_LIMIT (1U << 20) /* CRIU's own default */
#define MAPS_MAX (64U << 20)

/* -- what a link says ------------------------------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *start)
{
        return strncmp(text, start, strlen(start)) == 0;
}

/* Kinds of anonymous inodes: those that CRIU has a dumper for (criu/files.c), and those that deserve a word. */
static bool judge_anonymous(struct scan *s, const struct task *t, int fd, const char *name)
{
        static const char *const carried[] = {"[eventfd]",  "[eventpoll]", "inotify", "[fanotify]",
                                              "[signalfd]", "[timerfd]",   "[pidfd]", NULL};
        static const struct {
                const char *name;
                enum problem problem;
        } known[] = {
                {"[io_uring]", PROBLEM_IO_URING},
                {"[userfaultfd]", PROBLEM_USERFAULTFD},
                {"[perf_event]", PROBLEM_PERF},
                {"bpf", PROBLEM_BPF}, /* bpf-map, bpf-prog, bpf_link, … */
                {"[bpf", PROBLEM_BPF},
                {"seccomp notify", PROBLEM_SECCOMP_LISTENER},
        };

        for (size_t i = 0; carried[i]; i++)
                if (strcmp(name, carried[i]) == 0)
                        return true;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
                if (starts_with(name, known[i].name)) {
                        findings_note(&s->findings, known[i].problem, "process %d (%s) fd %d", (int)t->pid, t->comm,
                                      fd);
                        return true;
                }
        findings_note(&s->findings, PROBLEM_ANONYMOUS, "process %d (%s) fd %d, %s", (int)t->pid, t->comm, fd, name);
        return true;
}

bool descriptor_judge_link(struct scan *s, const struct task *t, int fd, const char *link)
{
        if (starts_with(link, "anon_inode:"))
                return judge_anonymous(s, t, fd, link + strlen("anon_inode:"));
        /* Pipes, sockets, namespaces, pidfds of newer kernels: "pipe:[4711]". Only files have a path. */
        return link[0] != '/';
}

/* -- files ------------------------------------------------------------------------------------------------------ */

int mounts_add(const char *mountinfo, struct number_set *set)
{
        for (const char *line = mountinfo; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (isdigit((unsigned char)*line) && number_set_add(set, strtoull(line, NULL, 10)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* What CRIU can open again: its own list of character devices is memory's, tun, autofs, and terminals, but for
 * serial ones (criu/tty.c: external). */
static bool device_is_carried(unsigned major, unsigned minor)
{
        return major == 1 || (major == 10 && (minor == 200 || minor == 235)) || major == 2 || major == 3 ||
               (major == 4 && minor < 64) || major == 5 || (major >= 136 && major <= 143);
}

/* Files of the kernel's own mounts, which nobody can see: shared memory in its forms. */
static bool is_kernel_memory(const char *path)
{
        return starts_with(path, "/memfd:") || starts_with(path, "/SYSV") || starts_with(path, "/dev/zero (deleted)") ||
               starts_with(path, "/[aio]") || starts_with(path, "/anon_hugepage");
}

static void judge_file(struct scan *s, const struct task *t, const char *where, const char *path,
                       const struct statx *st)
{
        const uint64_t limit = s->ghost_limit ? s->ghost_limit : GHOST_LIMIT;

        if (is_kernel_memory(path))
                return;
        if ((S_ISCHR(st->stx_mode) && !device_is_carried(st->stx_rdev_major, st->stx_rdev_minor)) ||
            S_ISBLK(st->stx_mode))
                findings_note(&s->findings, PROBLEM_DEVICE, "process %d (%s) %s, %.60s (%u:%u)", (int)t->pid, t->comm,
                              where, path, st->stx_rdev_major, st->stx_rdev_minor);
        else if (st->stx_mask & STATX_MNT_ID && s->mounts.n && !number_set_has(&s->mounts, st->stx_mnt_id))
                findings_note(&s->findings, PROBLEM_FOREIGN_MOUNT, "process %d (%s) %s, %.80s", (int)t->pid, t->comm,
                              where, path);
        else if (S_ISREG(st->stx_mode) && st->stx_nlink == 0 && st->stx_blocks * 512 > limit)
                findings_note(&s->findings, PROBLEM_DELETED, "process %d (%s) %s, %.60s, %llu kB", (int)t->pid, t->comm,
                              where, path, (unsigned long long)st->stx_blocks / 2);
}

/* Nothing is synchronised with a server: a network file system that hangs shall not hang us. */
static int look_at(int dir, const char *name, struct statx *ret)
{
        const unsigned wanted = STATX_TYPE | STATX_INO | STATX_NLINK | STATX_BLOCKS | STATX_MNT_ID;

        return statx(dir, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, wanted, ret) < 0 ? -errno : 0;
}

static int judge_socket(struct scan *s, const struct task *t, int fd, const char *link)
{
        char path[64], protocol[32] = "";
        const uint64_t inode = strtoull(link + strlen("socket:["), NULL, 10);

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)t->pid, fd);
        ssize_t n = getxattr(path, "system.sockprotoname", protocol, sizeof(protocol) - 1);
        if (n <= 0)
                return 0;
        socket_judge(s, t, fd, protocol, inode);
        return starts_with(protocol, "UNIX") ? shared_add(&s->shared, SHARED_SOCKET, inode, t->pid, fd) : 0;
}

/* The mode of the link says how it is open. */
static int share_file(struct scan *s, const struct task *t, int fd, int dir, const char *name, const struct statx *st)
{
        const uint64_t key = shared_key(makedev(st->stx_dev_major, st->stx_dev_minor), st->stx_ino);
        char target[16] = "";
        struct stat link;

        if (S_ISCHR(st->stx_mode))
                return terminal_note(s, t, fd, st->stx_rdev_major, st->stx_rdev_minor);
        if (S_ISFIFO(st->stx_mode))
                return shared_add(&s->shared, SHARED_FIFO, key, t->pid, fd);
        if (!S_ISREG(st->stx_mode))
                return 0;
        if (readlinkat(dir, name, target, sizeof(target) - 1) > 0 && is_kernel_memory(target))
                return shared_add(&s->shared, SHARED_MEMORY, key, t->pid, fd);
        if (fstatat(dir, name, &link, AT_SYMLINK_NOFOLLOW) == 0 && (link.st_mode & S_IWUSR))
                return shared_add(&s->shared, SHARED_WRITTEN, key, t->pid, fd);
        return 0;
}

static int judge_descriptor(struct scan *s, const struct task *t, int dir, const char *name, const char *link)
{
        const int fd = (int)strtol(name, NULL, 10);
        struct statx st;
        char where[32];

        if (starts_with(link, "socket:["))
                return judge_socket(s, t, fd, link);
        if (starts_with(link, "pipe:["))
                return shared_add(&s->shared, SHARED_PIPE, strtoull(link + strlen("pipe:["), NULL, 10), t->pid, fd);
        if (!s->again && (strcmp(link, "anon_inode:inotify") == 0 || strcmp(link, "anon_inode:[fanotify]") == 0))
                return watches_judge(s, t, fd);
        if (descriptor_judge_link(s, t, fd, link) || look_at(dir, name, &st) < 0)
                return 0;
        (void)snprintf(where, sizeof(where), "fd %d", fd);
        judge_file(s, t, where, link, &st);
        return share_file(s, t, fd, dir, name, &st);
}

int descriptors_scan(struct scan *s, const struct task *t)
{
        char path[64], link[4096];
        struct dirent *entry;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)t->pid);
        AUTO_DIR DIR *dir = opendir(path);
        while (dir && r == 0 && (entry = readdir(dir))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
                if (n < 0)
                        continue;
                link[n] = '\0';
                s->n_descriptors++;
                r = judge_descriptor(s, t, dirfd(dir), entry->d_name, link);
        }
        return r;
}

/* -- mappings --------------------------------------------------------------------------------------------------- */

bool mapping_judge(struct scan *s, const struct task *t, const char *path)
{
        if (starts_with(path, "/anon_hugepage"))
                findings_note(&s->findings, PROBLEM_HUGETLB, "process %d (%s)", (int)t->pid, t->comm);
        else if (strcmp(path, "[uprobes]") == 0)
                findings_note(&s->findings, PROBLEM_UPROBES, "process %d (%s)", (int)t->pid, t->comm);
        else if (starts_with(path, "anon_inode:[io_uring]"))
                findings_note(&s->findings, PROBLEM_IO_URING, "process %d (%s), mapped", (int)t->pid, t->comm);
        else if (path[0] == '/' && !is_kernel_memory(path))
                return strstr(path, " (deleted)") || starts_with(path, "/dev/");
        return false;
}

/*
 * Kernel's own memory in any mode, files only where they can be written: many programs share a cache that nobody
 * writes.
 */
int mapping_share(struct scan *s, const struct task *t, const char *line, const char *path)
{
        char write, shared;
        unsigned major, minor;
        uint64_t inode;

        if (sscanf(line, "%*s %*1s%c%*1s%c %*s %x:%x %" SCNu64, &write, &shared, &major, &minor, &inode) != 5 ||
            shared != 's' || starts_with(path, "/dev/") != starts_with(path, "/dev/zero (deleted)"))
                return 0;
        if (starts_with(path, "/SYSV") && s->host_ipc)
                findings_note(&s->findings, PROBLEM_SYSV_HOST, "process %d (%s)", (int)t->pid, t->comm);
        else if (is_kernel_memory(path) || (path[0] == '/' && write == 'w'))
                return shared_add(&s->shared, SHARED_MEMORY,
                                  shared_memory_key(t->pid, makedev(major, minor), inode, path), t->pid, -1);
        return 0;
}

/* "7f00-7f10 r--p 00000000 fd:01 4711      /path" */
int mappings_scan(struct scan *s, const struct task *t)
{
        char file[64], previous[4096] = "", *save = NULL;
        AUTO_FREE char *text = NULL;
        struct statx st;

        (void)snprintf(file, sizeof(file), "/proc/%d/maps", (int)t->pid);
        if (fd_read_file(AT_FDCWD, file, MAPS_MAX, &text, NULL) < 0)
                return 0;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                int at = 0;
                if (sscanf(line, "%*s %*s %*s %*s %*s %n", &at) < 0 || !line[at])
                        continue;
                int r = mapping_share(s, t, line, line + at);
                if (r < 0)
                        return r;
                if (strcmp(line + at, previous) == 0)
                        continue;
                (void)snprintf(previous, sizeof(previous), "%s", line + at);
                if (!mapping_judge(s, t, line + at))
                        continue;
                (void)snprintf(file, sizeof(file), "/proc/%d/map_files/%.*s", (int)t->pid, (int)strcspn(line, " "),
                               line);
                if (look_at(AT_FDCWD, file, &st) == 0)
                        judge_file(s, t, "mapped", line + at, &st);
        }
        return 0;
}
