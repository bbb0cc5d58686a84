/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "preflight/outside.h"

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
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define MAPS_MAX (64U << 20)

/* -- ends of ours ------------------------------------------------------------------------------------------------ */

uint64_t shared_key(uint64_t device, uint64_t inode)
{
        return device * 0x9e3779b97f4a7c15U ^ inode;
}

uint64_t shared_memory_key(pid_t pid, uint64_t device, uint64_t inode, const char *path)
{
        struct stat st;
        char file[64];

        if (strncmp(path, "/SYSV", 5) != 0)
                return shared_key(device, inode);
        (void)snprintf(file, sizeof(file), "/proc/%d/ns/ipc", (int)pid);
        return shared_key(stat(file, &st) == 0 ? st.st_ino : 0, shared_key(device, inode));
}

int shared_add(struct shared_ends *s, enum shared_kind kind, uint64_t key, pid_t pid, int fd)
{
        if (s->n == s->room) {
                size_t room = s->room ? s->room * 2 : 64;
                struct shared_end *grown = reallocarray(s->ends, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                s->ends = grown;
                s->room = room;
        }
        s->ends[s->n++] = (struct shared_end){.kind = kind, .key = key, .pid = pid, .fd = fd};
        return 0;
}

static int by_key(const void *a, const void *b)
{
        const struct shared_end *x = a, *y = b;

        if (x->kind != y->kind)
                return x->kind < y->kind ? -1 : 1;
        return (x->key > y->key) - (x->key < y->key);
}

static const struct shared_end *find(const struct shared_ends *s, enum shared_kind kind, uint64_t key)
{
        const struct shared_end wanted = {.kind = kind, .key = key};

        const struct shared_end *end = s->n ? bsearch(&wanted, s->ends, s->n, sizeof(*s->ends), by_key) : NULL;

        /* Many may lead to one: the first of them stands for all. */
        while (end && end > s->ends && by_key(end - 1, end) == 0)
                end--;
        return end;
}

static bool has_kind(const struct shared_ends *s, enum shared_kind kind)
{
        for (size_t i = 0; i < s->n; i++)
                if (s->ends[i].kind == kind)
                        return true;
        return false;
}

/* -- ends of others ---------------------------------------------------------------------------------------------- */

struct look {
        struct shared_ends *ends;
        const struct border *border;
        struct suspicion *suspicion;
        bool memory, files; /* whether there is anything to compare maps and files with */
        pid_t pid;          /* whom we are looking at */
        bool placed;        /* and it is known where that one belongs */
        enum border_side side;
        char comm[32];
        bool *met; /* of each end: somebody outside has it, and it was reported */
};

static void name_of(pid_t pid, char *ret, size_t size)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        bool known = fd_read_file(AT_FDCWD, path, 256, &text, NULL) == 0;
        (void)snprintf(ret, size, "%.*s", known ? (int)strcspn(text, "\n") : 1, known ? text : "?");
}

/* Whom we are looking at may have been born into the tree since that was listed. */
static bool is_outside(struct look *l)
{
        if (!l->placed)
                l->side = border_where(l->border, l->pid);
        l->placed = true;
        return l->side == BORDER_OUTSIDE;
}

/* Each end is reported once, however many others have it. */
static void meet(struct look *l, enum shared_kind kind, uint64_t key)
{
        static const enum problem problems[] = {
                [SHARED_PIPE] = PROBLEM_PIPE_OUTSIDE,       [SHARED_PEER] = PROBLEM_UNIX_OUTSIDE,
                [SHARED_FIFO] = PROBLEM_PIPE_OUTSIDE,       [SHARED_MEMORY] = PROBLEM_MEMORY_OUTSIDE,
                [SHARED_WRITTEN] = PROBLEM_WRITTEN_OUTSIDE,
        };
        const struct shared_end *end = find(l->ends, kind, key);
        char comm[32], where[32] = "";

        if (!end || l->met[end - l->ends->ends])
                return;
        if (!is_outside(l)) {
                /* The peer of a socket has one end: it was found, and is ours. */
                l->met[end - l->ends->ends] = kind == SHARED_PEER;
                return;
        }
        l->met[end - l->ends->ends] = true;
        if (!suspicion_holds(l->suspicion, kind, key))
                return;
        name_of(end->pid, comm, sizeof(comm));
        if (end->fd >= 0)
                (void)snprintf(where, sizeof(where), " fd %d", end->fd);
        findings_note(l->suspicion->findings, problems[kind], "process %d (%s)%s with process %d (%s)", (int)end->pid,
                      comm, where, (int)l->pid, l->comm);
}

static bool number_in(const char *link, const char *start, uint64_t *ret)
{
        const size_t n = strlen(start);

        if (strncmp(link, start, n) != 0)
                return false;
        *ret = strtoull(link + n, NULL, 10);
        return true;
}

/* The mode of such a link says how the file is open. Nothing is synchronised with a server. */
static void meet_file(struct look *l, int dir, const char *name)
{
        struct stat link;
        struct statx st;

        if (fstatat(dir, name, &link, AT_SYMLINK_NOFOLLOW) < 0 ||
            statx(dir, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO, &st) < 0)
                return;
        const uint64_t key = shared_key(makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino);
        if (S_ISFIFO(st.stx_mode))
                meet(l, SHARED_FIFO, key);
        else if (S_ISREG(st.stx_mode)) {
                meet(l, SHARED_MEMORY, key);
                if (link.st_mode & S_IWUSR)
                        meet(l, SHARED_WRITTEN, key);
        }
}

static void look_at_descriptors(struct look *l)
{
        char path[64], link[256];
        struct dirent *entry;
        uint64_t inode;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)l->pid);
        AUTO_DIR DIR *dir = opendir(path);
        while (dir && (entry = readdir(dir))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
                if (n < 0)
                        continue;
                link[n] = '\0';
                if (number_in(link, "pipe:[", &inode))
                        meet(l, SHARED_PIPE, inode);
                else if (number_in(link, "socket:[", &inode))
                        meet(l, SHARED_PEER, inode);
                else if (link[0] == '/' && l->files)
                        meet_file(l, dirfd(dir), entry->d_name);
        }
}

/* "7f00-7f10 rw-s 00000000 00:01 4711      /dev/zero (deleted)" */
static void look_at_mappings(struct look *l)
{
        AUTO_FREE char *text = NULL;
        char path[64], *save = NULL;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)l->pid);
        if (fd_read_file(AT_FDCWD, path, MAPS_MAX, &text, NULL) < 0)
                return;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                unsigned major, minor;
                uint64_t inode;
                char mode;
                int at = 0;
                if (sscanf(line, "%*s %*3s%c %*s %x:%x %" SCNu64 " %n", &mode, &major, &minor, &inode, &at) == 4 &&
                    mode == 's' && at && line[at] == '/')
                        meet(l, SHARED_MEMORY, shared_memory_key(l->pid, makedev(major, minor), inode, line + at));
        }
}

/* The mappings of a task that hangs may make us hang. */
static bool hangs(pid_t pid)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        const char *end = fd_read_file(AT_FDCWD, path, 4096, &text, NULL) == 0 ? strrchr(text, ')') : NULL;
        return end && end[1] == ' ' && end[2] == 'D';
}

static void look_at_everybody(struct look *l, uint64_t deadline_ms)
{
        struct dirent *entry;
        size_t missed = 0;

        AUTO_DIR DIR *proc = opendir("/proc");
        while (proc && (entry = readdir(proc))) {
                l->pid = (pid_t)strtol(entry->d_name, NULL, 10);
                if (l->pid <= 0 || number_set_has(l->border->tree, (uint64_t)l->pid) || l->pid == getpid())
                        continue;
                if (clock_ms() >= deadline_ms) {
                        missed++;
                        continue;
                }
                l->placed = false;
                name_of(l->pid, l->comm, sizeof(l->comm));
                look_at_descriptors(l);
                if (l->memory && !hangs(l->pid))
                        look_at_mappings(l);
        }
        if (missed)
                findings_note(l->suspicion->findings, PROBLEM_OUTSIDE_UNSEEN, "%zu processes", missed);
}

/* A peer that nobody here has: in a namespace that cannot be seen from here. */
static void report_unmet(const struct look *l)
{
        for (size_t i = 0; i < l->ends->n; i++) {
                const struct shared_end *end = &l->ends->ends[i];
                char comm[32];
                if (end->kind != SHARED_PEER || l->met[i] || (i && by_key(end - 1, end) == 0) ||
                    !suspicion_holds(l->suspicion, SHARED_PEER, end->key))
                        continue;
                name_of(end->pid, comm, sizeof(comm));
                findings_note(l->suspicion->findings, PROBLEM_UNIX_OUTSIDE,
                              "process %d (%s) fd %d with a process out of sight", (int)end->pid, comm, end->fd);
        }
}

int shared_scan(struct shared_ends *s, const struct border *border, uint64_t deadline_ms, struct suspicion *suspicion)
{
        struct look l = {.ends = s, .border = border, .suspicion = suspicion};

        if (s->n == 0)
                return 0;
        qsort(s->ends, s->n, sizeof(*s->ends), by_key);
        l.memory = has_kind(s, SHARED_MEMORY);
        l.files = l.memory || has_kind(s, SHARED_FIFO) || has_kind(s, SHARED_WRITTEN);
        AUTO_FREE bool *met = calloc(s->n, sizeof(*met));
        if (!met)
                return -ENOMEM;
        l.met = met;
        look_at_everybody(&l, deadline_ms);
        report_unmet(&l);
        return 0;
}
