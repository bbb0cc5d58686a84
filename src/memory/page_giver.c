/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/page_giver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_MAX 8192U /* runs; the target has far fewer on their way */

/* End of user space with five-level page tables. */
#define ADDRESS_END (UINT64_C(1) << 56)

struct wanted {
        uint64_t image, vaddr;
        uint32_t n_pages;
};

struct queue {
        struct wanted list[QUEUE_MAX];
        uint32_t first, n;
};

struct page_giver {
        page_read_fn read;
        void *context;
        struct bundle *bundle;
        struct queue urgent, others;
        uint64_t urgent_bytes, other_bytes;
};

int page_giver_new(page_read_fn read, void *context, struct page_giver **ret)
{
        struct page_giver *g = calloc(1, sizeof(*g));

        if (!g)
                return -ENOMEM;
        g->read = read;
        g->context = context;
        *ret = g;
        return 0;
}

void page_giver_free(struct page_giver *giver)
{
        free(giver);
}

void page_giver_link(struct page_giver *giver, struct bundle *bundle)
{
        giver->bundle = bundle;
        if (!bundle)
                giver->urgent.n = giver->others.n = 0;
}

uint64_t page_giver_urgent_bytes(const struct page_giver *giver)
{
        return giver->urgent_bytes;
}

uint64_t page_giver_other_bytes(const struct page_giver *giver)
{
        return giver->other_bytes;
}

static struct wanted *at(struct queue *q, uint32_t i)
{
        return &q->list[(q->first + i) % QUEUE_MAX];
}

static void drop_first(struct queue *q)
{
        q->first = (q->first + 1) % QUEUE_MAX;
        q->n--;
}

int page_giver_wanted(struct page_giver *giver, const struct bulk_frame *frame, const void *data, struct error *err)
{
        const struct bulk_frame f = *frame;
        struct queue *q = f.flags & BULK_URGENT ? &giver->urgent : &giver->others;

        if (f.type != BULK_WANTED || f.flags & ~BULK_URGENT || f.count || f.offset == 0 || f.offset > RUNS_PER_FRAME ||
            f.size != f.offset * RUN_BYTES || !page_image_is_valid(f.object))
                return error_set(err, EBADMSG, "a frame of type %" PRIu16 " where pages could be wanted", f.type);
        if (f.offset > QUEUE_MAX - q->n)
                return error_set(err, EBADMSG, "more pages are wanted at once than can be");
        for (uint64_t i = 0; i < f.offset; i++) {
                uint8_t copy[RUN_BYTES];
                struct page_span span;
                memcpy(copy, (const uint8_t *)data + i * RUN_BYTES, sizeof(copy));
                if (!page_span_get(copy, &span) || span.vaddr % PAGE_BYTES || span.vaddr >= ADDRESS_END ||
                    span.n_pages > (ADDRESS_END - span.vaddr) / PAGE_BYTES)
                        return error_set(err, EBADMSG, "a run of pages that is none");
                *at(q, q->n++) = (struct wanted){f.object, span.vaddr, span.n_pages};
        }
        return 0;
}

/* As many of the first runs as fit into a frame. */
static uint32_t take_spans(struct queue *q, struct page_span spans[static RUNS_PER_TABLE], uint32_t *ret_pages)
{
        uint32_t n = 0, pages = 0;

        while (n < q->n && n < RUNS_PER_TABLE && pages < PAGE_BATCH_MAX && at(q, n)->image == at(q, 0)->image) {
                const struct wanted *w = at(q, n);
                const uint32_t some = w->n_pages < PAGE_BATCH_MAX - pages ? w->n_pages : PAGE_BATCH_MAX - pages;
                spans[n++] = (struct page_span){.vaddr = w->vaddr, .n_pages = some};
                pages += some;
        }
        *ret_pages = pages;
        return n;
}

/* So many pages from the beginning are dealt with. */
static void advance(struct queue *q, uint32_t pages)
{
        while (pages) {
                struct wanted *w = at(q, 0);
                const uint32_t some = w->n_pages < pages ? w->n_pages : pages;
                w->vaddr += (uint64_t)some * PAGE_BYTES;
                w->n_pages -= some;
                pages -= some;
                if (w->n_pages == 0)
                        drop_first(q);
        }
}

/* The first `pages` of the spans were read into the slot. */
static int send_pages(struct page_giver *g, bool urgent, uint64_t image, const struct page_span *spans, uint32_t pages,
                      uint8_t *slot)
{
        struct bulk_frame frame = {.type = BULK_PAGES,
                                   .flags = (uint16_t)(PE_PRESENT | BULK_CHECKED | (urgent ? BULK_URGENT : 0)),
                                   .size = RUN_TABLE_BYTES + pages * PAGE_BYTES,
                                   .object = image,
                                   .count = pages};

        memset(slot, 0, RUN_TABLE_BYTES);
        for (uint32_t done = 0; done < pages; frame.offset++) {
                struct page_span span = spans[frame.offset];
                if (span.n_pages > pages - done)
                        span.n_pages = pages - done;
                page_span_put(slot + frame.offset * RUN_BYTES, &span);
                done += span.n_pages;
        }
        page_digest(slot, pages, slot + DIGEST_AT);
        return bundle_commit(g->bundle, &frame);
}

/* The tasks are frozen: what cannot be read now never can. */
static int send_gone(struct page_giver *g, uint64_t image, uint64_t vaddr, uint32_t pages, uint8_t *slot)
{
        page_span_put(slot, &(struct page_span){.vaddr = vaddr, .n_pages = pages});
        return bundle_commit(
                g->bundle,
                &(struct bulk_frame){.type = BULK_PAGES_GONE, .size = RUN_BYTES, .object = image, .offset = 1});
}

static int give_some(struct page_giver *g, bool urgent)
{
        struct page_span spans[RUNS_PER_TABLE];
        struct queue *q = urgent ? &g->urgent : &g->others;
        const uint64_t image = at(q, 0)->image;
        uint32_t pages;
        void *slot;

        int r = bundle_reserve(g->bundle, &slot);
        if (r < 0)
                return r;
        const uint32_t n_spans = take_spans(q, spans, &pages);
        ssize_t n = g->read(image, spans, n_spans, (uint8_t *)slot + RUN_TABLE_BYTES, g->context);
        if (n > 0) {
                r = send_pages(g, urgent, image, spans, (uint32_t)n, slot);
                *(urgent ? &g->urgent_bytes : &g->other_bytes) += (uint64_t)n * PAGE_BYTES;
        } else {
                n = n == -ESRCH ? (ssize_t)spans[0].n_pages : 1;
                r = send_gone(g, image, spans[0].vaddr, (uint32_t)n, slot);
        }
        if (r == 0)
                advance(q, (uint32_t)n);
        return r;
}

int page_giver_give(struct page_giver *giver, struct error *err)
{
        int r = 0;

        while (r == 0 && giver->bundle && (giver->urgent.n || giver->others.n))
                r = give_some(giver, giver->urgent.n != 0);
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot send pages") : 0;
}
