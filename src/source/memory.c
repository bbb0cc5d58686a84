/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/proc_status.h"
#include "preflight/preflight.h"
#include "session/fault_point.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

#define METADATA_MAX (1ULL << 30)
#define LAST_WORD_MS 500
#define ROUNDS_MAX 8
#define STREAMS_USUAL 4U

/*
 * The best first. Places: so many pages are known to be at the target, for SENT_PAGE_BYTES each. Together with the
 * notes that some take, and with what waits in the link, less than 64 MiB.
 */
static const struct {
        enum migration_tracker wanted;
        enum tracker_kind kind;
        size_t places;
} trackers[] = {
        {TRACKER_WANTED_UFFD_WP, TRACKER_UFFD_WP, SOURCE_PLACES},
        {TRACKER_WANTED_SOFT_DIRTY, TRACKER_SOFT_DIRTY, SOURCE_PLACES / 4},
        {TRACKER_WANTED_HASH, TRACKER_HASH, SOURCE_PLACES / 4},
};

/* -- the way for memory and metadata ---------------------------------------------------------------------------------
 */

/* What is wanted is answered whatever this side waits for at the moment. */
static void give(struct source_side *x)
{
        struct error err = {0};

        if (x->giver && page_giver_give(x->giver, &err) < 0)
                session_log(x->session, "warning", "%s", err.text);
}

static void bulk_frame(const struct bulk_frame *frame, const void *data, void *context)
{
        struct source_side *x = context;
        struct error err = {0};

        if (!x->giver)
                return;
        if (page_giver_wanted(x->giver, frame, data, &err) < 0)
                session_log(x->session, "error", "%s: %s", x->session->request.peer, err.text);
        else
                give(x);
}

static void bulk_writable(void *context)
{
        struct source_side *x = context;

        if (x->sender)
                image_sender_writable(x->sender);
        if (x->pages)
                page_server_resume(x->pages);
        give(x);
        x->writable = true;
}

/* All waits for it end here: none of them would be told anything any more, and the workload may be frozen. */
static void bulk_lost(const struct error *err, void *context)
{
        struct source_side *x = context;

        x->bulk = NULL;
        if (x->giver)
                page_giver_link(x->giver, NULL);
        page_server_free(TAKE_PTR(x->pages)); /* reads into memory that the link shared */
        if (x->sender)
                image_sender_detach(x->sender);
        if (!x->images_sent)
                x->bulk_error = *err;
}

const struct peer_bulk_handlers source_bulk_handlers = {
        .frame = bulk_frame, .writable = bulk_writable, .lost = bulk_lost};

static bool never(void *context)
{
        (void)context;
        return false;
}

int source_bulk_state(struct source_side *x, struct error *err)
{
        if (x->bulk_error.kind == ERROR_NONE)
                return 0;
        /* A target that gave up says why on the control link, which may be a moment behind. */
        int r = session_wait(x->session, WAIT_INTERRUPTIBLE, never, NULL, LAST_WORD_MS, "the reason", err);
        if (r != -ETIMEDOUT)
                return r;
        *err = x->bulk_error;
        return error_wrap(err, "sending memory to %s", x->session->request.peer);
}

/* What each process has of its own, in memory or swap: shared by copy on write, it is in the images of each. */
static uint64_t memory_of_all(const struct session *s)
{
        AUTO_FREE pid_t *pids = NULL;
        uint64_t kib = 0;
        size_t n = 0;

        /* Before they are gathered some kinds have no freezer: then the offer's number counts. */
        if (!s->workload.freezer || freezer_pids(s->workload.freezer, &pids, &n, NULL) < 0)
                return s->workload.memory_bytes;
        for (size_t i = 0; i < n; i++) {
                AUTO_FREE char *status = NULL;
                if (proc_status_read(pids[i], &status) == 0)
                        kib += proc_status_number(status, "VmRSS") + proc_status_number(status, "VmSwap");
        }
        return kib * 1024 > s->workload.memory_bytes ? kib * 1024 : s->workload.memory_bytes;
}

/* How many connections memory takes. A tunnel is one connection in any case. */
static unsigned streams_of(const struct session *s)
{
        const long processors = sysconf(_SC_NPROCESSORS_ONLN);
        const uint64_t wanted = s->request.options.streams;

        if (s->tunnel || peer_version(s) < VERSION_BUNDLES)
                return 1;
        if (wanted)
                return (unsigned)wanted;
        return processors < 2 ? 1 : processors < STREAMS_USUAL ? (unsigned)processors : STREAMS_USUAL;
}

int source_open_state(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        if (x->sender)
                return 0;
        struct message *m = message_new(MSG_STATE_OPEN);
        const uint32_t number = x->next_stream;
        const unsigned streams = streams_of(s);

        x->next_stream += streams;

        x->memory_bytes = memory_of_all(s);
        message_put_u32(m, FIELD_STREAM, number);
        if (peer_version(s) >= VERSION_MEMORY_BYTES)
                message_put_u64(m, FIELD_MEMORY_BYTES, x->memory_bytes);
        if (streams > 1)
                message_put_u32(m, FIELD_STREAMS, streams);
        int r = peer_send(s, m, err);
        if (r == 0)
                r = peer_bulk(s, number, streams, &source_bulk_handlers, x, &x->bulk, err);
        if (r < 0)
                return r;
        r = image_sender_new(x->bulk, peer_version(s) >= VERSION_DIGESTS, &x->sender);
        if (r < 0)
                return error_errno(err, -r, "cannot send memory");

        r = session_images_make(s, METADATA_MAX, err);
        if (r < 0)
                return r;
        x->images_fd = open(s->paths.images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return x->images_fd < 0 ? error_errno(err, errno, "cannot open %s", s->paths.images) : 0;
}

void source_save(struct source_side *x, size_t places)
{
        if (peer_version(x->session) < VERSION_PIECES)
                return;
        int r = image_sender_dedup(x->sender, places);
        if (r < 0 && r != -EINVAL)
                session_log(x->session, "warning", "all memory is sent, equal pages too: %s", strerror(-r));
}

void source_saved(struct source_side *x)
{
        uint64_t zero, same;

        image_sender_saved(x->sender, &zero, &same);
        x->session->report->zero_bytes = (int64_t)zero;
        x->session->report->same_bytes = (int64_t)same;
}

/* -- handing over: the link takes a little at a time -----------------------------------------------------------------
 */

struct handing {
        struct source_side *side;
        int (*more)(struct source_side *x, struct error *err);
        int result; /* -EAGAIN: goes on */
        struct error *err;
};

static bool handed_over(void *context)
{
        struct handing *h = context;
        struct source_side *x = h->side;

        if (x->bulk_error.kind != ERROR_NONE)
                return true;
        if (h->result == -EAGAIN && x->writable) {
                x->writable = false;
                h->result = h->more(x, h->err);
        }
        return h->result < 0 ? h->result != -EAGAIN : image_sender_idle(x->sender);
}

int source_hand_over(struct source_side *x, int (*more)(struct source_side *, struct error *), const char *what,
                     struct error *err)
{
        struct handing h = {.side = x, .more = more, .result = -EAGAIN, .err = err};

        x->writable = true;
        int r = session_wait(x->session, WAIT_INTERRUPTIBLE, handed_over, &h, 0, what, err);
        if (r == 0)
                r = source_bulk_state(x, err);
        return r < 0 ? r : h.result;
}

/* -- rounds ----------------------------------------------------------------------------------------------------------
 */

/* What a later process needs to let them go on, should this one die while they stand still; durable before they do. */
static int record_rounds(struct session *s, struct error *err)
{
        json_t *fields = json_pack("{s:s, s:b, s:i}", "freezer", s->workload.freezer, "v2", s->workload.freezer_v2,
                                   "init_pid", (int)s->workload.init_pid);

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(s->journal, "ROUNDS", fields, err);
        json_decref(fields);
        return r;
}

static int watch(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        AUTO_FREE pid_t *pids = NULL;
        struct error reason = {0};
        size_t n = 0;

        int r = freezer_pids(s->workload.freezer, &pids, &n, err);
        if (r == 0 && s->hauler->dumped)
                r = s->hauler->dumped(&s->workload, pids, &n, err);
        if (r == 0)
                r = precopy_watch(x->precopy, pids, n, &reason, err);
        if (r == 0 && reason.kind != ERROR_NONE && !x->untracked_told) {
                x->untracked_told = true;
                session_log(s, "warning", "not all memory can be sent beforehand: %s", reason.text);
        }
        return r;
}

/* The tasks stand still for the moment in which it is found out what they have written. */
static int scan_stopped(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        struct error thaw = {0};

        int r = freezer_freeze(s->workload.freezer, s->workload.freezer_v2, err);
        if (r == 0)
                r = precopy_scan(x->precopy, err);
        if (freezer_thaw(s->workload.freezer, s->workload.freezer_v2, &thaw) < 0) {
                /* That is no matter of rounds any more. */
                x->stuck = true;
                *err = thaw;
                return -err->code;
        }
        return r;
}

/* *ret_last_us: how long it will take once more when they stand still in the end. */
static int scan(struct source_side *x, uint64_t *ret_last_us, struct error *err)
{
        const bool stopped = precopy_needs_stop(x->precopy);
        const uint64_t began = clock_us();

        int r = stopped ? scan_stopped(x, err) : precopy_scan(x->precopy, err);
        if (r < 0)
                return r;
        const uint64_t took = clock_us() - began;
        *ret_last_us = stopped ? 0 : took;
        session_log(x->session, "info", "round %u: %.1f MB to send, tasks %s %.1f ms", x->memory_rounds,
                    (double)precopy_round_bytes(x->precopy) / 1e6,
                    stopped ? "stopped for" : "looked at while they ran for", (double)took / 1e3);
        return 0;
}

static int send_more(struct source_side *x, struct error *err)
{
        return precopy_send(x->precopy, err);
}

/* The rounds are there to save time: unless somebody insisted on them, what they meet ends them and not more. */
static bool may_go_without(const struct source_side *x, int r)
{
        return x->session->request.options.tracker == TRACKER_WANTED_AUTO && r != -ENOMEM && !x->stuck;
}

/*
 * The target stores what rounds sent of processes that are gone as well. What it must have room for in the end are
 * those that are left, and files.
 */
static bool has_room(const struct source_side *x)
{
        return x->first_bytes <= STATE_CEILING(x->memory_bytes) - x->memory_bytes - STATE_MARGIN / 2;
}

/* What it told so far is for those who watch, and for the report. */
static void predict(struct source_side *x)
{
        const struct convergence *c = &x->convergence;
        struct session *s = x->session;

        s->progress.dirty_rate = convergence_dirty_rate(c);
        s->progress.predicted_downtime_ms = s->report->predicted_ms = convergence_downtime_ms(c);
        s->report->predicted_copy_ms = convergence_copy_ms(c);
}

/* 1: no further one is possible. */
static int one_round(struct source_side *x, enum convergence_advice *ret, struct error *err)
{
        struct session *s = x->session;

        uint64_t last = 0;

        x->memory_rounds++;
        int r = watch(x, err);
        const uint64_t scanned = clock_us();
        if (r == 0)
                r = scan(x, &last, err);
        if (r < 0 && may_go_without(x, r)) {
                session_log(s, "warning", "no more memory is sent beforehand: %s", err->text);
                error_clear(err);
                return 1;
        }
        if (r < 0)
                return r;
        const uint64_t bytes = precopy_round_bytes(x->precopy), written = precopy_written_bytes(x->precopy);
        x->first_bytes += bytes - written;
        if (!has_room(x)) {
                session_log(s, "info", "no more memory is sent beforehand: too much of it was of processes that ended");
                return 1;
        }
        session_round(s, x->memory_rounds, bytes);
        r = source_hand_over(x, send_more, "sending memory", err);
        source_saved(x);
        if (r < 0)
                return r;
        *ret = convergence_round(&x->convergence, &(struct convergence_round){.scanned_us = scanned,
                                                                              .sent_us = clock_us(),
                                                                              .last_us = last,
                                                                              .bytes = bytes,
                                                                              .written = written});
        predict(x);
        return 0;
}

/* Durable before the first step: whoever comes after us puts the limit back. */
static int record_throttle(struct source_side *x, struct error *err)
{
        json_t *fields =
                json_pack("{s:s, s:s}", "cpu", x->session->workload.cpu, "before", throttle_before(x->throttle));

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(x->session->journal, "THROTTLED", fields, err);
        json_decref(fields);
        return r;
}

static int begin_throttle(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        int r = s->hauler->limit ? s->hauler->limit(&s->workload, err) : 0;
        if (r == 0)
                r = s->workload.cpu ? throttle_new(s->workload.cpu, &x->throttle, err)
                                    : error_set(err, EOPNOTSUPP, "it has no cgroup with a CPU limit of its own");
        return r < 0 ? r : record_throttle(x, err);
}

/* The rounds gain nothing any more. 1: nor would others, as nothing is done about it. */
static int slow_down(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        unsigned allowed = 0;

        if (s->request.options.diverge == DIVERGE_POSTCOPY && !x->postcopy) {
                x->postcopy = true;
                session_log(s, "info", "it dirties memory faster than it is sent: the rest follows when it runs there");
        }
        if (s->request.options.diverge != DIVERGE_THROTTLE)
                return 1;
        int r = x->throttle ? 0 : begin_throttle(x, err);
        if (r == 0)
                r = throttle_step(x->throttle, &allowed, err);
        if (r < 0 && r != -ENOMEM) {
                session_log(s, "warning", "it cannot be slowed down: %s", err->text);
                error_clear(err);
                return 1;
        }
        if (r != 0)
                return r;
        session_log(s, "info", "it dirties memory faster than it is sent: slowed down to %u.%u %% of a CPU",
                    allowed / 10, allowed % 10);
        convergence_slowed(&x->convergence);
        return 0;
}

/* Until stopping now costs no more than is allowed, or another round would not make it cheaper. */
static int rounds(struct source_side *x, struct error *err)
{
        const struct session_request *request = &x->session->request;
        const uint64_t allowed = request->options.max_downtime_ms ?: MIGRATION_MAX_DOWNTIME_MS;
        enum convergence_advice advice = CONVERGENCE_AGAIN;
        int r = 0;

        convergence_init(&x->convergence, allowed, request->floor_ms ?: PREFLIGHT_FLOOR_MS, ROUNDS_MAX);
        while (r == 0 && advice != CONVERGENCE_ENOUGH && x->memory_rounds < PAGEMAP_ROUNDS_MAX) {
                r = advice == CONVERGENCE_STALLED ? slow_down(x, err) : 0;
                if (r == 0)
                        r = one_round(x, &advice, err);
        }
        return r < 0 ? r : 0;
}

static int say_last(struct source_side *x, struct error *err)
{
        return precopy_last(x->precopy, err);
}

bool source_memory_tracked(const struct session *s)
{
        const enum migration_tracker wanted = s->request.options.tracker;

        for (size_t i = 0; i < sizeof(trackers) / sizeof(trackers[0]); i++) {
                CLEANUP(tracker_free_ptr) struct tracker *tracker = NULL;
                if ((wanted == TRACKER_WANTED_AUTO || wanted == trackers[i].wanted) &&
                    tracker_new(trackers[i].kind, &tracker, NULL) == 0)
                        return true;
        }
        return false;
}

/* By the best tracker that can be had here. 1: by none. */
static int begin_precopy(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        const enum migration_tracker wanted = s->request.options.tracker;
        const enum precopy_demand demand = wanted == TRACKER_WANTED_AUTO ? PRECOPY_TRY : PRECOPY_INSIST;

        for (size_t i = 0; i < sizeof(trackers) / sizeof(trackers[0]); i++) {
                if (wanted != TRACKER_WANTED_AUTO && wanted != trackers[i].wanted)
                        continue;
                error_clear(err);
                x->tracker = trackers[i].kind;
                int r = precopy_new(x->sender, x->tracker, demand, s->workload.init_pid, &x->precopy, err);
                if (r == 0)
                        source_save(x, trackers[i].places);
                if (r == 0 || !may_go_without(x, r))
                        return r;
                session_log(s, "info", "written memory is not found by %s: %s", tracker_kind_name(x->tracker),
                            err->text);
        }
        error_clear(err);
        return 1;
}

/* 1: it is not possible here. */
static int begin_rounds(struct source_side *x, struct error *err)
{
        int r = begin_precopy(x, err);
        if (r != 0)
                return r;
        r = clean_pages_new(&x->clean_pages);
        if (r == 0 && fault_is_wanted(x->session, "withhold"))
                r = precopy_withhold(x->precopy);
        if (r == 0)
                return 0;
        precopy_free(TAKE_PTR(x->precopy));
        r = error_errno(err, -r, "cannot share memory with criu");
        if (!may_go_without(x, r))
                return r;
        session_log(x->session, "info", "memory is sent while frozen: %s", err->text);
        error_clear(err);
        return 1;
}

static void say_tracked(struct source_side *x)
{
        struct session *s = x->session;
        size_t scanned, all;

        precopy_coverage(x->precopy, &scanned, &all);
        if (scanned)
                (void)snprintf(s->report->tracker, sizeof(s->report->tracker), "%s", tracker_kind_name(x->tracker));
        if (scanned < all)
                session_log(s, "warning", "of %zu processes %zu were tracked; the memory of the others is in the dump",
                            all, scanned);
}

static int memory_rounds(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        if (s->request.options.tracker == TRACKER_WANTED_NONE)
                return 1;
        session_phase(s, "memory");
        int r = source_open_state(x, err);
        if (r < 0)
                return r;
        r = begin_rounds(x, err);
        if (r != 0)
                return r;
        x->in_rounds = true;
        r = s->hauler->gather ? s->hauler->gather(&s->workload, err) : 0;
        if (r == 0)
                r = record_rounds(s, err);
        if (r == 0)
                r = rounds(x, err);
        if (r == 0)
                r = source_hand_over(x, say_last, "sending memory", err);
        if (r == 0)
                say_tracked(x);
        return r;
}

int source_memory(struct source_side *x, struct error *err)
{
        x->postcopy = x->session->request.options.postcopy;
        int r = memory_rounds(x, err);
        if (r < 0)
                return r;
        /* No rounds help no more than others. */
        x->postcopy |= r > 0 && x->session->request.options.diverge == DIVERGE_POSTCOPY;
        return x->postcopy ? source_postcopy_begin(x, err) : 0;
}

/* -- around the dump -------------------------------------------------------------------------------------------------
 */

int source_memory_clean(struct source_side *x, struct error *err)
{
        int r = x->precopy ? precopy_clean(x->precopy, x->within, x->clean_pages, err) : 0;

        return r < 0 ? r : source_postcopy_mark(x, err);
}

static int tell_kept(struct source_side *x, struct error *err)
{
        return precopy_kept(x->precopy, x->clean_pages, err);
}

int source_memory_kept(struct source_side *x, struct error *err)
{
        int r = x->precopy ? source_hand_over(x, tell_kept, "sending memory", err) : 0;
        if (r == 0 && x->precopy)
                session_log(x->session, "info", "%.1f MB were there already, %u scans",
                            (double)precopy_kept_bytes(x->precopy) / 1e6, clean_pages_scans(x->clean_pages));
        return r < 0 ? r : source_postcopy_left(x, err);
}
