/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "preflight/outside.h"

/*
 * "3: FLOCK  ADVISORY  WRITE 4711 00:2d:5678 0 EOF", and below it "3: -> FLOCK …" for each that waits for it. After a
 * migration both sides would have the lock, each on its own host.
 */
struct lock {
        pid_t pid;
        char file[64];
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
        if (sscanf(p, " %*s %*s %*s %d %63s", &pid, ret->file) != 2)
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

int locks_judge(const char *text, const struct border *border, border_where_fn where, struct suspicion *suspicion)
{
        AUTO_FREE struct lock *locks = NULL;
        size_t n = 0, room = 0;

        for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
                struct lock lock = {0};
                if (!parse(line, &lock))
                        continue;
                /* The one that took a lock may have ended since and left it to its children, ours or others. */
                const enum border_side side = lock.pid > 0 ? where(border, lock.pid) : BORDER_GONE;
                if (side == BORDER_GONE)
                        continue;
                lock.inside = side == BORDER_INSIDE;
                if (n == room) {
                        room = room ? room * 2 : 64;
                        struct lock *grown = reallocarray(locks, room, sizeof(*grown));
                        if (!grown)
                                return -ENOMEM;
                        locks = grown;
                }
                locks[n++] = lock;
        }
        if (n)
                qsort(locks, n, sizeof(*locks), by_file);
        for (size_t i = 0, next; i < n; i = next) {
                for (next = i + 1; next < n && strcmp(locks[next].file, locks[i].file) == 0;)
                        next++;
                judge_file(locks + i, next - i, suspicion);
        }
        return 0;
}
