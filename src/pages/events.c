/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "criu/page_server.h"
#include "pages/worker.h"

/*
 * What userfaultfds say (ioctl_userfaultfd(2), fs/userfaultfd.c). A message is read straight into the ledger, whose
 * first page cannot be swapped out: whoever dies after the read leaves it to the next worker, and in the middle of it
 * nobody dies. That matters for what happens to address spaces, whose tasks go on as soon as it is read. A fault that
 * was lost is told again when its task is woken.
 */

void page_events_count(struct page_worker *w, uint32_t space)
{
        struct ledger_run run;
        uint64_t n = 0;

        for (uint64_t from = 0; page_ledger_next(w->ledger, space, from, UINT64_MAX, UINT64_MAX, &run);) {
                page_store_owe(w->store, run.file, run.position, run.n_pages);
                n += run.n_pages;
                from = run.vaddr + run.n_pages * PAGE_BYTES;
        }
        __atomic_store_n(&w->owed[space], n, __ATOMIC_RELEASE);
}

int page_events_watch(struct page_worker *w, uint32_t space)
{
        w->dead[space] = false;
        return page_worker_watch(w, w->ledger->spaces[space].uffd, space);
}

void page_events_let_go(struct page_worker *w, uint32_t space)
{
        struct ledger_space *s = &w->ledger->spaces[space];

        page_place_settle(w, space, 0, UINT64_MAX);
        /* Free first: what is left open of one that is free is closed by the next worker. */
        __atomic_store_n(&s->state, SPACE_FREE, __ATOMIC_RELEASE);
        const int uffd = TAKE_FD(s->uffd);
        /* The last descriptor of it: what was registered is ordinary memory again, and who waits looks again. */
        if (uffd >= 0) {
                (void)epoll_ctl(w->epoll, EPOLL_CTL_DEL, uffd, NULL);
                (void)close(uffd);
        }
}

static int on_fork(struct page_worker *w, uint32_t parent, int uffd)
{
        uint32_t child = 0;

        int r = page_ledger_fork(w->ledger, parent, uffd, &child);
        if (r < 0)
                return r;
        if (r == 0)
                page_events_count(w, child);
        return page_events_watch(w, child);
}

static int on_remap(struct page_worker *w, uint32_t space, const struct uffd_msg *m)
{
        const uint64_t from = m->arg.remap.from, to = m->arg.remap.to, length = m->arg.remap.len;

        if (w->ledger->spaces[space].runs[w->ledger->spaces[space].current].event == w->ledger->head->events)
                return 0; /* done, by one who was killed before he could say so */
        page_place_settle(w, space, to, to + length);
        return page_ledger_move(w->ledger, space, from, to, length, w->ledger->head->events);
}

/* May be done twice. */
static int apply(struct page_worker *w, uint32_t space, const struct uffd_msg *m)
{
        switch (m->event) {
        case UFFD_EVENT_PAGEFAULT:
                w->faults[w->n_faults++] = (struct worker_fault){
                        .space = space, .vaddr = m->arg.pagefault.address / PAGE_BYTES * PAGE_BYTES};
                return 0;
        case UFFD_EVENT_FORK:
                return on_fork(w, space, (int)m->arg.fork.ufd);
        case UFFD_EVENT_REMAP:
                return on_remap(w, space, m);
        case UFFD_EVENT_REMOVE:
        case UFFD_EVENT_UNMAP:
                page_place_settle(w, space, m->arg.remove.start, m->arg.remove.end);
                return 0;
        default:
                return -EBADMSG;
        }
}

static int take_one(struct page_worker *w, uint32_t space)
{
        struct ledger_head *h = w->ledger->head;

        h->event_space = space;
        /* Of its own for each event, and before it is taken: a list that was moved says for which one. */
        h->events++;
        ssize_t n = read(w->ledger->spaces[space].uffd, &h->event, sizeof(h->event));
        if (n < 0)
                return -errno;
        if (n != sizeof(h->event))
                return -EBADMSG;
        const struct uffd_msg m = h->event;
        int r = apply(w, space, &m);
        /* One that cannot be applied stays, and is tried by another worker: nobody may go on without it. */
        if (r == 0)
                h->event.event = 0;
        return r;
}

void page_events_take(struct page_worker *w, uint32_t space)
{
        int r = 0;

        (void)pthread_rwlock_wrlock(&w->lock);
        while (r == 0 && w->n_faults < WORKER_FAULTS_MAX && w->ledger->spaces[space].state == SPACE_LIVE)
                r = take_one(w, space);
        (void)pthread_rwlock_unlock(&w->lock);
        if (r < 0 && r != -EAGAIN && r != -EINTR)
                page_worker_trouble(w, -r, space);
        w->stuck |= w->ledger->head->event.event != 0;
}

int page_events_recover(struct page_worker *w)
{
        struct ledger_head *h = w->ledger->head;
        const struct uffd_msg m = h->event;
        int r = 0;

        if (m.event && m.event != UFFD_EVENT_PAGEFAULT)
                r = apply(w, h->event_space, &m);
        if (r == 0)
                h->event.event = 0;
        return r;
}
