/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/tracker.h"

#include <errno.h>

#include "memory/track.h"

static const struct {
        const char *name;
        const struct track_ops *ops; /* NULL: nothing is ever tracked */
} kinds[] = {
        [TRACKER_NONE] = {"none", NULL},
        [TRACKER_UFFD_WP] = {"uffd-wp", &track_uffd},
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct tracker {
        const struct track_ops *ops;
        void *state;
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
        if (t && t->ops)
                t->ops->close(t->state);
        free(t);
}

static int untracked(struct error *err)
{
        return error_set(err, EOPNOTSUPP, "no tracker is in use");
}

int tracker_attach(struct tracker *t, pid_t pid, struct error *err)
{
        return t->ops ? t->ops->attach(t->state, pid, err) : untracked(err);
}

bool tracker_is_new(struct tracker *t, pid_t pid)
{
        return !t->ops || t->ops->is_new(t->state, pid);
}

void tracker_forget(struct tracker *t, pid_t pid)
{
        if (t->ops)
                t->ops->forget(t->state, pid);
}

void tracker_sweep(struct tracker *t)
{
        if (t->ops)
                t->ops->sweep(t->state);
}

int tracker_scan(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        return t->ops ? t->ops->scan(t->state, pid, found, context, err) : untracked(err);
}

int tracker_clean(struct tracker *t, pid_t pid, tracker_range_fn found, void *context, struct error *err)
{
        return t->ops ? t->ops->clean(t->state, pid, found, context, err) : untracked(err);
}
