/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "criu/pagemap_image.h"

/*
 * Restored tasks run before their memory is in place: a service of its own gives them each page when they touch it, and
 * the others in the background. CRIU makes a userfaultfd in each task and hands it to the service (criu/uffd.c, "lazy
 * pages"); the pages lie in the images, which are given back as they are used up.
 *
 * The service outlives the session, and the death of any two of its processes (phaul-pages, main/phaul-pages.c): a
 * keeper, a worker and a standby share one table of descriptors, so that userfaultfds stay open, and a ledger of what
 * is still owed (ledger.h). The keeper starts another worker when one dies; a worker whose keeper dies becomes one; the
 * standby, which has another name, does when both are dead. It ends when nothing is owed any more, or nobody lives who
 * could want it, or when it is told to.
 *
 * All it leaves behind is the ledger, a file at `path` (in a tmpfs, in a directory of root). One thread at a time.
 */

/* Can tasks restored here have memory that comes late? Tried on this process. -EOPNOTSUPP with the reason. */
int page_service_possible(int images_fd, struct error *err);

#define PAGE_SERVICE_LEDGER_ENDING ".pages"

/* In the images, where some pages are on another host (remote.h): FIFOs in which a byte says "look". */
#define PAGE_SERVICE_WANTED "wanted.bell" /* the session: pages are wanted */
#define PAGE_SERVICE_HERE "here.bell"     /* the service: some have come */

struct page_service_options {
        const char *path;    /* of the ledger, which must not exist; ends in PAGE_SERVICE_LEDGER_ENDING */
        const char *program; /* phaul-pages */
        int images_fd;
        const struct pagemap_writer *writer; /* finished; says what is owed */
        bool keep;                           /* the images are wanted afterwards */
};

/*
 * Listens in the images from when this returns 0; 1: nothing is owed, and nothing was started. *ret_pid is a child of
 * ours, which need not live as long as the service. After a failure neither ledger nor socket is left.
 */
int page_service_start(const struct page_service_options *options, pid_t *ret_pid, struct error *err);

/* The tree is there: this is its root, in our pid namespace. */
int page_service_belongs(const char *path, pid_t root, struct error *err);

/* Does any service with its ledger in that directory still bring memory for the tree of that root? */
bool page_service_brings(const char *directory, pid_t root);

struct page_service_status {
        bool running; /* a process of it is alive */
        bool through; /* all that was owed is given, or nobody is left */
        bool filling; /* the tasks run */
        uint64_t total_bytes, given_bytes;
        uint64_t away_bytes; /* still on another host */
        unsigned workers;
        int trouble;       /* errno of what it cannot do and goes on trying, 0: nothing */
        char failure[256]; /* why a worker gave up, "" if none did */
};

/* -ENOENT: there is no ledger, so there was no service. */
int page_service_look(const char *path, struct page_service_status *ret, struct error *err);

/* Ends it at once, waits (blocking, at most 5 s) until it is gone, removes its ledger. No ledger: success. */
int page_service_stop(const char *path, struct error *err);

/* phaul-pages: descriptors as spawned by page_service_start(). 0 when the service is over. */
enum { PAGE_SERVICE_LEDGER = 3, PAGE_SERVICE_LISTENER = 4, PAGE_SERVICE_IMAGES = 5 };
int page_service_run(struct error *err);
