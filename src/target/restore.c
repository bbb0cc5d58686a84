/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "criu/address_image.h"
#include "network/network.h"
#include "session/hooks.h"
#include "session/peer.h"
#include "target/target.h"

#define RESTORE_TIMEOUT_MS 240000
#define SYNC_TIMEOUT_MS 600000

static void sync_ended(pid_t pid, int status, void *context)
{
        struct target_side *x = context;

        (void)pid;
        x->sync_status = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
        source_free(TAKE_PTR(x->sync_source));
}

/* syncfs() may take long and must not hold the loop up; it runs beside the restore. */
static int sync_start(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        x->sync_status = -1;
        x->sync_pid = fork();
        if (x->sync_pid < 0)
                return error_errno(err, errno, "cannot start a child");
        if (x->sync_pid == 0) {
                int failed = 0;
                for (size_t i = 0; i < s->workload.n_trees; i++)
                        failed |= files_sync(s->workload.trees[i].target, NULL) < 0;
                _exit(failed ? 1 : 0);
        }
        int r = loop_add_child(s->loop, x->sync_pid, sync_ended, x, &x->sync_source);
        return r < 0 ? error_errno(err, -r, "cannot watch a child") : 0;
}

static void on_held(struct hauler_restore *restore, void *context)
{
        struct target_side *x = context;

        (void)restore;
        x->held = true;
}

static void on_restored(struct hauler_restore *restore, const struct error *err, void *context)
{
        struct target_side *x = context;

        (void)restore;
        x->restore_ended = true;
        x->restore_error = *err;
}

static bool restore_settled(void *context)
{
        const struct target_side *x = context;

        /* CRIU may wait for pages that are on the source, and will not come any more. */
        return x->held || x->restore_ended || (x->remote && !x->way);
}

static bool sync_settled(void *context)
{
        const struct target_side *x = context;

        return x->sync_status >= 0;
}

static int record_held(struct session *s, struct error *err)
{
        json_t *fields = json_pack("{s:i}", "init_pid", (int)s->workload.init_pid);

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(s->journal, "HELD", fields, err);
        json_decref(fields);
        return r;
}

static int files_durable(struct target_side *x, struct error *err)
{
        int r = session_wait(x->session, WAIT_INTERRUPTIBLE, sync_settled, x, SYNC_TIMEOUT_MS, "making files durable",
                             err);

        if (r == 0 && x->sync_status != 0)
                r = error_set(err, EIO, "the files could not be made durable on %s", x->session->request.self);
        return r;
}

/* In restart mode the copy is nothing but files, and held by having no definition that anybody could start. */
static int await_files(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        session_phase(s, "restore");
        int r = sync_start(x, err);
        if (r == 0)
                r = files_durable(x, err);
        return r < 0 ? r : session_step(s, EVENT_HELD, NULL, NULL, err);
}

/*
 * A workload in the host's own network needs its addresses here before its sockets can be made. Its connections are
 * held first: a segment for one that does not exist yet would be answered with a reset.
 */
static int expect_network(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (!s->hauler->network_expect)
                return 0;
        int r = s->hauler->network_expect(&s->workload, s->paths.images, err);
        if (r == 0)
                r = session_leftover("hooks", network_event_name(NETWORK_ARRIVING), s, err);
        if (r == 0)
                session_hooks(s, NETWORK_ARRIVING);
        return r;
}

int target_restore(struct target_side *x, struct error *err)
{
        if (x->session->request.options.mode == MODE_RESTART)
                return await_files(x, err);

        static const struct hauler_restore_handlers handlers = {.held = on_held, .done = on_restored};
        struct session *s = x->session;

        session_phase(s, "restore");
        int r = sync_start(x, err);
        if (r == 0)
                r = criu_images_settle_addresses(x->images_fd, err);
        if (r >= 0)
                r = expect_network(x, err);
        if (r >= 0)
                r = target_lazy(x, err);
        if (r >= 0)
                r = s->hauler->restore(s->loop, &s->workload, s->paths.images, s->paths.hold, s->paths.record,
                                       &handlers, x, &x->restore, err);
        if (r == 0)
                r = session_wait(s, WAIT_INTERRUPTIBLE, restore_settled, x, RESTORE_TIMEOUT_MS, "restoring", err);
        if (r < 0)
                return r;
        if (!x->held && !x->restore_ended)
                return error_set(err, ENOTCONN, "the link to %s was lost while memory was still there",
                                 s->request.peer);
        if (!x->held) {
                *err = x->restore_error;
                return error_wrap(err, "restoring %s/%s on %s", s->request.kind, s->request.target_name,
                                  s->request.self);
        }

        target_lazy_held(x);
        r = target_find_ports(x, err);
        if (r == 0)
                r = record_held(s, err);
        if (r == 0)
                r = files_durable(x, err);
        return r < 0 ? r : session_step(s, EVENT_HELD, NULL, NULL, err);
}
