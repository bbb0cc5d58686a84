/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/proc_status.h"
#include "preflight/preflight.h"
#include "preflight/scan.h"

/*
 * A workload does not stand still while it is looked at: it forks, accepts, opens and closes between the list of its
 * tasks and the look at everybody else. Two things keep that from being reported. Who is met outside is asked for its
 * parents, who may lead back into the tree. And what was found is looked for again, from the list of tasks on: only
 * what is there each time is told.
 */
#define OUTSIDE_MS 4000 /* of the time for everything, given to other processes of the host */
#define LOOKS 3
#define SETTLES_MS 30
#define LOCKS_MAX (16U << 20)
#define GENERATIONS_MAX 4096
#define CLIMBS 5

/* -- who is inside ---------------------------------------------------------------------------------------------- */

static int parent_of(pid_t pid, pid_t *ret)
{
        AUTO_FREE char *text = NULL;

        int r = proc_status_read(pid, &text);
        if (r == 0)
                *ret = (pid_t)proc_status_number(text, "PPid");
        return r;
}

/* An ancestor may end on the way, and its child has another parent then: once more, from below. */
enum border_side border_where(const struct border *b, pid_t pid)
{
        for (int climb = 0; climb < CLIMBS; climb++) {
                pid_t at = pid;
                int r = 0;
                for (int i = 0; r == 0 && at > 1 && i < GENERATIONS_MAX; i++) {
                        if (at == b->root || number_set_has(b->tree, (uint64_t)at))
                                return BORDER_INSIDE;
                        const pid_t child = at;
                        r = parent_of(child, &at);
                        if (r < 0 && child == pid)
                                return BORDER_GONE;
                }
                if (r == 0)
                        return BORDER_OUTSIDE;
        }
        return BORDER_GONE;
}

/* -- what is told ----------------------------------------------------------------------------------------------- */

bool suspicion_holds(struct suspicion *s, enum shared_kind kind, uint64_t key)
{
        const uint64_t what = shared_key((uint64_t)kind + 1, key);

        if (number_set_add(&s->now, what) < 0)
                s->failure = -ENOMEM;
        return !s->before || number_set_has(s->before, what);
}

static void suspicion_done(struct suspicion *s)
{
        number_set_done(&s->now);
        free(s->findings);
        *s = (struct suspicion){0};
}

/* -- looks ------------------------------------------------------------------------------------------------------ */

static int look_at_locks(const struct border *border, uint64_t deadline_ms, struct suspicion *suspicion)
{
        CLEANUP(lock_holders_done) struct lock_holders holders = {0};
        AUTO_FREE char *text = NULL;

        if (fd_read_file(AT_FDCWD, "/proc/locks", LOCKS_MAX, &text, NULL) < 0)
                return 0;
        int r = lock_holders_find(&holders, text, deadline_ms);
        if (holders.unseen)
                findings_note(suspicion->findings, PROBLEM_OUTSIDE_UNSEEN, "the locks of %zu processes",
                              holders.unseen);
        return r < 0 ? r : locks_judge(text, &holders, border, border_where, suspicion);
}

static int look(struct scan *s, const struct preflight_subject *subject, const struct pid_list *tree,
                uint64_t deadline_ms, struct suspicion *suspicion)
{
        struct number_set inside = {0};
        const struct border border = {.root = subject->init, .tree = &inside};

        if (!subject->shell_job)
                terminals_judge(s, suspicion);
        int r = tree_set(tree, &inside);
        if (r == 0)
                r = look_at_locks(&border, deadline_ms, suspicion);
        if (r == 0)
                r = shared_find_peers(&s->shared, tree->pids, tree->n);
        if (r == 0)
                r = shared_scan(&s->shared, &border, deadline_ms, suspicion);
        number_set_done(&inside);
        number_set_sort(&suspicion->now);
        return r < 0 ? r : suspicion->failure;
}

static int share_again(struct scan *s, pid_t pid)
{
        struct task t;

        if (task_read(pid, &t) < 0 || t.state == 'Z')
                return 0;
        int r = descriptors_scan(s, &t);
        return r < 0 ? r : mappings_scan(s, &t);
}

/* With the tasks as they are now. All that was judged of each alone was judged before. */
static int look_again(const struct scan *first, const struct preflight_subject *subject, uint64_t deadline_ms,
                      struct suspicion *suspicion)
{
        CLEANUP(cleanup_free) struct scan *s = calloc(1, sizeof(*s));
        struct pid_list tree = {0};

        if (!s)
                return -ENOMEM;
        s->again = true;
        s->host_ipc = first->host_ipc;
        int r = tree_add(&tree, subject->init);
        for (size_t i = 0; r == 0 && i < tree.n; i++)
                r = share_again(s, tree.pids[i]);
        if (r == 0)
                r = look(s, subject, &tree, deadline_ms, suspicion);
        free(tree.pids);
        scan_done(s);
        return r;
}

int border_scan(struct scan *s, const struct preflight_subject *subject, const struct pid_list *tree)
{
        const uint64_t deadline = clock_ms() + OUTSIDE_MS;
        struct suspicion last = {.findings = calloc(1, sizeof(*last.findings))};

        int r = last.findings ? look(s, subject, tree, deadline, &last) : -ENOMEM;
        for (int i = 1; r == 0 && i < LOOKS && last.now.n && clock_ms() < deadline; i++) {
                struct suspicion next = {.before = &last.now, .findings = calloc(1, sizeof(*next.findings))};
                (void)nanosleep(&(struct timespec){.tv_nsec = SETTLES_MS * 1000000L}, NULL);
                r = next.findings ? look_again(s, subject, deadline, &next) : -ENOMEM;
                /* A look that was not over in time has cleared nobody. */
                const bool whole = r == 0 && next.findings->of[PROBLEM_OUTSIDE_UNSEEN].count == 0;
                suspicion_done(whole ? &last : &next);
                if (!whole)
                        break;
                last = next;
                last.before = NULL;
        }
        if (r == 0)
                findings_take(&s->findings, last.findings);
        suspicion_done(&last);
        return r;
}
