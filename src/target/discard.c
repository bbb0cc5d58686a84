/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pages/service.h"
#include "session/hooks.h"
#include "session/peer.h"
#include "target/target.h"

#define RESTORE_END_MS 20000

static bool restore_over(void *context)
{
        const struct target_side *x = context;

        return x->restore_ended;
}

/* A held copy is refused, so that CRIU takes it apart itself; what does not end is killed by the hauler's discard. */
static void end_restore(struct target_side *x)
{
        struct session *s = x->session;

        for (size_t i = 0; i < TARGET_JOBS_MAX; i++) {
                files_job_free(TAKE_PTR(x->jobs[i].job));
                x->jobs[i].side = NULL;
        }
        peer_bulk_close(s);
        image_receiver_free(TAKE_PTR(x->receiver));
        if (!x->restore)
                return;
        if (!x->restore_ended) {
                (void)s->hauler->restore_verdict(x->restore, false);
                (void)session_wait(s, WAIT_THROUGH, restore_over, x, RESTORE_END_MS, "waiting for the restore to end",
                                   NULL);
        }
        s->hauler->restore_free(TAKE_PTR(x->restore));
}

struct discarding {
        struct session *session;
        struct error *err;
        int failed; /* how the last one that could not be removed failed */
};

static int discard_one(const char *record, const json_t *entry, void *context)
{
        struct discarding *d = context;
        struct session *s = d->session;
        const char *what = json_string_value(json_object_get(entry, "what")) ?: "";
        const char *name = json_string_value(json_object_get(entry, "name")) ?: "";

        if (strcmp(record, "LEFTOVER") != 0)
                return 0;
        int r = strcmp(what, "images") == 0  ? session_images_remove(s, d->err)
                : strcmp(what, "pages") == 0 ? page_service_stop(name, d->err)
                : strcmp(what, "hooks") == 0 ? (session_hooks(s, NETWORK_DISCARDED), 0)
                : s->hauler                  ? s->hauler->discard(what, name, d->err)
                                             : 0;
        if (r < 0) {
                d->failed = r;
                session_log(s, "error", "cannot remove %s %s: %s", what, name, d->err ? d->err->text : "");
        }
        return 0;
}

int target_discard(struct target_side *x, struct error *err)
{
        struct discarding d = {.session = x->session, .err = err};

        end_restore(x);
        if (x->sync_source) {
                source_free(TAKE_PTR(x->sync_source));
                (void)kill(x->sync_pid, SIGKILL);
        }
        if (x->images_fd >= 0)
                (void)close(TAKE_FD(x->images_fd));
        /* What was made last goes first: a directory is empty by the time it is its turn. */
        (void)journal_each_back(x->session->journal, discard_one, &d);
        return d.failed;
}
