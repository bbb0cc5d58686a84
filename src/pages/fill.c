/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "criu/page_server.h"
#include "pages/service.h"
#include "pages/worker.h"

/*
 * The fill: what nobody has asked for yet, by address, in pieces of the size in which the store is given back. Where
 * somebody faulted goes first, so that a piece is not long half here and half there, and because others will ask for
 * what lies beside it.
 */
#define PIECE_BYTES (UINT64_C(2) << 20)
#define RUN_PAGES 32U /* as one: who waits for the lock waits for as much */
#define AGAIN_US 50U
#define SHORT_US 10000U

/* Pages that may be in the store and with the tasks: a part of all, and some more. */
#define TWICE_PART 16U
#define TWICE_PAGES 2048U

static void pause_for(unsigned us)
{
        const struct timespec t = {.tv_nsec = (long)us * 1000};

        (void)nanosleep(&t, NULL);
}

/* A piece of which nothing is on another host. Of others only what is asked for is given: they stay in the store. */
static bool is_whole(const struct page_worker *w, const struct ledger_part *part)
{
        const uint64_t all = w->ledger->files[part->file].n_pages, end = part->end < all ? part->end : all;

        return part->first >= end ||
               page_ledger_here(w->ledger, part->file, part->first, end - part->first) == end - part->first;
}

/* The next owed page of the space at or behind `from`, of a piece that is whole. */
static bool find_here(const struct page_worker *w, uint32_t space, uint64_t from, uint64_t *ret)
{
        struct ledger_run run;

        while (page_ledger_next(w->ledger, space, from, UINT64_MAX, UINT64_MAX, &run)) {
                const struct ledger_part part = page_store_piece(run.file, run.position);
                const uint64_t n = part.end - run.position < run.n_pages ? part.end - run.position : run.n_pages;
                *ret = run.vaddr;
                if (is_whole(w, &part))
                        return true;
                from = run.vaddr + n * PAGE_BYTES;
        }
        return false;
}

/* The next of anybody behind the cursor; round to the first once. */
static bool find_next(struct page_worker *w, struct worker_fault *ret)
{
        const uint32_t n = w->ledger->head->n_spaces;
        uint64_t vaddr;

        for (uint32_t i = 0; i <= n; i++) {
                if (w->cursor_space >= n) {
                        w->cursor_space = 0;
                        w->cursor = 0;
                }
                const uint32_t space = w->cursor_space;
                if (w->ledger->spaces[space].state == SPACE_LIVE && !w->dead[space] &&
                    __atomic_load_n(&w->owed[space], __ATOMIC_ACQUIRE) && find_here(w, space, w->cursor, &vaddr)) {
                        *ret = (struct worker_fault){.space = space, .vaddr = vaddr};
                        w->cursor = vaddr / PIECE_BYTES * PIECE_BYTES + PIECE_BYTES;
                        return true;
                }
                w->cursor_space++;
                w->cursor = 0;
        }
        return false;
}

/* For tests: faults alone are answered while RUNTIME/faults/target-pages exists, seen from RUNTIME/images/ID-target. */
static bool is_held(void)
{
#ifdef PHAUL_FAULT_POINTS
        return faccessat(PAGE_SERVICE_IMAGES, "../../faults/target-pages", F_OK, 0) == 0;
#else
        return false;
#endif
}

/* What to do next: a piece of the store, or without an end of it one of the address space. False: leave. */
static bool next_piece(struct page_worker *w, struct worker_piece *ret)
{
        bool found = false;

        (void)pthread_mutex_lock(&w->mutex);
        while (!w->leave && !found) {
                if (is_held()) {
                        found = false;
                } else if (w->n_urgent) {
                        *ret = w->urgent[--w->n_urgent];
                        found = true;
                } else if (page_worker_is_filling(w)) {
                        *ret = (struct worker_piece){0};
                        (void)pthread_rwlock_rdlock(&w->lock);
                        found = find_next(w, &ret->at);
                        (void)pthread_rwlock_unlock(&w->lock);
                }
                if (!found)
                        (void)pthread_cond_wait(&w->more, &w->mutex);
        }
        (void)pthread_mutex_unlock(&w->mutex);
        return found;
}

/* Where to go on: after a run that is given up to where its piece ends, or that has to wait for others of it. */
static uint64_t fill_run(struct page_worker *w, uint32_t space, struct ledger_run *run, int *ret)
{
        const struct ledger_part part = page_store_piece(run->file, run->position);

        if (run->n_pages > part.end - run->position)
                run->n_pages = part.end - run->position;
        *ret = 0;
        if (!is_whole(w, &part))
                return run->vaddr + run->n_pages * PAGE_BYTES;
        *ret = page_place_run(w, space, run);
        return run->vaddr;
}

/* False: nothing is left of the piece. */
static bool fill_some(struct page_worker *w, const struct worker_piece *p, uint64_t *from, int *ret)
{
        const uint64_t end = p->at.vaddr / PIECE_BYTES * PIECE_BYTES + PIECE_BYTES;
        const uint32_t space = p->at.space;
        struct ledger_run run;

        (void)pthread_rwlock_rdlock(&w->lock);
        bool some = w->ledger->spaces[space].state == SPACE_LIVE && !w->dead[space];
        if (some && p->part.end)
                some = page_ledger_next_of(w->ledger, space, &p->part, *from, RUN_PAGES, &run);
        else if (some)
                some = page_ledger_next(w->ledger, space, *from, end, RUN_PAGES, &run);
        if (some)
                *from = fill_run(w, space, &run, ret);
        (void)pthread_rwlock_unlock(&w->lock);
        return some;
}

static uint64_t begin_of(struct page_worker *w, const struct worker_piece *p)
{
        if (!p->part.end)
                return p->at.vaddr / PIECE_BYTES * PIECE_BYTES;
        (void)pthread_rwlock_rdlock(&w->lock);
        const uint64_t begin = page_ledger_begin_of(w->ledger, p->at.space, &p->part, p->at.vaddr);
        (void)pthread_rwlock_unlock(&w->lock);
        return begin;
}

static void fill_piece(struct page_worker *w, const struct worker_piece *p)
{
        uint64_t from = begin_of(w, p);
        int r = 0;

        while (!__atomic_load_n(&w->leave, __ATOMIC_ACQUIRE) && fill_some(w, p, &from, &r)) {
                if (r == -EAGAIN)
                        pause_for(AGAIN_US); /* the first thread takes what there is to take */
                else if (r == -ESRCH)
                        __atomic_store_n(&w->dead[p->at.space], true, __ATOMIC_RELEASE);
                else if (r < 0)
                        pause_for(SHORT_US); /* memory is short */
        }
}

static void *filler(void *context)
{
        struct page_worker *w = context;
        struct worker_piece piece;
        size_t own = 0;

        /* As many as there are of us at most, and nobody else's. */
        while (!role_take(&w->ledger->head->filling[own]))
                own = (own + 1) % LEDGER_FILLERS_MAX;
        while (next_piece(w, &piece))
                fill_piece(w, &piece);
        role_leave(&w->ledger->head->filling[own]);
        return NULL;
}

int page_fill_start(struct page_worker *w)
{
        const int cpus = get_nprocs();
        const size_t wanted = cpus < 1 ? 1 : cpus > LEDGER_FILLERS_MAX ? LEDGER_FILLERS_MAX : (size_t)cpus;

        for (; w->n_fillers < wanted; w->n_fillers++) {
                int r = pthread_create(&w->fillers[w->n_fillers], NULL, filler, w);
                if (r != 0)
                        return w->n_fillers ? 0 : -r;
        }
        return 0;
}

void page_fill_stop(struct page_worker *w)
{
        (void)pthread_mutex_lock(&w->mutex);
        __atomic_store_n(&w->leave, true, __ATOMIC_RELEASE);
        (void)pthread_cond_broadcast(&w->more);
        (void)pthread_mutex_unlock(&w->mutex);
        while (w->n_fillers)
                (void)pthread_join(w->fillers[--w->n_fillers], NULL);
}

void page_fill_nudge(struct page_worker *w)
{
        (void)pthread_mutex_lock(&w->mutex);
        (void)pthread_cond_broadcast(&w->more);
        (void)pthread_mutex_unlock(&w->mutex);
}

void page_fill_begin(struct page_worker *w)
{
        page_store_release(w->store);
        page_fill_nudge(w);
}

static bool find_piece(struct page_worker *w, const struct worker_fault *fault, struct worker_piece *ret)
{
        uint64_t position = 0;
        uint32_t file = 0;

        (void)pthread_rwlock_rdlock(&w->lock);
        const bool found = w->ledger->spaces[fault->space].state == SPACE_LIVE &&
                           page_ledger_where(w->ledger, fault->space, fault->vaddr, &file, &position);
        (void)pthread_rwlock_unlock(&w->lock);
        *ret = (struct worker_piece){.at = *fault, .part = page_store_piece(file, position)};
        return found;
}

/* Its own thread does some of the work when others do not keep up with faults: who faults on waits for it then. */
static void hold_back(struct page_worker *w, const struct worker_piece *piece)
{
        const uint64_t allowed = w->ledger->head->total / TWICE_PART + TWICE_PAGES;
        uint64_t from;
        int r = 0;

        if (page_store_twice(w->store) <= allowed || is_held())
                return;
        from = begin_of(w, piece);
        while (r == 0 && fill_some(w, piece, &from, &r))
                ;
}

void page_fill_around(struct page_worker *w, const struct worker_fault *fault)
{
        struct worker_piece piece;

        if (!page_worker_is_filling(w) || __atomic_load_n(&w->owed[fault->space], __ATOMIC_ACQUIRE) == 0 ||
            !find_piece(w, fault, &piece) || !is_whole(w, &piece.part))
                return;
        bool known = false;
        (void)pthread_mutex_lock(&w->mutex);
        for (size_t i = 0; i < w->n_urgent && !known; i++)
                known = w->urgent[i].at.space == fault->space && w->urgent[i].part.file == piece.part.file &&
                        w->urgent[i].part.first == piece.part.first;
        if (!known && w->n_urgent < WORKER_URGENT_MAX) {
                w->urgent[w->n_urgent++] = piece;
                (void)pthread_cond_signal(&w->more);
        }
        (void)pthread_mutex_unlock(&w->mutex);
        hold_back(w, &piece);
}
