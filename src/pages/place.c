/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "criu/page_server.h"
#include "pages/worker.h"

/* Putting pages into address spaces. fs/userfaultfd.c and mm/userfaultfd.c of Linux say what answers mean. */

struct settling {
        struct page_worker *worker;
        uint32_t space;
};

static void settled(uint32_t file, uint64_t position, uint64_t n_pages, void *context)
{
        const struct settling *s = context;

        (void)__atomic_sub_fetch(&s->worker->owed[s->space], n_pages, __ATOMIC_ACQ_REL);
        page_store_settled(file, position, n_pages, s->worker->store);
}

void page_place_settle(struct page_worker *w, uint32_t space, uint64_t from, uint64_t end)
{
        struct settling s = {.worker = w, .space = space};

        (void)page_ledger_settle(w->ledger, space, from, end, settled, &s);
}

static int uffd_of(const struct page_worker *w, uint32_t space)
{
        return w->ledger->spaces[space].uffd;
}

static void wake(int uffd, uint64_t vaddr, uint64_t length)
{
        struct uffdio_range range = {.start = vaddr, .len = length};

        (void)ioctl(uffd, UFFDIO_WAKE, &range);
}

/*
 * The range must lie within user space, whose end depends on the machine and is not told. The lowest addresses belong
 * to nobody (vm.mmap_min_addr).
 */
void page_place_wake_all(int uffd)
{
        for (unsigned low = 16; low <= 20; low++)
                for (unsigned bits = 56; bits >= 38; bits--) {
                        struct uffdio_range range = {.start = UINT64_C(1) << low};
                        range.len = (UINT64_C(1) << bits) - PAGE_BYTES - range.start;
                        if (ioctl(uffd, UFFDIO_WAKE, &range) == 0)
                                return;
                }
}

/*
 * Nothing of ours is registered for write protection, so taking that from a page fails and changes nothing; but it
 * fails otherwise when there is no address space any more.
 */
bool page_place_alive(int uffd)
{
        struct uffdio_writeprotect nothing = {.range = {.start = UINT64_C(1) << 20, .len = PAGE_BYTES}};

        return ioctl(uffd, UFFDIO_WRITEPROTECT, &nothing) == 0 || errno != ESRCH;
}

static bool is_gone(int error)
{
        return error == ESRCH || error == ENOSPC; /* the second on Linux before 4.16 */
}

/* One page that cannot be given as it is owed. */
static int refused(struct page_worker *w, uint32_t space, const struct ledger_run *run, int error)
{
        /*
         * EEXIST: it is there, given by a worker that was killed before it settled that. ENOENT: nothing of ours is
         * mapped there any more; all messages are taken, so it went away without one (as by exec or shmat).
         */
        if (error != EEXIST && error != ENOENT) {
                page_worker_trouble(w, error, run->vaddr);
                return -error;
        }
        page_place_settle(w, space, run->vaddr, run->vaddr + PAGE_BYTES);
        wake(uffd_of(w, space), run->vaddr, PAGE_BYTES);
        return 0;
}

int page_place_run(struct page_worker *w, uint32_t space, const struct ledger_run *run)
{
        const uint64_t here = page_ledger_here(w->ledger, run->file, run->position, run->n_pages);
        struct uffdio_copy copy = {.dst = run->vaddr,
                                   .src = (uintptr_t)page_store_at(w->store, run->file, run->position),
                                   .len = here * PAGE_BYTES};

        if (here == 0)
                return -EBUSY;
        const int error = ioctl(uffd_of(w, space), UFFDIO_COPY, &copy) < 0 ? errno : 0;
        const uint64_t done = error == 0 ? copy.len : copy.copy > 0 ? (uint64_t)copy.copy : 0;
        if (done) {
                page_place_settle(w, space, run->vaddr, run->vaddr + done);
                return 0;
        }
        if (error == EAGAIN || is_gone(error))
                return error == EAGAIN ? -EAGAIN : -ESRCH;
        if (run->n_pages == 1)
                return refused(w, space, run, error);
        /* Perhaps only further on, or at a border between two mappings. */
        struct ledger_run first = *run;
        first.n_pages = 1;
        return page_place_run(w, space, &first);
}

/* Never written on the source, or given back here. */
static int place_zeros(const struct page_worker *w, uint32_t space, uint64_t vaddr)
{
        struct uffdio_zeropage zero = {.range = {.start = vaddr, .len = PAGE_BYTES}};

        if (ioctl(uffd_of(w, space), UFFDIO_ZEROPAGE, &zero) == 0)
                return 0;
        if (errno == EAGAIN || is_gone(errno))
                return errno == EAGAIN ? -EAGAIN : -ESRCH;
        if (errno == ENOMEM)
                return -ENOMEM;
        wake(uffd_of(w, space), vaddr, PAGE_BYTES);
        return 0;
}

int page_place_fault(struct page_worker *w, uint32_t space, uint64_t vaddr)
{
        struct ledger_run run;

        if (page_ledger_next(w->ledger, space, vaddr, vaddr + PAGE_BYTES, 1, &run))
                return page_place_run(w, space, &run);
        return place_zeros(w, space, vaddr);
}
