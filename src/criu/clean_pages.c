/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/clean_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "criu/page_server.h"

#define WINDOWS_MAX (1U << 20)
#define SIZE_MAX_BYTES (sizeof(struct clean_header) + (size_t)WINDOWS_MAX * sizeof(struct clean_window))

/* Room for all there could ever be is reserved; what is not touched is not there. */
struct clean_pages {
        int fd;
        struct clean_header *shared;
        uint64_t end; /* of the latest range of the latest pid */
};

int clean_pages_new(struct clean_pages **ret)
{
        CLEANUP(clean_pages_free_ptr) struct clean_pages *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        p->fd = memfd_create("phaul-clean-pages", MFD_CLOEXEC);
        if (p->fd < 0 || ftruncate(p->fd, (off_t)SIZE_MAX_BYTES) < 0)
                return -errno;
        void *memory = mmap(NULL, SIZE_MAX_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, p->fd, 0);
        if (memory == MAP_FAILED)
                return -errno;
        p->shared = memory;
        p->shared->abi = CLEAN_ABI;
        *ret = TAKE_PTR(p);
        return 0;
}

void clean_pages_free(struct clean_pages *pages)
{
        if (!pages)
                return;
        if (pages->shared)
                (void)munmap(pages->shared, SIZE_MAX_BYTES);
        if (pages->fd >= 0)
                (void)close(pages->fd);
        free(pages);
}

static struct clean_window *window_for(struct clean_pages *p, pid_t pid, uint64_t address)
{
        struct clean_header *h = p->shared;
        struct clean_window *latest = h->n_windows ? &h->windows[h->n_windows - 1] : NULL;
        const uint64_t start = address - address % CLEAN_WINDOW_BYTES;

        if (latest && latest->pid == pid && latest->start == start)
                return latest;
        if (h->n_windows == WINDOWS_MAX)
                return NULL;
        latest = &h->windows[h->n_windows++];
        latest->pid = pid;
        latest->start = start;
        return latest;
}

int clean_pages_add(struct clean_pages *pages, pid_t pid, uint64_t start, uint64_t end)
{
        const struct clean_header *h = pages->shared;
        const pid_t before = h->n_windows ? h->windows[h->n_windows - 1].pid : 0;

        if (pid < before || (pid == before && start < pages->end) || start >= end || start % PAGE_BYTES ||
            end % PAGE_BYTES)
                return -EINVAL;
        for (uint64_t address = start; address < end; address += PAGE_BYTES) {
                struct clean_window *w = window_for(pages, pid, address);
                if (!w)
                        return -E2BIG;
                const uint64_t page = (address - w->start) / PAGE_BYTES;
                w->clean[page / 64] |= UINT64_C(1) << page % 64;
        }
        pages->end = end;
        return 0;
}

int clean_pages_fd(const struct clean_pages *pages)
{
        return pages->fd;
}

uint32_t clean_pages_scans(const struct clean_pages *pages)
{
        return atomic_load(&pages->shared->scans);
}

static bool is_removed(const struct clean_window *w, uint32_t page)
{
        return w->removed[page / 64] >> page % 64 & 1;
}

int clean_pages_removed(const struct clean_pages *pages, struct clean_cursor *cursor,
                        int (*found)(pid_t pid, uint64_t vaddr, uint64_t n_pages, void *context), void *context)
{
        const struct clean_header *h = pages->shared;

        for (; cursor->window < h->n_windows; cursor->window++, cursor->page = 0) {
                const struct clean_window *w = &h->windows[cursor->window];
                while (cursor->page < CLEAN_WINDOW_PAGES) {
                        uint32_t begin = cursor->page;
                        if (!is_removed(w, begin)) {
                                /* Whole words of nothing are the usual case. */
                                cursor->page += begin % 64 == 0 && w->removed[begin / 64] == 0 ? 64 : 1;
                                continue;
                        }
                        uint32_t end = begin;
                        while (end < CLEAN_WINDOW_PAGES && is_removed(w, end))
                                end++;
                        int r = found(w->pid, w->start + (uint64_t)begin * PAGE_BYTES, end - begin, context);
                        if (r != 0)
                                return r;
                        cursor->page = end;
                }
        }
        return 0;
}
