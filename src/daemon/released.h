/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

/*
 * What migrated workloads left behind: directories STATE/released/ID, and what links in them say was put aside on
 * another file system, as ".phaul-released-ID". A whole tree of files takes its time to be removed: a child of ours
 * does it, one at a time, and what is to go is called STATE/released/.gone-ID until then.
 */
struct released;

/* `state` must outlive it. */
int released_new(struct loop *loop, const char *state, struct released **ret);
void released_free(struct released *released); /* the child ends, and what is left goes after the next start */
DEFINE_CLEANUP(struct released, released_free)

/* Out of the way at once, and removed in a while. Nothing there is success. */
int released_forget(struct released *released, const char *id, struct error *err);

/* Remove what an earlier phauld was not done with. */
void released_sweep(struct released *released);
