/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * Post-copy, on the target: pages of running tasks that are still with the frozen ones on the source. The page service
 * says which of them a task waits for; the session (this) asks the source for these and for the others, and puts what
 * comes to where the service finds it. All it has to know is in the ledger, so that another session goes on where one
 * died; what was on its way is asked for again. One thread.
 */
struct page_remote;

struct remote_run {
        uint64_t image, vaddr;
        uint64_t n_pages;
};

/* 0; 1: nothing is, or ever was, on another host; -ENOENT: there is no service. */
int page_remote_open(const char *ledger_path, int images_fd, struct page_remote **ret, struct error *err);
void page_remote_free(struct page_remote *remote);
DEFINE_CLEANUP(struct page_remote, page_remote_free)

/* Becomes readable when a page is wanted; to be emptied by page_remote_wanted(). */
int page_remote_bell(const struct page_remote *remote);

/*
 * What is to be asked for next, and counts as asked then: where a task waits, and by the calls after that what is
 * missing of the `max` pages that begin there; or any, at most so many. False: nothing.
 */
bool page_remote_wanted(struct page_remote *remote, uint64_t max, struct remote_run *ret);
bool page_remote_next(struct page_remote *remote, uint64_t max, struct remote_run *ret);

/* The link was lost: nothing counts as asked any more. */
void page_remote_again(struct page_remote *remote);

/* They came. -EBADMSG for pages that nobody left there; else what does not work. */
int page_remote_take(struct page_remote *remote, const struct remote_run *run, const void *pages, struct error *err);
/* The service is to look: after page_remote_take(), once for all. */
void page_remote_ring(struct page_remote *remote);

uint64_t page_remote_missing_bytes(const struct page_remote *remote);
uint64_t page_remote_total_bytes(const struct page_remote *remote);
/* How often a task had to wait. */
uint64_t page_remote_faults(const struct page_remote *remote);
