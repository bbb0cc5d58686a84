/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "criu/criu.h"
#include "loop/loop.h"
#include "migration/options.h"

/*
 * The contract between the engine and a kind of workload. The engine (source/, target/) knows phases, memory, files and
 * the handover; a hauler knows what an LXC container (a process tree, a runc container, …) is made of. A hauler never
 * sees the wire: bytes leave it through descriptors and directories handed in.
 *
 * Hooks return 0 or a negative errno with *err filled. They run in phaul-session's only thread; those marked (blocks)
 * may take up to a second and are never called while the workload is frozen unless they say so. An absent (NULL) hook
 * means the default named with it.
 */

/* A tree of files that must exist on the target before the restore. */
struct hauler_tree {
        char *label;  /* "rootfs", "lower", "upper": means the same on both ends */
        char *source; /* path on the source */
        char *target; /* path on the target, chosen by the target's hauler alone */
};

/* What the engine needs to know of a workload; filled by examine() on the source, by verify() on the target. */
struct workload {
        const struct hauler *hauler;
        const struct migration_options *options; /* what was asked for; borrowed, set before any hook is called */
        char *id;                                /* name on this host */
        char *description; /* JSON for the far hauler: configuration, networks, … (source fills, target reads) */
        pid_t init_pid;    /* root of the task tree; 0 while it does not exist */
        char *freezer;     /* cgroup directory whose freezer holds all tasks, absolute; survives CRIU's death */
        bool freezer_v2;
        char *cpu; /* cgroup directory whose CPU limit is that of its tasks and nobody else's; NULL: see limit() */
        char *addresses;       /* that it uses of the host's own network, for hooks, separated by spaces; may be NULL */
        uint64_t memory_bytes; /* resident */
        struct hauler_tree *trees;
        size_t n_trees;
        void *private_data; /* the hauler's own; freed by its done() */
};
void workload_done(struct workload *w);

/* One graded finding of a pre-flight. */
enum grade {
        GRADE_OK,
        GRADE_WARNING,
        GRADE_ERROR,
        /* An error that is a judgement: it may work all the same, and if it does not, it fails cleanly. People see an
         * error; --force makes it a warning. Only ever handed to a report function. */
        GRADE_JUDGED,
};
const char *grade_name(enum grade grade);
/* Sink for findings: `item` is a stable word ("bridge", "name", "disk"). */
typedef void (*hauler_report_fn)(const char *item, enum grade grade, const char *reason, void *context);

/* A thing made on the target that must vanish on discard; the engine makes it durable before the hauler makes the
 * thing. */
typedef int (*hauler_leftover_fn)(const char *what, const char *name, void *context, struct error *err);

/* A network port of a restored copy, to be attached at switchover. */
struct hauler_port {
        char outside[16]; /* interface in our namespace */
        char bridge[16];  /* bridge it belongs to */
};

/* Result of a restore that runs in the background. */
struct hauler_restore;
struct hauler_restore_handlers {
        /* Restored, not one instruction executed, waits for restore_release(). w->init_pid is set. */
        void (*held)(struct hauler_restore *r, void *context);
        /* The end: err->kind ERROR_NONE when the restore program reported success after the release. Last callback. */
        void (*done)(struct hauler_restore *r, const struct error *err, void *context);
};

/* A stop or start that runs in the background. */
struct hauler_change;
/* The end of it, once: err->kind ERROR_NONE on success. `orderly` (stop): it went down by itself, nothing was killed.
 */
typedef void (*hauler_changed_fn)(bool orderly, const struct error *err, void *context);

struct hauler {
        const char *kind;  /* "lxc" */
        const char *label; /* "LXC container", for people */

        /* Any side, any time, (blocks): everything of this kind here, as a JSON array of
         * {id, state, init_pid, description…}. Must answer within 5 s even when one of them hangs. */
        int (*list)(json_t **ret, struct error *err);

        /* -- source ------------------------------------------------------------------------------------------ */

        /* Before anything is touched, (blocks): find it, refuse what cannot be moved (ERROR_NOT_FOUND, ERROR_REFUSED),
         * fill *w; further findings through `report`. */
        int (*examine)(const char *id, struct workload *w, hauler_report_fn report, void *context, struct error *err);

        /* The target's findings are here, an array of {id, host, grade, reason}, none of them an error: what follows
         * from them for the source. ERROR_REFUSED is still possible. NULL: nothing. */
        int (*agreed)(struct workload *w, const json_t *items, struct error *err);

        /* Before memory is sent while it runs: all its tasks into w->freezer, so that they can be stopped together.
         * Undone by rearm(). Repeatable. NULL: they are there. */
        int (*gather)(struct workload *w, struct error *err);

        /* Rounds gain nothing and it is to be slowed down, while it runs, after gather(): w->cpu becomes a cgroup of
         * its own. Undone by rearm() and release(), when the limit is lifted already. Repeatable. NULL: it is what
         * examine() found. */
        int (*limit)(struct workload *w, struct error *err);

        /* Before each round of memory, while it runs: of the `*n` tasks that are in w->freezer, those that CRIU would
         * dump are kept, in any order, and `*n` is their number. What rounds sent of the others would be in vain. One
         * that is left out by mistake costs time, not correctness. NULL: all of them. */
        int (*dumped)(struct workload *w, pid_t *pids, size_t *n, struct error *err);

        /* Right before the freeze: what CRIU must be told. Strings in *options point into w->private_data. */
        int (*dump_options)(struct workload *w, struct criu_dump_options *options, struct error *err);

        /* All tasks stand still, no socket has been touched: hold the workload's connections in the host's own network,
         * until rearm() or release(). Beside the ports, which the engine locks. Fast. NULL: nothing. */
        int (*network_lock)(struct workload *w, struct error *err);

        /* At the end of the dump, right after w->freezer came down, while CRIU waits: what else must be as it is at
         * this moment. Files written to `images_fd` go to the target's image directory. Findings through `report` are
         * told, and change nothing. Fast. NULL: nothing. */
        int (*frozen)(struct workload *w, int images_fd, hauler_report_fn report, void *context, struct error *err);

        /* Right before COMMIT, while frozen: from now on nobody may start it on this host, not even its autostart after
         * a reboot; durable when it returns. And back, after an abort; also when it was never disarmed. Fast,
         * repeatable, both need no more than id and description. */
        int (*disarm)(struct workload *w, struct error *err);
        int (*rearm)(struct workload *w, struct error *err);

        /* After RELEASED, tasks killed and thawed: the workload disappears from its runtime, will not start by itself,
         * its files go to `released` (a directory to be made). Repeatable after a crash. (blocks) */
        int (*release)(struct workload *w, const char *released, struct error *err);

        /* -- restart mode: all of these, or the kind cannot be migrated in that mode ------------------------- */

        /*
         * In restart mode examine() takes a workload that is stopped, too (init_pid 0 then), needs no freezer, and does
         * not refuse what only a checkpoint could not carry; verify() likewise. The order on the source: disarm(),
         * stop(), last files, COMMIT, release(); after a failure rearm(), start().
         */

        /* Source: let it shut down by its own means, and kill what is left of it after `limit_s`. When done() says
         * success no task of it lives and its files are at rest. Of one that is stopped: success. Repeatable. */
        int (*stop)(struct loop *loop, struct workload *w, unsigned limit_s, hauler_changed_fn done, void *context,
                    struct hauler_change **ret, struct error *err);

        /* Either side: start it as its own tools would; it has to be defined (rearm(), publish()). One that runs is
         * left alone: success. It inherits nothing of ours. Whether it got anywhere is alive()'s and put_down()'s to
         * say. */
        int (*start)(struct loop *loop, struct workload *w, hauler_changed_fn done, void *context,
                     struct hauler_change **ret, struct error *err);

        /* Ends what still goes on (a shutdown that was asked for is not taken back) without calling done(). */
        void (*change_free)(struct hauler_change *c);

        /* Either side, (blocks): 1 it is stopped, and defined so that it can be started; 0 not so. */
        int (*stopped)(struct workload *w, struct error *err);

        /* -- target ------------------------------------------------------------------------------------------ */

        /* Before anything is touched, (blocks): can `description` become `id` here? Fills *w with target paths of the
         * trees. Findings through `report`; ERROR_REFUSED only when it cannot even be judged. */
        int (*verify)(const char *id, const char *description, struct workload *w, hauler_report_fn report,
                      void *context, struct error *err);

        /* Reserve the name and make the directories of the trees. Each thing is passed to `leftover` first. */
        int (*prepare)(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err);

        /* Everything is in `images` (absolute path); before the hooks "arriving" and the restore: hold the connections
         * that are to come, until publish() or discard(). NULL: nothing. */
        int (*network_expect)(struct workload *w, const char *images, struct error *err);

        /* Start the restore from images in `images` (absolute path) and hold before the first instruction.
         * `session_socket` is where the hold program finds us; `record` the journal file it obeys when it does not. */
        int (*restore)(struct loop *loop, struct workload *w, const char *images, const char *hold_socket,
                       const char *record, const struct hauler_restore_handlers *handlers, void *context,
                       struct hauler_restore **ret, struct error *err);

        /* Network ports of the restored copy to be attached at switchover: pairs (interface here, bridge).
         * Fills up to `max`; returns the number. NULL: it uses the network of the host itself. */
        int (*ports)(struct workload *w, struct hauler_port *ret, size_t max, struct error *err);

        /* After STARTING is durable, before the release of the hold: make it a defined member of its runtime. Fast. */
        int (*publish)(struct workload *w, struct error *err);

        /* Let the held copy go (ok) or refuse it. */
        int (*restore_verdict)(struct hauler_restore *r, bool ok);

        /* Are the tasks and the runtime's monitor alive and really running? 1 yes, 0 no. */
        int (*alive)(struct workload *w, struct error *err);
        /* Of a copy that came to life: whether none of its tasks is left. False when that cannot be told. */
        bool (*gone)(const struct workload *w);

        /*
         * A copy that did not get through after the verdict: make sure that nothing of it lives, then say whether one
         * of its tasks may have executed an instruction. 0: certainly not, by the restore program's own word in
         * `images` (restart mode: by what start() left behind); 1: it may. When in doubt 1.
         */
        int (*put_down)(struct workload *w, const char *images, struct error *err);

        /* RUNNING is durable: the last things, and for each thing that was made (what, name as passed to `leftover`)
         * that it stays. Repeatable after a crash; failures are only told. NULL: nothing. */
        int (*arrived)(struct workload *w, struct error *err);
        int (*keep)(const char *what, const char *name, struct error *err);

        /* Remove one thing made before (what, name as passed to `leftover`). Repeatable; nothing there is success. */
        int (*discard)(const char *what, const char *name, struct error *err);

        void (*restore_free)(struct hauler_restore *r);
        void (*done)(struct workload *w);
};

/* All kinds this build knows, NULL-terminated. */
extern const struct hauler *const haulers[];
const struct hauler *hauler_find(const char *kind);
