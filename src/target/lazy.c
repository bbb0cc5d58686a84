/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "pages/service.h"
#include "session/peer.h"
#include "target/target.h"

/* Memory that comes after the tasks run: who brings it is started before the restore, and waited for after RUNNING. */

#define LOOK_MS 50

static void pages_ended(pid_t pid, int status, void *context)
{
        struct target_side *x = context;

        /* Not the end of the service, which may have another keeper by now: its ledger says how it is. */
        (void)pid;
        (void)status;
        source_free(TAKE_PTR(x->on_pages));
}

static int start(struct target_side *x, struct error *why)
{
        struct session *s = x->session;
        const struct page_service_options options = {.path = s->paths.ledger,
                                                     .program = s->paths.pages,
                                                     .images_fd = x->images_fd,
                                                     .writer = image_receiver_writer(x->receiver),
                                                     .keep = s->request.options.keep_images};
        pid_t pid;

        *why = *image_receiver_lazy_failure(x->receiver);
        int r = why->kind != ERROR_NONE ? -why->code : page_service_possible(x->images_fd, why);
        if (r == 0)
                r = page_service_start(&options, &pid, why);
        if (r == 0 && loop_add_child(s->loop, pid, pages_ended, x, &x->on_pages) < 0)
                session_log(s, "warning", "the page service will be reaped late");
        return r;
}

int target_lazy(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        struct error why = {0};

        int r = session_leftover("pages", s->paths.ledger, s, err);
        if (r < 0)
                return r;
        const bool left = pagemap_writer_left(image_receiver_writer(x->receiver)) > 0;
        r = start(x, &why);
        /* What is not here cannot be put in place before it runs. */
        if (r < 0 && left) {
                *err = why;
                return error_wrap(err, "post-copy is not possible on %s", s->request.self);
        }
        if (r < 0)
                session_log(s, "info", "all memory is put in place before it runs: %s", why.text);
        return left ? target_remote_open(x, err) : 0;
}

void target_lazy_held(struct target_side *x)
{
        (void)page_service_belongs(x->session->paths.ledger, x->session->workload.init_pid, NULL);
}

struct fill {
        struct target_side *side;
        struct session *session;
        uint64_t next_ms;
        struct page_service_status status;
        int result;
};

static bool looked_over(struct fill *f)
{
        if (clock_ms() < f->next_ms)
                return false;
        f->next_ms = clock_ms() + LOOK_MS;
        const int before = f->status.trouble;
        f->result = page_service_look(f->session->paths.ledger, &f->status, NULL);
        if (f->result == 0 && f->status.trouble != before)
                session_log(f->session, "warning", "the page service cannot give a page, and tries again: %s",
                            strerror(f->status.trouble));
        return f->result < 0 || !f->status.running;
}

/* The last page is here, or nobody is left who could want one. */
static void free_source(struct target_side *x, bool over)
{
        struct session *s = x->session;

        if (!s->needs_source || (!target_remote_over(x) && !over))
                return;
        s->needs_source = false;
        session_stalled(s, NULL);
        if (s->report) {
                s->report->postcopy.faulted_bytes = x->faulted_bytes;
                s->report->postcopy.background_bytes = x->background_bytes;
                migration_report_source_free(s->report, clock_ms());
        }
        session_log(s, "info", "%s is needed no more: %.1f MB fetched where a task waited, %.1f MB beside",
                    s->request.peer, (double)x->faulted_bytes / 1e6, (double)x->background_bytes / 1e6);
        (void)target_tell(s, NULL);
}

static bool over_or_message(void *context)
{
        struct fill *f = context;

        const bool over = looked_over(f);

        free_source(f->side, over);
        return peer_has_message(f->session) || over;
}

/* A source that asks again is answered meanwhile. */
static void hear(struct target_side *x)
{
        CLEANUP(message_free_ptr) struct message *m = peer_take(x->session);

        if (m->type == MSG_RELEASED)
                x->heard = true;
        else if (m->type == MSG_PAGES_OPEN)
                target_remote_way(x, m);
        else if (m->type == MSG_RESUME || m->type == MSG_COMMIT || m->type == MSG_ABORTED)
                (void)target_tell(x->session, NULL);
}

static void tell(struct session *s, const struct fill *f, uint64_t begun_ms)
{
        const struct page_service_status *p = &f->status;

        if (s->report)
                migration_report_bytes(s->report, p->given_bytes);
        if (p->failure[0])
                session_log(s, "warning", "the page service: %s", p->failure);
        if (!p->through)
                session_log(s, "error",
                            "the page service died with all its processes before the memory was in place: what was "
                            "missing reads as zeros");
        else
                session_log(s, "info", "memory is in place: %.1f MB given after it ran, in %.2f s%s",
                            (double)p->given_bytes / 1e6, (double)(clock_ms() - begun_ms) / 1e3,
                            p->workers > 1 ? ", with more than one worker" : "");
}

void target_fill(struct target_side *x)
{
        struct session *s = x->session;
        struct fill f = {.side = x, .session = s};
        const uint64_t begun_ms = clock_ms();
        struct error err = {0};

        if (page_service_look(s->paths.ledger, &f.status, NULL) < 0)
                return; /* it was all there before */
        if (s->needs_source && !x->remote && target_remote_open(x, &err) < 0)
                session_log(s, "error", "%s", err.text);
        session_phase(s, "fill");
        if (x->remote && s->report) {
                s->report->postcopy.used = true;
                s->report->postcopy.left_bytes = page_remote_total_bytes(x->remote);
                session_round(s, 0, page_remote_missing_bytes(x->remote));
        }
        target_remote_pull(x);
        while (!looked_over(&f)) {
                (void)session_wait(s, WAIT_THROUGH, over_or_message, &f, 0, "the memory", NULL);
                if (peer_has_message(s))
                        hear(x);
                else
                        f.next_ms = 0;
        }
        free_source(x, true);
        target_remote_close(x);
        if (f.result == 0)
                tell(s, &f, begun_ms);
        if (page_service_stop(s->paths.ledger, &err) < 0)
                session_log(s, "warning", "%s", err.text);
}
