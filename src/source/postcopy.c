/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

/*
 * Post-copy: what rounds have not brought stays with the frozen tasks and is given when the target wants it, before the
 * copy runs there to CRIU, afterwards to its tasks and in the background. The target asks for all of it: this side has
 * nothing to remember, so that after a loss of the link, or of this process, it goes on with what is asked next. The
 * frozen tasks are there until RUNNING is heard.
 */
#define REOPEN_MS 500

/* Numbers of ways that a later process opens, beyond those of an earlier one. */
#define LATER_STREAMS 0x80000000U

void source_postcopy_agree(struct source_side *x)
{
        struct session *s = x->session;
        struct migration_options *o = &s->request.options;
        struct error why = {0};

        if (!migration_options_postcopy(o))
                return;
        if (peer_version(s) < VERSION_POSTCOPY)
                (void)error_set(&why, EOPNOTSUPP, "%s speaks an older version of the protocol", s->request.peer);
        else
                (void)late_memory_possible(&why);
        if (why.kind == ERROR_NONE)
                return;
        session_log(s, "warning", "no post-copy: %s", why.text);
        o->postcopy = false;
        if (o->diverge == DIVERGE_POSTCOPY)
                o->diverge = DIVERGE_STOP;
}

/* -- around the dump ---------------------------------------------------------------------------------------------- */

/* What stays is told of as rounds are: where there were none, an empty one. */
static int say_round(struct source_side *x, struct error *err)
{
        int r = x->round_said ? 0 : image_sender_round(x->sender, 1);

        x->round_said |= r == 0;
        if (r == 0)
                r = image_sender_last(x->sender);
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot send memory") : r;
}

int source_postcopy_begin(struct source_side *x, struct error *err)
{
        int r = source_open_state(x, err);

        if (r == 0)
                r = clean_pages_new(&x->late_pages);
        if (r < 0)
                return err->kind != ERROR_NONE ? r : error_errno(err, -r, "cannot share memory with criu");
        return image_sender_rounds(x->sender) ? 0 : source_hand_over(x, say_round, "sending memory", err);
}

/* Those that are frozen; a process that is none of the workload's is not among them for CRIU either. */
static int watch(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        AUTO_FREE pid_t *pids = NULL;
        size_t n = 0;

        late_memory_free(TAKE_PTR(x->late));
        int r = late_memory_new(s->workload.init_pid, &x->late, err);
        if (r == 0)
                r = freezer_pids(s->workload.freezer, &pids, &n, err);
        return r < 0 ? r : late_memory_watch(x->late, pids, n, err);
}

int source_postcopy_mark(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        if (!x->late_pages)
                return 0;
        const uint64_t began = clock_us();
        int r = watch(x, err);
        if (r == 0)
                r = late_memory_mark(x->late, x->within, s->request.options.unshare, x->late_pages, err);
        if (r == 0 && s->request.options.verbose)
                session_log(s, "info", "what may stay here was found in %.1f ms", (double)(clock_us() - began) / 1e3);
        return r;
}

static int tell_left(struct source_side *x, struct error *err)
{
        return late_memory_left(x->late, x->sender, x->late_pages, err);
}

int source_postcopy_left(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        if (!x->late_pages)
                return 0;
        int r = source_hand_over(x, tell_left, "sending memory", err);
        if (r < 0)
                return r;
        s->report->postcopy.used = true;
        s->report->postcopy.left_bytes = late_memory_left_bytes(x->late);
        session_log(s, "info", "%.1f MB stay here until it runs on %s", (double)s->report->postcopy.left_bytes / 1e6,
                    s->request.peer);
        return 0;
}

/* -- giving ------------------------------------------------------------------------------------------------------- */

/* After a reboot there is nobody to read from. */
static ssize_t read_pages(uint64_t image, const struct page_span *spans, uint32_t n_spans, void *to, void *context)
{
        const struct source_side *x = context;

        return x->late ? late_memory_read(image, spans, n_spans, to, x->late) : -ESRCH;
}

int source_postcopy_give(struct source_side *x, struct error *err)
{
        if (!x->late_pages)
                return 0;
        int r = page_giver_new(read_pages, x, &x->giver);
        if (r < 0)
                return error_errno(err, -r, "cannot give pages");
        page_giver_link(x->giver, x->bulk);
        return 0;
}

/* What a later process needs to give what an earlier one left. */
static int take_over(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        x->next_stream = LATER_STREAMS | (uint32_t)(clock_ms() & (LATER_STREAMS - 1));
        if (!s->workload.init_pid || !s->workload.freezer || watch(x, &err) < 0) {
                late_memory_free(TAKE_PTR(x->late));
                session_log(s, "error", "the frozen original is gone, and with it memory that %s still needs: %s",
                            s->request.peer, err.kind != ERROR_NONE ? err.text : "none of its tasks is there");
        }
        return page_giver_new(read_pages, x, &x->giver);
}

static int open_way(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        struct message *m = message_new(MSG_PAGES_OPEN);
        const uint32_t number = x->next_stream++;

        peer_bulk_close(s);
        page_giver_link(x->giver, NULL);
        message_put_u32(m, FIELD_STREAM, number);
        int r = peer_send(s, m, err);
        if (r == 0)
                r = peer_bulk(s, number, 1, &source_bulk_handlers, x, &x->bulk, err);
        if (r < 0)
                return r;
        page_giver_link(x->giver, x->bulk);
        return page_giver_give(x->giver, err);
}

void source_serve(struct source_side *x)
{
        struct session *s = x->session;
        struct error err = {0};

        if (strcmp(s->phase, "fill") != 0) {
                migration_report_handed_over(s->report, clock_ms());
                s->report->postcopy.used = true;
                session_phase(s, "fill");
                session_round(s, 0, s->report->postcopy.left_bytes);
        }
        int r = x->giver ? 0 : take_over(x);
        if (r == 0 && !x->bulk)
                r = open_way(x, &err);
        x->reopen_at_ms = clock_ms() + REOPEN_MS;
        if (r == 0)
                session_stalled(s, NULL);
        else
                session_log(s, "warning", "no way for the pages that %s needs: %s", s->request.peer,
                            err.kind != ERROR_NONE ? err.text : strerror(-r));
}

void source_postcopy_end(struct source_side *x)
{
        struct migration_report *report = x->session->report;

        session_stalled(x->session, NULL);
        if (x->giver) {
                report->postcopy.faulted_bytes = page_giver_urgent_bytes(x->giver);
                report->postcopy.background_bytes = page_giver_other_bytes(x->giver);
        }
        migration_report_source_free(report, clock_ms());
}
