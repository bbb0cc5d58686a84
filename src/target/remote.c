/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "pages/service.h"
#include "session/peer.h"
#include "target/target.h"

/*
 * Post-copy: what was left on the source is asked for, over the way that memory came on. First where a task waits, told
 * by the page service; and from when the copy runs everything, by address, some of it ahead, so that the link is never
 * without work and yet whoever waits does not wait long.
 */
#define URGENT_PAGES 32U /* with what lies behind: the next that is touched, often */
#define CHUNK_PAGES 64U  /* of a question */
#define AHEAD_PAGES 256U /* on their way at once: 1 MiB, so that a task that waits comes soon after it */
#define STALLED_MS 1000U

static void drop_way(struct target_side *x)
{
        x->way = NULL;
        x->on_their_way = 0;
        x->next_run.n_pages = 0;
        x->gone_bytes = 0; /* they are asked for again, and told again */
        if (x->remote)
                page_remote_again(x->remote);
}

/* Runs of one image, into a frame: as many as make up a chunk. Those of the next image are kept for the next frame. */
static uint32_t gather(struct target_side *x, bool urgent, uint8_t *slot, struct bulk_frame *frame)
{
        struct remote_run *run = &x->next_run;
        uint32_t pages = 0;

        *frame = (struct bulk_frame){.type = BULK_WANTED, .flags = urgent ? BULK_URGENT : 0};
        while (pages < CHUNK_PAGES && frame->offset < RUNS_PER_TABLE) {
                if (!run->n_pages && !(urgent ? page_remote_wanted(x->remote, URGENT_PAGES, run)
                                              : page_remote_next(x->remote, CHUNK_PAGES - pages, run)))
                        break;
                if (frame->offset && frame->object != run->image)
                        break;
                frame->object = run->image;
                page_span_put(slot + frame->offset++ * RUN_BYTES,
                              &(struct page_span){.vaddr = run->vaddr, .n_pages = (uint32_t)run->n_pages});
                pages += (uint32_t)run->n_pages;
                run->n_pages = 0;
        }
        frame->size = (uint32_t)(frame->offset * RUN_BYTES);
        return pages;
}

/* 0: nothing more to ask for now. */
static int ask_once(struct target_side *x, bool urgent)
{
        struct bulk_frame frame;
        void *slot;

        int r = bundle_reserve(x->way, &slot);
        if (r < 0)
                return r;
        const uint32_t pages = gather(x, urgent, slot, &frame);
        if (!pages)
                return 0;
        r = bundle_commit(x->way, &frame);
        if (r < 0)
                return r;
        x->on_their_way += pages;
        return 1;
}

/* For tests: only what a task waits for is fetched while RUNTIME/faults/target-pull exists. */
static bool is_held(const struct target_side *x)
{
#ifdef PHAUL_FAULT_POINTS
        char path[400];

        (void)snprintf(path, sizeof(path), "%s/faults/target-pull", x->session->paths.runtime);
        return access(path, F_OK) == 0;
#else
        (void)x;
        return false;
#endif
}

/* A run that was taken and not asked for, as it is of another image, goes first: it may be an urgent one. */
static void ask(struct target_side *x)
{
        int r = 1;

        while (x->way && x->remote && r > 0)
                r = ask_once(x, true);
        while (x->way && x->remote && r >= 0 && x->pulling && x->on_their_way < AHEAD_PAGES && !is_held(x)) {
                r = ask_once(x, false);
                if (r <= 0)
                        break;
        }
}

static void on_bell(int fd, uint32_t events, void *context)
{
        (void)fd;
        (void)events;
        ask(context);
}

/* -- what comes --------------------------------------------------------------------------------------------------- */

static void arrived(struct target_side *x, uint64_t pages, bool urgent)
{
        x->on_their_way -= pages < x->on_their_way ? pages : x->on_their_way;
        *(urgent ? &x->faulted_bytes : &x->background_bytes) += pages * PAGE_BYTES;
}

static int take_pages(struct target_side *x, const struct bulk_frame *f, const uint8_t *data, struct error *err)
{
        const uint32_t flags = f->flags & ~(BULK_CHECKED | BULK_URGENT);
        uint8_t digest[DIGEST_BYTES];
        uint64_t done = 0;

        if (f->count == 0 || f->count > PAGE_BATCH_MAX || f->offset == 0 || f->offset > RUNS_PER_TABLE ||
            f->size != RUN_TABLE_BYTES + f->count * PAGE_BYTES || flags != PE_PRESENT || !(f->flags & BULK_CHECKED))
                return error_set(err, EBADMSG, "%" PRIu64 " pages in %" PRIu64 " runs", f->count, f->offset);
        page_digest(data, (uint32_t)f->count, digest);
        if (memcmp(digest, data + DIGEST_AT, sizeof(digest)) != 0)
                return error_set(err, EBADMSG, "pages were changed on their way: their digest is another one");
        for (uint64_t i = 0; i < f->offset; i++) {
                uint8_t copy[RUN_BYTES];
                struct page_span span;
                memcpy(copy, data + i * RUN_BYTES, sizeof(copy));
                if (!page_span_get(copy, &span) || span.n_pages > f->count - done)
                        return error_set(err, EBADMSG, "a run of pages that is none");
                const struct remote_run run = {.image = f->object, .vaddr = span.vaddr, .n_pages = span.n_pages};
                int r = page_remote_take(x->remote, &run, data + RUN_TABLE_BYTES + done * PAGE_BYTES, err);
                if (r < 0)
                        return r;
                done += span.n_pages;
        }
        arrived(x, f->count, f->flags & BULK_URGENT);
        return 0;
}

/* Nobody has them: the source's host was started anew, or somebody killed what was frozen. */
static int take_gone(struct target_side *x, const struct bulk_frame *f, const uint8_t *data, struct error *err)
{
        struct session *s = x->session;
        uint8_t copy[RUN_BYTES];
        struct page_span span;
        char text[400];

        if (f->offset != 1 || f->size != RUN_BYTES || (memcpy(copy, data, sizeof(copy)), !page_span_get(copy, &span)))
                return error_set(err, EBADMSG, "a run of pages that is none");
        x->on_their_way -= span.n_pages < x->on_their_way ? span.n_pages : x->on_their_way;
        x->gone_bytes += (uint64_t)span.n_pages * PAGE_BYTES;
        (void)snprintf(
                text, sizeof(text),
                "%s has lost memory that was still there. Tasks that touch it wait for ever; what runs here has to "
                "be ended",
                s->request.peer);
        session_attention(s, text);
        return 0;
}

void target_remote_frame(struct target_side *x, const struct bulk_frame *frame, const void *data)
{
        const struct bulk_frame f = *frame;
        struct error err = {0};
        int r;

        if (!x->remote)
                return;
        if (f.type == BULK_PAGES)
                r = take_pages(x, &f, data, &err);
        else if (f.type == BULK_PAGES_GONE)
                r = take_gone(x, &f, data, &err);
        else
                r = error_set(&err, EBADMSG, "a frame of type %" PRIu16 " where pages were due", f.type);
        page_remote_ring(x->remote);
        if (r < 0) {
                session_log(x->session, "error", "pages of %s: %s", x->session->request.peer, err.text);
                x->way_failed = true; /* not from within the link's own callback */
                return;
        }
        ask(x);
}

void target_remote_writable(void *context)
{
        ask(context);
}

void target_remote_lost(struct target_side *x, const struct error *err)
{
        if (x->remote && page_remote_missing_bytes(x->remote))
                session_log(x->session, "warning", "the way for pages was lost: %s", err->text);
        drop_way(x);
}

/* -- its life ----------------------------------------------------------------------------------------------------- */

int target_remote_open(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (x->images_fd < 0)
                x->images_fd = open(s->paths.images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (x->images_fd < 0)
                return error_errno(err, errno, "cannot open %s", s->paths.images);
        int r = page_remote_open(s->paths.ledger, x->images_fd, &x->remote, err);
        if (r != 0)
                return r < 0 ? r : 0;
        s->needs_source = page_remote_missing_bytes(x->remote) > 0;
        r = loop_add_io(s->loop, page_remote_bell(x->remote), EPOLLIN, on_bell, x, &x->on_bell);
        if (r < 0)
                return error_errno(err, -r, "cannot watch the page service");
        ask(x);
        return 0;
}

void target_remote_close(struct target_side *x)
{
        source_free(TAKE_PTR(x->on_bell));
        page_remote_free(TAKE_PTR(x->remote));
}

void target_remote_pull(struct target_side *x)
{
        x->pulling = true;
        ask(x);
}

static void frame(const struct bulk_frame *frame, const void *data, void *context)
{
        target_remote_frame(context, frame, data);
}

static void lost(const struct error *err, void *context)
{
        target_remote_lost(context, err);
}

void target_remote_way(struct target_side *x, const struct message *m)
{
        static const struct peer_bulk_handlers handlers = {
                .frame = frame, .writable = target_remote_writable, .lost = lost};
        struct session *s = x->session;
        struct error err = {0};
        uint32_t number;

        if (!x->remote || message_get_u32(m, FIELD_STREAM, &number) < 0)
                return;
        peer_bulk_close(s);
        drop_way(x);
        if (peer_bulk(s, number, 1, &handlers, x, &x->way, &err) < 0)
                session_log(s, "warning", "no way for pages: %s", err.text);
        else
                ask(x);
}

bool target_remote_over(struct target_side *x)
{
        struct session *s = x->session;
        char text[400];

        if (x->way_failed) {
                x->way_failed = false;
                peer_bulk_close(s);
                drop_way(x);
        }
        if (!x->remote)
                return false; /* it could not be opened: the service alone knows when it is over */
        const uint64_t missing = page_remote_missing_bytes(x->remote), now = clock_ms();
        if (missing <= x->gone_bytes)
                return true;
        if (peer_is_up(s) && x->way) {
                x->cut_since_ms = 0;
                session_stalled(s, NULL);
                ask(x);
                return false;
        }
        if (!x->cut_since_ms)
                x->cut_since_ms = now;
        if (now - x->cut_since_ms >= STALLED_MS && !s->stalled[0]) {
                (void)snprintf(
                        text, sizeof(text),
                        "the link to %s is down, and %.1f MB of the memory of what runs here are still there: tasks "
                        "that touch it wait. It goes on when the link is back",
                        s->request.peer, (double)missing / 1e6);
                session_stalled(s, text);
        }
        return false;
}
