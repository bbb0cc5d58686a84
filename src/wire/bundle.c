/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/bundle.h"

#include <errno.h>
#include <stdlib.h>

/* On their way at once, of all links: each is up to BULK_MAX of memory that the workload's host has to spare. */
#define IN_FLIGHT_MAX 16U

struct waiting {
        struct bulk_frame frame;
        const void *data;
};

/* A link, and what came on it before its turn, oldest first: no more than it has slots. */
struct lane {
        struct link *link;
        struct waiting waiting[BULK_SLOTS];
        unsigned first, n;
};

struct bundle {
        bundle_frame_fn frame;
        void *context;
        unsigned n_lanes;
        uint64_t next_out, next_in;
        struct lane *reserved;
        struct lane lanes[BUNDLE_LINKS_MAX];
};

int bundle_new(unsigned n_links, bundle_frame_fn frame, void *context, struct bundle **ret)
{
        if (n_links == 0 || n_links > BUNDLE_LINKS_MAX)
                return -EINVAL;
        struct bundle *b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->frame = frame;
        b->context = context;
        b->n_lanes = n_links;
        *ret = b;
        return 0;
}

void bundle_free(struct bundle *bundle)
{
        free(bundle);
}

void bundle_set_link(struct bundle *bundle, unsigned place, struct link *link)
{
        bundle->lanes[place].link = link;
}

/* -- sending ------------------------------------------------------------------------------------------------------- */

int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        const unsigned most =
                IN_FLIGHT_MAX / bundle->n_lanes < BULK_SLOTS ? IN_FLIGHT_MAX / bundle->n_lanes : BULK_SLOTS;
        struct lane *best = bundle->reserved;
        unsigned least = most;

        for (unsigned i = 0; i < bundle->n_lanes && !bundle->reserved; i++) {
                const unsigned n = link_bulk_in_flight(bundle->lanes[i].link);
                if (n < least) {
                        least = n;
                        best = &bundle->lanes[i];
                }
        }
        if (!best)
                return -EAGAIN;
        int r = link_bulk_reserve(best->link, ret_data);
        bundle->reserved = r == 0 ? best : NULL;
        return r;
}

int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame)
{
        struct bulk_frame next = *frame;

        if (!bundle->reserved)
                return -EINVAL;
        next.sequence = bundle->next_out;
        int r = link_bulk_commit(bundle->reserved->link, &next);
        if (r < 0)
                return r;
        bundle->next_out++;
        bundle->reserved = NULL;
        return 0;
}

bool bundle_idle(const struct bundle *bundle)
{
        for (unsigned i = 0; i < bundle->n_lanes; i++)
                if (link_bulk_in_flight(bundle->lanes[i].link))
                        return false;
        return true;
}

/* -- receiving ----------------------------------------------------------------------------------------------------- */

/* Whose first frame has its turn now. */
static struct lane *next_lane(struct bundle *b)
{
        for (unsigned i = 0; i < b->n_lanes; i++) {
                struct lane *lane = &b->lanes[i];
                if (lane->n && lane->waiting[lane->first].frame.sequence == b->next_in)
                        return lane;
        }
        return NULL;
}

/* Each lane keeps the order: the one that is due, if it was sent, is the first of its lane. */
static bool has_gap(const struct bundle *b)
{
        for (unsigned i = 0; i < b->n_lanes; i++)
                if (!b->lanes[i].n)
                        return false;
        return true;
}

/* A slot is filled again only when its frame is done with: there are no more of them. */
static int keep(struct bundle *b, struct lane *lane, const struct bulk_frame *frame, const void *data)
{
        lane->waiting[(lane->first + lane->n++) % BULK_SLOTS] = (struct waiting){*frame, data};
        return has_gap(b) ? -EPROTO : 1;
}

int bundle_take(struct bundle *bundle, unsigned place, const struct bulk_frame *frame, const void *data)
{
        if (bundle->n_lanes == 1) {
                bundle->frame(frame, data, bundle->context);
                return 0;
        }
        if (frame->sequence != bundle->next_in)
                return keep(bundle, &bundle->lanes[place], frame, data);
        bundle->next_in++;
        bundle->frame(frame, data, bundle->context);
        for (struct lane *lane; (lane = next_lane(bundle)) != NULL;) {
                const struct waiting next = lane->waiting[lane->first];
                lane->first = (lane->first + 1) % BULK_SLOTS;
                lane->n--;
                bundle->next_in++;
                bundle->frame(&next.frame, next.data, bundle->context);
                link_bulk_done(lane->link, next.data);
        }
        return has_gap(bundle) ? -EPROTO : 0;
}
