/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "preflight/outside.h"

#define FDINFO_MAX (1U << 20)

/*
 * "3: FLOCK  ADVISORY  WRITE 4711 00:2d:5678 0 EOF", and below it "3: -> FLOCK …" for each that waits for it. After a
 * migration both sides would have the lock, each on its own host.
 */
struct lock {
        pid_t pid;
        char file[LOCK_FILE_SIZE], type[16];
        bool inside, waits;
};

static bool parse(const char *line, struct lock *ret)
{
        const char *p = strchr(line, ':');
        int pid;

        if (!p)
                return false;
        p += 1 + strspn(p + 1, " ");
        ret->waits = strncmp(p, "->", 2) == 0;
        if (ret->waits)
                p += 2;
        if (sscanf(p, " %15s %*s %*s %d %63s", ret->type, &pid, ret->file) != 3)
                return false;
        ret->pid = pid;
        return true;
}

static int by_file(const void *a, const void *b)
{
        const struct lock *x = a, *y = b;
        int r = strcmp(x->file, y->file);

        return r ? r : (x->pid > y->pid) - (x->pid < y->pid);
}

/* FNV-1a */
static uint64_t key_of(const char *file)
{
        uint64_t key = 0xcbf29ce484222325U;

        for (; *file; file++)
                key = (key ^ (unsigned char)*file) * 0x100000001b3U;
        return key;
}

/* Locks of one file: is one of them ours and another not? */
static void judge_file(const struct lock *locks, size_t n, struct suspicion *suspicion)
{
        const struct lock *in = NULL, *out = NULL;

        for (size_t i = 0; i < n; i++) {
                if (locks[i].inside)
                        in = in ? in : &locks[i];
                else
                        out = out ? out : &locks[i];
        }
        if (in && out && suspicion_holds(suspicion, SHARED_LOCK, key_of(in->file)))
                findings_note(suspicion->findings, PROBLEM_LOCK_OUTSIDE,
                              "process %d %s one on file %s that process %d %s", (int)in->pid,
                              in->waits ? "waits for" : "has", in->file, (int)out->pid,
                              out->waits ? "waits for" : "has");
}

/* A lock of the open file, which all have who have that. */
static bool is_of_open_file(const struct lock *lock)
{
        return strcmp(lock->type, "OFDLCK") == 0 || strcmp(lock->type, "FLOCK") == 0;
}

struct locks {
        const struct border *border;
        border_where_fn where;
        struct lock *locks;
        size_t n, room;
};

/* 0 or -ENOMEM. */
static int add(struct locks *all, const struct lock *lock)
{
        const enum border_side side = lock->pid > 0 ? all->where(all->border, lock->pid) : BORDER_GONE;

        if (side == BORDER_GONE)
                return 0;
        if (all->n == all->room) {
                const size_t room = all->room ? all->room * 2 : 64;
                struct lock *grown = reallocarray(all->locks, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                all->locks = grown;
                all->room = room;
        }
        all->locks[all->n] = *lock;
        all->locks[all->n++].inside = side == BORDER_INSIDE;
        return 0;
}

static const char *next_line(const char *line)
{
        line += strcspn(line, "\n");
        return line + (*line == '\n');
}

int locks_judge(const char *text, const struct lock_holders *holders, const struct border *border,
                border_where_fn where, struct suspicion *suspicion)
{
        struct locks all = {.border = border, .where = where};
        int r = 0;

        for (const char *line = text; r == 0 && *line; line = next_line(line)) {
                struct lock lock = {0};
                if (parse(line, &lock))
                        r = add(&all, &lock);
        }
        for (size_t i = 0; r == 0 && i < holders->n; i++) {
                struct lock lock = {.pid = holders->holders[i].pid};
                memcpy(lock.file, holders->holders[i].file, sizeof(lock.file));
                r = add(&all, &lock);
        }
        if (r == 0 && all.n)
                qsort(all.locks, all.n, sizeof(*all.locks), by_file);
        for (size_t i = 0, next; r == 0 && i < all.n; i = next) {
                for (next = i + 1; next < all.n && strcmp(all.locks[next].file, all.locks[i].file) == 0;)
                        next++;
                judge_file(all.locks + i, next - i, suspicion);
        }
        free(all.locks);
        return r;
}

/* -- who has locks of open files --------------------------------------------------------------------------------- */

void lock_holders_done(struct lock_holders *h)
{
        free(h->holders);
        *h = (struct lock_holders){0};
}

int lock_holders_add(struct lock_holders *h, pid_t pid, const char *fdinfo)
{
        for (const char *line = fdinfo; *line; line = next_line(line)) {
                struct lock lock = {0};
                if (strncmp(line, "lock:", 5) != 0 || !parse(line + 5, &lock) || !is_of_open_file(&lock))
                        continue;
                if (h->n == h->room) {
                        const size_t room = h->room ? h->room * 2 : 16;
                        struct lock_holder *grown = reallocarray(h->holders, room, sizeof(*grown));
                        if (!grown)
                                return -ENOMEM;
                        h->holders = grown;
                        h->room = room;
                }
                h->holders[h->n].pid = pid;
                memcpy(h->holders[h->n++].file, lock.file, sizeof(lock.file));
        }
        return 0;
}

/* Whether there is one of an open file of which the kernel names nobody, or one that has ended. */
static bool somebody_is_unnamed(const char *text)
{
        for (const char *line = text; *line; line = next_line(line)) {
                struct lock lock = {0};
                if (parse(line, &lock) && is_of_open_file(&lock) && !lock.waits &&
                    (lock.pid <= 0 || (kill(lock.pid, 0) < 0 && errno == ESRCH)))
                        return true;
        }
        return false;
}

/* Only files of a file system can be locked; links of all others begin with their kind. */
static int look_at_files(struct lock_holders *h, pid_t pid)
{
        char path[64], link[2], file[300];
        struct dirent *entry;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        while (dir && r == 0 && (entry = readdir(dir))) {
                AUTO_FREE char *text = NULL;
                if (!isdigit((unsigned char)entry->d_name[0]) ||
                    readlinkat(dirfd(dir), entry->d_name, link, sizeof(link)) < 1 || link[0] != '/')
                        continue;
                (void)snprintf(file, sizeof(file), "/proc/%d/fdinfo/%s", (int)pid, entry->d_name);
                if (fd_read_file(AT_FDCWD, file, FDINFO_MAX, &text, NULL) == 0)
                        r = lock_holders_add(h, pid, text);
        }
        return r;
}

int lock_holders_find(struct lock_holders *h, const char *text, uint64_t deadline_ms)
{
        struct dirent *entry;
        int r = 0;

        if (!somebody_is_unnamed(text))
                return 0;
        AUTO_DIR DIR *proc = opendir("/proc");
        while (proc && r == 0 && (entry = readdir(proc))) {
                const pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
                if (pid <= 0 || pid == getpid())
                        continue;
                if (clock_ms() < deadline_ms)
                        r = look_at_files(h, pid);
                else
                        h->unseen++;
        }
        return r;
}
