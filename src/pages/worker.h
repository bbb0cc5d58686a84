/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "pages/ledger.h"
#include "pages/store.h"

/*
 * One worker of the page service: the inside of service.h. The first thread takes what userfaultfds say and
 * answers faults; the others fill. Files: worker.c its life, intake.c CRIU's connection, events.c what
 * userfaultfds say, place.c giving pages, fill.c the other threads, waiting.c pages that are on another host.
 *
 * `lock` is held for reading by whoever gives a page, from looking whether it is owed until that is settled; and for
 * writing by whoever takes messages, until what they say is in the ledger. So no page is given on the ground of an
 * address space that has changed: a message that is not taken yet makes the kernel refuse it (EAGAIN), one that is
 * taken keeps us waiting.
 */
#define WORKER_FAULTS_MAX 1024
#define WORKER_URGENT_MAX 64

/* Somebody waits for the page. */
struct worker_fault {
        uint32_t space;
        uint64_t vaddr;
};

/* The same for a page that is on another host. */
struct worker_waiting {
        struct worker_fault fault;
        uint32_t file;
        uint64_t position;
};
#define WORKER_WAITING_MAX 4096

/* A piece of the store that somebody faulted in. */
struct worker_piece {
        struct worker_fault at;
        struct ledger_part part;
};

struct page_worker {
        struct page_ledger *ledger;
        struct page_store *store;
        int listener, epoll;
        int keeper_fd; /* pidfd of the keeper; -1: we are not watched */
        bool keeper_gone;
        bool stuck; /* a message was taken that cannot be applied: another worker is to try */

        pthread_rwlock_t lock;
        uint64_t *owed; /* pages, by space; atomic */
        bool *dead;     /* spaces whose tasks are gone, noticed while they could not be let go */
        struct worker_fault faults[WORKER_FAULTS_MAX];
        size_t n_faults;
        uint64_t looked_ms; /* when spaces were last looked at */

        /* Post-copy: for pages on another host, which the session brings. */
        int wanted_bell, here_bell; /* -1: all are here */
        struct worker_waiting waiting[WORKER_WAITING_MAX];
        size_t n_waiting;
        bool forgot; /* one that had no room there */

        /* The fillers. */
        pthread_t fillers[LEDGER_FILLERS_MAX];
        size_t n_fillers;
        pthread_mutex_t mutex; /* of what follows */
        pthread_cond_t more;
        bool leave;
        struct worker_piece urgent[WORKER_URGENT_MAX]; /* surroundings of faults */
        size_t n_urgent;
        uint32_t cursor_space;
        uint64_t cursor;
};

/* How a worker ends. */
enum worker_end {
        WORKER_THROUGH,  /* nothing is left to do */
        WORKER_BEREAVED, /* the keeper died; all threads but this one are gone */
};

/* Goes on where the last one stopped. Negative errno when it cannot begin. */
int page_worker_run(struct page_ledger *ledger, int listener, int images_fd, pid_t keeper, enum worker_end *ret,
                    struct error *err);

/* -- page_place.c; the lock is held by the caller */
/*
 * Give pages that are owed, as one goes. 0: some progress; -EAGAIN: there are messages to be taken first; -ESRCH: the
 * tasks are gone; -EBUSY: the first one is still on another host; else what does not work.
 */
int page_place_run(struct page_worker *w, uint32_t space, const struct ledger_run *run);
/* Answer a fault: with the page, with zeros, or by letting the task look again. As above. */
int page_place_fault(struct page_worker *w, uint32_t space, uint64_t vaddr);
/* Let everybody who waits look again. */
void page_place_wake_all(int uffd);
/* Is the address space still there? */
bool page_place_alive(int uffd);
void page_place_settle(struct page_worker *w, uint32_t space, uint64_t from, uint64_t end);

/* -- page_events.c; takes the lock itself */
void page_events_take(struct page_worker *w, uint32_t space);
/* The message that an earlier worker took and did not come to apply. */
int page_events_recover(struct page_worker *w);
/* Nothing more for that space; its descriptor is closed. The lock is held for writing. */
void page_events_let_go(struct page_worker *w, uint32_t space);
/* A space that this worker meets for the first time: how much is it owed? */
void page_events_count(struct page_worker *w, uint32_t space);
/* Wait for messages of that space, from now on. */
int page_events_watch(struct page_worker *w, uint32_t space);

/* -- page_intake.c */
void page_intake_accept(struct page_worker *w);
void page_intake_read(struct page_worker *w);
/* A descriptor that nobody knows may be CRIU's connection, of a worker that was killed when it had accepted it. */
bool page_intake_adopt(struct page_worker *w, int fd);
/* What an earlier worker was about to take. */
int page_intake_recover(struct page_worker *w);

/* -- page_fill.c */
int page_fill_start(struct page_worker *w);
void page_fill_stop(struct page_worker *w);
/* The tasks run: from now on everything is given, and what lies around a fault first. */
void page_fill_begin(struct page_worker *w);
void page_fill_around(struct page_worker *w, const struct worker_fault *fault);
/* There may be more to do; the lock is not held. */
void page_fill_nudge(struct page_worker *w);

/* -- page_waiting.c */
int page_waiting_begin(struct page_worker *w, int images_fd);
void page_waiting_end(struct page_worker *w);
/* Its page is on another host: the session is told. */
void page_waiting_add(struct page_worker *w, const struct worker_fault *fault);
/* Pages have come: who waited for them is to be answered. */
void page_waiting_look(struct page_worker *w);

/* What epoll says of which descriptor. */
#define WATCH_LISTENER UINT32_MAX
#define WATCH_CONNECTION (UINT32_MAX - 1)
#define WATCH_KEEPER (UINT32_MAX - 2)
#define WATCH_HERE (UINT32_MAX - 3)
int page_worker_watch(struct page_worker *w, int fd, uint32_t what);
void page_worker_trouble(struct page_worker *w, int error, uint64_t at);
static inline bool page_worker_is_filling(const struct page_worker *w)
{
        return __atomic_load_n(&w->ledger->head->phase, __ATOMIC_ACQUIRE) == LEDGER_FILLING;
}
