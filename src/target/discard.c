/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session/hooks.h"
#include "session/peer.h"
#include "target/target.h"

#define RESTORE_END_MS 20000
#define LEFTOVERS_MAX 256

struct leftovers {
        const json_t *entries[LEFTOVERS_MAX];
        size_t n;
};

static int collect(const char *record, const json_t *entry, void *context)
{
        struct leftovers *l = context;

        if (strcmp(record, "LEFTOVER") != 0)
                return 0;
        if (l->n == LEFTOVERS_MAX)
                return -E2BIG;
        l->entries[l->n++] = entry;
        return 0;
}

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

int target_discard(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        struct leftovers list = {0};

        end_restore(x);
        if (x->sync_source) {
                source_free(TAKE_PTR(x->sync_source));
                (void)kill(x->sync_pid, SIGKILL);
        }
        if (x->images_fd >= 0)
                (void)close(TAKE_FD(x->images_fd));

        int failed = journal_each(s->journal, collect, &list);
        for (size_t i = list.n; i > 0; i--) {
                const char *what = json_string_value(json_object_get(list.entries[i - 1], "what")) ?: "";
                const char *name = json_string_value(json_object_get(list.entries[i - 1], "name")) ?: "";
                int r = strcmp(what, "images") == 0  ? session_images_remove(s, err)
                        : strcmp(what, "hooks") == 0 ? (session_hooks(s, NETWORK_DISCARDED), 0)
                        : s->hauler                  ? s->hauler->discard(what, name, err)
                                                     : 0;
                if (r < 0) {
                        failed = r;
                        session_log(s, "error", "cannot remove %s %s: %s", what, name, err ? err->text : "");
                }
        }
        return failed;
}
