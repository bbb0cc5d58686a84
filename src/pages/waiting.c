/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "pages/service.h"
#include "pages/worker.h"

/*
 * Tasks that wait for a page on another host. The worker knows nothing of hosts: it notes the page in the ledger and
 * rings for the session, whichever process that is by now, and looks again when pages have come. What it knows of who
 * waits dies with it: the next worker wakes them all, and they ask again.
 *
 * A FIFO that is open for reading and writing has no end, whoever else comes and goes.
 */
static int open_bell(int images_fd, const char *name)
{
        int fd = openat(images_fd, name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 ? -errno : fd;
}

int page_waiting_begin(struct page_worker *w, int images_fd)
{
        if (!w->ledger->head->n_away)
                return 0;
        int wanted = open_bell(images_fd, PAGE_SERVICE_WANTED);
        if (wanted < 0)
                return wanted;
        w->wanted_bell = wanted;
        int here = open_bell(images_fd, PAGE_SERVICE_HERE);
        if (here < 0)
                return here;
        w->here_bell = here;
        return page_worker_watch(w, w->here_bell, WATCH_HERE);
}

void page_waiting_end(struct page_worker *w)
{
        if (w->wanted_bell >= 0)
                (void)close(TAKE_FD(w->wanted_bell));
        if (w->here_bell >= 0)
                (void)close(TAKE_FD(w->here_bell));
}

static bool is_known(const struct page_worker *w, const struct worker_fault *fault)
{
        for (size_t i = 0; i < w->n_waiting; i++)
                if (w->waiting[i].fault.space == fault->space && w->waiting[i].fault.vaddr == fault->vaddr)
                        return true;
        return false;
}

void page_waiting_add(struct page_worker *w, const struct worker_fault *fault)
{
        struct worker_waiting waiting = {.fault = *fault};

        if (is_known(w, fault))
                return;
        if (w->n_waiting == WORKER_WAITING_MAX ||
            !page_ledger_where(w->ledger, fault->space, fault->vaddr, &waiting.file, &waiting.position)) {
                w->forgot = true;
                return;
        }
        w->waiting[w->n_waiting++] = waiting;
        w->ledger->head->faulted++;
        /* Without room it comes with the others, a little later. One that came this moment was rung for before we
         * noted it. */
        (void)page_ledger_want(w->ledger, waiting.file, waiting.position);
        (void)!write(w->wanted_bell, "", 1);
        if (page_ledger_here(w->ledger, waiting.file, waiting.position, 1))
                page_waiting_look(w);
}

static void wake_all(const struct page_worker *w)
{
        for (uint32_t i = 0; i < w->ledger->head->n_spaces; i++)
                if (w->ledger->spaces[i].state == SPACE_LIVE)
                        page_place_wake_all(w->ledger->spaces[i].uffd);
}

void page_waiting_look(struct page_worker *w)
{
        char bytes[256];
        size_t left = 0;

        while (read(w->here_bell, bytes, sizeof(bytes)) > 0)
                ;
        for (size_t i = 0; i < w->n_waiting; i++) {
                const struct worker_waiting *waiting = &w->waiting[i];
                if (w->n_faults < WORKER_FAULTS_MAX && page_ledger_here(w->ledger, waiting->file, waiting->position, 1))
                        w->faults[w->n_faults++] = waiting->fault;
                else
                        w->waiting[left++] = *waiting;
        }
        w->n_waiting = left;
        if (w->forgot)
                wake_all(w);
        w->forgot = false;
        page_fill_nudge(w);
}
