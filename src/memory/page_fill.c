/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "criu/page_server.h"
#include "memory/page_worker.h"

/*
 * The fill: what nobody has asked for yet, by address, in pieces of the size in which the store is given back. Where
 * somebody faulted goes first, so that a piece is not long half here and half there, and because others will ask for
 * what lies beside it.
 */
#define PIECE_BYTES (UINT64_C(2) << 20)
#define RUN_PAGES 32U /* as one: who waits for the lock waits for as much */
#define AGAIN_US 50U
#define SHORT_US 10000U

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

static void pause_for(unsigned us)
{
        const struct timespec t = {.tv_nsec = (long)us * 1000};

        (void)nanosleep(&t, NULL);
}

/* The next owed page of anybody behind the cursor; round to the first once. */
static bool find_next(struct page_worker *w, struct worker_fault *ret)
{
        const uint32_t n = w->ledger->head->n_spaces;
        struct ledger_run run;

        for (uint32_t i = 0; i <= n; i++) {
                if (w->cursor_space >= n)
                        w->cursor_space = 0, w->cursor = 0;
                const uint32_t space = w->cursor_space;
                if (w->ledger->spaces[space].state == SPACE_LIVE && !w->dead[space] &&
                    __atomic_load_n(&w->owed[space], __ATOMIC_ACQUIRE) &&
                    page_ledger_next(w->ledger, space, w->cursor, UINT64_MAX, 1, &run)) {
                        *ret = (struct worker_fault){.space = space, .vaddr = run.vaddr};
                        w->cursor = run.vaddr / PIECE_BYTES * PIECE_BYTES + PIECE_BYTES;
                        return true;
                }
                w->cursor_space++;
                w->cursor = 0;
        }
        return false;
}

/* A piece to be filled; false: leave. */
static bool next_piece(struct page_worker *w, struct worker_fault *ret)
{
        bool found = false;

        (void)pthread_mutex_lock(&w->mutex);
        while (!w->leave && !found) {
                if (w->n_urgent) {
                        *ret = w->urgent[--w->n_urgent];
                        found = true;
                } else if (page_worker_is_filling(w)) {
                        (void)pthread_rwlock_rdlock(&w->lock);
                        found = find_next(w, ret);
                        (void)pthread_rwlock_unlock(&w->lock);
                }
                if (!found)
                        (void)pthread_cond_wait(&w->more, &w->mutex);
        }
        (void)pthread_mutex_unlock(&w->mutex);
        return found;
}

/* False: nothing is left of the piece. */
static bool fill_some(struct page_worker *w, uint32_t space, uint64_t *from, uint64_t end, int *ret)
{
        struct ledger_run run;

        (void)pthread_rwlock_rdlock(&w->lock);
        const bool some = w->ledger->spaces[space].state == SPACE_LIVE && !w->dead[space] &&
                          page_ledger_next(w->ledger, space, *from, end, RUN_PAGES, &run);
        if (some) {
                *ret = page_place_run(w, space, &run);
                *from = run.vaddr;
        }
        (void)pthread_rwlock_unlock(&w->lock);
        return some;
}

static void fill_piece(struct page_worker *w, const struct worker_fault *at)
{
        uint64_t from = at->vaddr / PIECE_BYTES * PIECE_BYTES;
        const uint64_t end = from + PIECE_BYTES;
        int r = 0;

        while (!__atomic_load_n(&w->leave, __ATOMIC_ACQUIRE) && fill_some(w, at->space, &from, end, &r)) {
                if (r == -EAGAIN)
                        pause_for(AGAIN_US); /* the first thread takes what there is to take */
                else if (r == -ESRCH)
                        __atomic_store_n(&w->dead[at->space], true, __ATOMIC_RELEASE);
                else if (r < 0)
                        pause_for(SHORT_US); /* memory is short */
        }
}

static void *filler(void *context)
{
        struct page_worker *w = context;
        struct worker_fault piece;

        while (next_piece(w, &piece))
                fill_piece(w, &piece);
        return NULL;
}

int page_fill_start(struct page_worker *w)
{
        const int cpus = get_nprocs();
        const size_t wanted = cpus < 1 ? 1 : cpus > WORKER_FILLERS_MAX ? WORKER_FILLERS_MAX : (size_t)cpus;

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

void page_fill_around(struct page_worker *w, uint32_t space, uint64_t vaddr)
{
        const uint64_t piece = vaddr / PIECE_BYTES * PIECE_BYTES;
        bool known = !page_worker_is_filling(w) || __atomic_load_n(&w->owed[space], __ATOMIC_ACQUIRE) == 0;

        (void)pthread_mutex_lock(&w->mutex);
        for (size_t i = 0; i < w->n_urgent; i++)
                known |= w->urgent[i].space == space && w->urgent[i].vaddr == piece;
        if (!known && w->n_urgent < WORKER_URGENT_MAX) {
                w->urgent[w->n_urgent++] = (struct worker_fault){.space = space, .vaddr = piece};
                (void)pthread_cond_signal(&w->more);
        }
        (void)pthread_mutex_unlock(&w->mutex);
}
