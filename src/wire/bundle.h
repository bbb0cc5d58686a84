/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "wire/link.h"

/*
 * Bulk links side by side, as if they were one: what is committed at one end comes out at the other in the same order,
 * whichever link carried each frame. A frame goes to the link with the least on its way, so that one that is slow, or
 * repeats what was lost, does not hold up the rest; its place is told by its sequence, and a frame that comes before
 * its turn waits in the slot where phaul-net put it. Several TCP connections fill a long link that one does not, and as
 * many phaul-net processes encrypt and compress. They live together: when one is lost, so are all.
 *
 * One thread, that of the links' loop. A bundle has no links of its own and must outlive none of them; it must not be
 * freed from within `frame`.
 */
struct bundle;

#define BUNDLE_LINKS_MAX 8U

/* A frame whose turn it is, as link_handlers.bulk. */
typedef void (*bundle_frame_fn)(const struct bulk_frame *frame, const void *data, void *context);

/* Of so many links, from 1 to BUNDLE_LINKS_MAX. -EINVAL, -ENOMEM. */
int bundle_new(unsigned n_links, bundle_frame_fn frame, void *context, struct bundle **ret);
void bundle_free(struct bundle *bundle);
DEFINE_CLEANUP(struct bundle, bundle_free)

/* The link of a place from 0 on, before anything is sent or received on it; borrowed. */
void bundle_set_link(struct bundle *bundle, unsigned place, struct link *link);

/* What handlers.bulk of the link in that place is told, for every frame that comes: 0 it is done with, 1 it waits for
 * its turn, -EPROTO: the sequence of the peer has a gap. */
int bundle_take(struct bundle *bundle, unsigned place, const struct bulk_frame *frame, const void *data);

/* As link_bulk_reserve(), link_bulk_commit() and idleness of a link: -EAGAIN: wait until one of them is writable. */
int bundle_reserve(struct bundle *bundle, void **ret_data);
int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame);
bool bundle_idle(const struct bundle *bundle);
