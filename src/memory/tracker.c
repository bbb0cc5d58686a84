/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/tracker.h"

#include <errno.h>
#include <unistd.h>

#include "memory/address_space.h"
#include "memory/track.h"

static const struct {
        const char *name;
        const struct track_ops *ops; /* NULL: nothing is ever tracked */
} kinds[] = {
        [TRACKER_NONE] = {"none", NULL},
        [TRACKER_UFFD_WP] = {"uffd-wp", &track_uffd},
        [TRACKER_SOFT_DIRTY] = {"soft-dirty", &track_soft_dirty},
        [TRACKER_HASH] = {"hash", &track_hash},
};

#define PAGE 4096
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct tracker {
        const struct track_ops *ops;
        void *state;
        struct tracked_list processes;
};

const char *tracker_kind_name(enum tracker_kind kind)
{
        return (size_t)kind < KINDS ? kinds[kind].name : kinds[TRACKER_NONE].name;
}

int tracker_new(enum tracker_kind kind, struct tracker **ret, struct error *err)
{
        CLEANUP(tracker_free_ptr) struct tracker *t = calloc(1, sizeof(*t));

        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        if ((size_t)kind >= KINDS)
                return error_set(err, EINVAL, "there is no tracker %d", (int)kind);
        if (kinds[kind].ops) {
                if (sysconf(_SC_PAGESIZE) != PAGE)
                        return error_set(err, EOPNOTSUPP, "pages of this machine do not have %d bytes", PAGE);
                int r = kinds[kind].ops->open(&t->state, err);
                if (r < 0)
                        return r;
        }
        t->ops = kinds[kind].ops;
        *ret = TAKE_PTR(t);
        return 0;
}

void tracker_free(struct tracker *t)
{
        if (!t)
                return;
        tracked_done(&t->processes);
        if (t->ops)
                t->ops->close(t->state);
        free(t);
}

bool tracker_needs_stop(const struct tracker *t)
{
        return t->ops && t->ops->needs_stop;
}

static int untracked(struct error *err)
{
        return error_set(err, EOPNOTSUPP, "no tracker is in use");
}

int tracker_attach(struct tracker *t, pid_t pid, struct error *err)
{
        struct tracked *process;

        if (!t->ops)
                return untracked(err);
        int r = tracked_find_or_add(&t->processes, pid, &process, err);
        if (r < 0)
                return r;
        r = t->ops->attach(t->state, process, err);
        if (r < 0)
                tracked_forget(&t->processes, process);
        return r;
}

bool tracker_is_new(struct tracker *t, pid_t pid)
{
        const struct tracked *process = tracked_find(&t->processes, pid);

        return !process || !process->scanned;
}

void tracker_forget(struct tracker *t, pid_t pid)
{
        struct tracked *process = tracked_find(&t->processes, pid);

        if (process)
                tracked_forget(&t->processes, process);
}

void tracker_sweep(struct tracker *t)
{
        tracked_sweep(&t->processes);
}

/* What was armed before a failure is not known: it would count as clean without having been reported. */
static int failed(struct tracker *t, struct tracked *process, int r, struct error *err)
{
        if (!process_has_memory(process->pid))
                r = error_set(err, ESRCH, "process %d is gone", (int)process->pid);
        tracked_forget(&t->processes, process);
        return r;
}

int tracker_scan(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        if (!t->ops)
                return untracked(err);
        struct tracked *process = tracked_find(&t->processes, pid);
        if (!process)
                return tracked_not(pid, err);
        int r = t->ops->scan(t->state, process, found, context, err);
        if (r < 0)
                return failed(t, process, r, err);
        process->pending = true;
        return 0;
}

void tracker_arm(struct tracker *t)
{
        for (size_t i = 0; i < t->processes.n;) {
                struct tracked *process = &t->processes.list[i];
                if (process->pending && t->ops->arm && t->ops->arm(t->state, process) < 0) {
                        tracked_forget(&t->processes, process);
                        continue;
                }
                process->scanned |= process->pending;
                process->pending = false;
                i++;
        }
}

void tracker_sent(struct tracker *t, pid_t pid, uint64_t vaddr, size_t n_pages, const void *data)
{
        struct tracked *process = t->ops && t->ops->sent ? tracked_find(&t->processes, pid) : NULL;

        if (process)
                t->ops->sent(t->state, process, vaddr, n_pages, data);
}

int tracker_clean(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        if (!t->ops)
                return untracked(err);
        struct tracked *process = tracked_find(&t->processes, pid);
        if (!process)
                return tracked_not(pid, err);
        if (!process->scanned || process->pending)
                return 0;
        int r = t->ops->clean(t->state, process, found, context, err);
        return r < 0 ? failed(t, process, r, err) : 0;
}
