/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/kernel_abi.h"
#include "memory/address_space.h"
#include "memory/inject.h"
#include "memory/page_scan.h"
#include "memory/track.h"
#include "memory/trackable.h"

/*
 * Written pages by write protection that the kernel takes off by itself (UFFD_FEATURE_WP_ASYNC), read and put on again
 * by PAGEMAP_SCAN in one step.
 *
 * What is tracked is never concluded from what was done before: each scan looks at the mappings there are now and asks
 * the kernel of each, whether it is under asynchronous protection (SCAN_CHECK_WPASYNC) and whether that is ours
 * (registering it once more does nothing then, and fails if it belongs to somebody else). A mapping that was made,
 * moved, copied by a fork or mapped over another since then is under none.
 */
#define UFFD_FLAGS (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY) /* without privilege; nobody ever has to answer */
#define FEATURES (UFFD_WP_ASYNC | UFFD_WP_UNPOPULATED)
#define RETRIES 1000 /* of an ioctl that meets a change of the mappings */
#define ADDRESSES_END UINT64_C(0x7ffffffff000)
#define PAGE 4096U

struct uffd_tracker {
        uint64_t left_out; /* kinds of pages that have no contents of their own */
};

/* -- the kernel's calls ------------------------------------------------------------------------------------------ */

/* The number of regions; negative errno. */
static int scan_pages(int pagemap, struct scan_request *q)
{
        q->size = sizeof(*q);
        int r = ioctl(pagemap, SCAN_IOCTL, q);
        return r < 0 ? -errno : r;
}

/* Is all that is mapped there under asynchronous write protection? Looks at mappings only, not at pages. */
static bool all_protected(int pagemap, uint64_t start, uint64_t end)
{
        struct scan_request q = {.start = start,
                                 .end = end,
                                 .flags = SCAN_CHECK_WPASYNC,
                                 .inverted = PAGE_WP_ALLOWED,
                                 .all_of = PAGE_WP_ALLOWED};

        return scan_pages(pagemap, &q) == 0;
}

/* Is anything? */
static bool any_protected(int pagemap, uint64_t start, uint64_t end)
{
        struct scan_region region;
        struct scan_request q = {.start = start,
                                 .end = end,
                                 .regions = (uintptr_t)&region,
                                 .regions_size = 1,
                                 .max_pages = 1,
                                 .all_of = PAGE_WP_ALLOWED,
                                 .returned = PAGE_WP_ALLOWED};

        return scan_pages(pagemap, &q) > 0;
}

static bool put_under(int uffd, uint64_t start, uint64_t end)
{
        struct uffdio_register request = {.range = {start, end - start}, .mode = UFFDIO_REGISTER_MODE_WP};

        return ioctl(uffd, UFFDIO_REGISTER, &request) == 0;
}

/*
 * Count every page as written. Before Linux 6.14 pages that were moved (mremap) kept their protection without being
 * under it, so that a write went unseen: it must not be believed when their new place is put under it.
 */
static bool count_as_written(int uffd, uint64_t start, uint64_t end)
{
        struct uffdio_writeprotect request = {.range = {start, end - start}};

        for (int i = 0; i < RETRIES; i++) {
                if (ioctl(uffd, UFFDIO_WRITEPROTECT, &request) == 0)
                        return true;
                if (errno != EAGAIN)
                        return false;
        }
        return false;
}

static void take_off(int uffd, uint64_t start, uint64_t end)
{
        struct uffdio_range range = {start, end - start};

        (void)ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

static int negotiate(int uffd, struct error *err)
{
        struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

        if (ioctl(uffd, UFFDIO_API, &api) < 0)
                return error_set(
                        err, EOPNOTSUPP,
                        "this kernel has no asynchronous write protection (Linux 6.7, CONFIG_PTE_MARKER_UFFD_WP)");
        return 0;
}

/* -- tracker_new() ------------------------------------------------------------------------------------------------ */

/* How many of the pages were written; they are protected again. */
static int written(int pagemap, char *memory, size_t pages)
{
        struct scan_region region;
        struct scan_request q = {.start = (uintptr_t)memory,
                                 .end = (uintptr_t)memory + pages * PAGE,
                                 .flags = SCAN_PROTECT_MATCHING | SCAN_CHECK_WPASYNC,
                                 .regions = (uintptr_t)&region,
                                 .regions_size = 1,
                                 .all_of = PAGE_WRITTEN,
                                 .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                                 .returned = PAGE_WRITTEN};

        int r = scan_pages(pagemap, &q);
        return r > 0 ? (int)((region.end - region.start) / PAGE) : r;
}

/* The whole way, on memory of our own. */
static int try_ourselves(int pagemap, char *memory, struct error *err)
{
        AUTO_FD int uffd = (int)syscall(SYS_userfaultfd, UFFD_FLAGS);
        if (uffd < 0)
                return error_set(err, EOPNOTSUPP, "cannot open a userfaultfd: %s", strerrordesc_np(errno));
        int r = negotiate(uffd, err);
        if (r < 0)
                return r;
        memory[0] = 1;
        memory[PAGE] = 1;
        const uint64_t start = (uintptr_t)memory;
        if (!put_under(uffd, start, start + 2L * PAGE))
                return error_set(err, EOPNOTSUPP, "this kernel does not write-protect memory for a userfaultfd: %s",
                                 strerrordesc_np(errno));
        int first = written(pagemap, memory, 2);
        if (first == -ENOTTY || first == -EINVAL)
                return error_set(err, EOPNOTSUPP, "this kernel has no PAGEMAP_SCAN (Linux 6.7)");
        int second = written(pagemap, memory, 2);
        memory[PAGE] = 2;
        int third = written(pagemap, memory, 2);
        if (first != 2 || second != 0 || third != 1)
                return error_set(err, EOPNOTSUPP,
                                 "PAGEMAP_SCAN of this kernel told %d, %d and %d pages instead of 2, 0 and 1", first,
                                 second, third);
        return 0;
}

static bool knows_guards(int pagemap, const char *memory)
{
        struct scan_request q = {.start = (uintptr_t)memory,
                                 .end = (uintptr_t)memory + PAGE,
                                 .inverted = PAGE_GUARD,
                                 .all_of = PAGE_GUARD};

        return scan_pages(pagemap, &q) >= 0;
}

static int uffd_open(void **ret_state, struct error *err)
{
        AUTO_FREE struct uffd_tracker *t = calloc(1, sizeof(*t));
        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_FD int pagemap = trackable_pagemap(getpid(), err);
        if (pagemap < 0)
                return pagemap;
        char *memory = mmap(NULL, 2L * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
                return error_set(err, ENOMEM, "out of memory");
        int r = try_ourselves(pagemap, memory, err);
        if (r == 0)
                t->left_out = PAGE_ZERO | (knows_guards(pagemap, memory) ? PAGE_GUARD : 0);
        (void)munmap(memory, 2L * PAGE);
        if (r == 0)
                *ret_state = TAKE_PTR(t);
        return r;
}

static void uffd_close(void *state)
{
        free(state);
}

/* The end of the row of areas, without gaps, that begins with the first. */
static size_t row_end(const struct address_space *space, size_t first)
{
        size_t i = first + 1;

        while (i < space->n && space->areas[i].start == space->areas[i - 1].end)
                i++;
        return i;
}

/* Under our protection, now? */
static bool is_ours(const struct tracked *p, int pagemap, uint64_t start, uint64_t end)
{
        return all_protected(pagemap, start, end) && put_under(p->uffd, start, end);
}

/* -- tracker_attach() --------------------------------------------------------------------------------------------- */

/* After an exec the descriptor still belongs to what was before. */
static bool is_current(const struct tracked *p, int pagemap, const struct address_space *space)
{
        for (size_t i = 0; i < space->n; i++)
                if (is_ours(p, pagemap, space->areas[i].start, space->areas[i].end))
                        return true;
        return false;
}

static int open_in_process(struct tracked *p, int pagemap, struct error *err)
{
        const struct inject_call call = {.number = SYS_userfaultfd, .arguments = {UFFD_FLAGS}};

        if (any_protected(pagemap, 0, ADDRESSES_END))
                return error_set(err, EOPNOTSUPP,
                                 "the memory of process %d is another's too, or it is write-protected by somebody else",
                                 (int)p->pid);
        AUTO_FD int uffd = -1;
        int r = inject_descriptor(p->pid, &call, &uffd, NULL, err);
        if (r == 0)
                r = negotiate(uffd, err);
        if (r == 0)
                p->uffd = fd_lift(TAKE_FD(uffd));
        return r;
}

static bool add_area(const struct tracked *p, int pagemap, const struct area *a)
{
        if (all_protected(pagemap, a->start, a->end))
                return put_under(p->uffd, a->start, a->end);
        if (!put_under(p->uffd, a->start, a->end))
                return false;
        if (count_as_written(p->uffd, a->start, a->end))
                return true;
        take_off(p->uffd, a->start, a->end);
        return false;
}

/* Put under protection what is not yet; those that cannot be are dropped from the list. */
static void add_areas(const struct tracked *p, int pagemap, struct address_space *space)
{
        size_t n = 0;

        for (size_t i = 0, end; i < space->n; i = end) {
                end = row_end(space, i);
                bool whole = is_ours(p, pagemap, space->areas[i].start, space->areas[end - 1].end);
                for (size_t k = i; k < end; k++)
                        if (whole || add_area(p, pagemap, &space->areas[k]))
                                space->areas[n++] = space->areas[k];
        }
        space->n = n;
}

static int uffd_attach(void *state, struct tracked *p, struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        (void)state;
        int r = trackable_descriptors(p->pid, err);
        if (r < 0)
                return r;
        AUTO_FD int pagemap = trackable_pagemap(p->pid, err);
        if (pagemap < 0)
                return pagemap;
        r = trackable_mappings(p->pid, &space, err);
        if (r < 0)
                return r;
        if (p->uffd >= 0 && !is_current(p, pagemap, &space))
                (void)close(TAKE_FD(p->uffd));
        p->scanned = p->scanned && p->uffd >= 0;
        if (p->uffd < 0 && (r = open_in_process(p, pagemap, err)) < 0)
                return r;
        add_areas(p, pagemap, &space);
        if (!is_current(p, pagemap, &space))
                return error_set(err, EOPNOTSUPP, "process %d executed another program just now", (int)p->pid);
        return 0;
}

/* -- tracker_scan() and tracker_clean() --------------------------------------------------------------------------- */

struct look {
        struct uffd_tracker *tracker;
        const struct tracked *process;
        int pagemap;
        bool clean;
        tracker_range_fn found;
        void *context;
};

static struct scan_request request_for(const struct look *l)
{
        const uint64_t left_out = l->tracker->left_out;
        struct scan_request q = {.any_of = PAGE_PRESENT | PAGE_SWAPPED, .returned = PAGE_WP_ALLOWED};

        if (!l->clean) {
                /* Only what is there: else empty memory would be filled with markers, which a dump takes for pages. */
                q.flags = SCAN_PROTECT_MATCHING;
                q.inverted = left_out;
                q.all_of = left_out | PAGE_WP_ALLOWED | PAGE_WRITTEN;
        } else {
                q.inverted = left_out | PAGE_WRITTEN;
                q.all_of = left_out | PAGE_WP_ALLOWED | PAGE_WRITTEN;
        }
        return q;
}

static int on_pages(uint64_t start, uint64_t end, void *context)
{
        const struct look *l = context;

        return l->found(l->process->pid, start, end, l->context);
}

static int look_at(struct look *l, uint64_t start, uint64_t end, struct error *err)
{
        const struct scan_request q = request_for(l);

        int r = page_scan(l->pagemap, &q, start, end, on_pages, l);
        return r < 0 ? error_errno(err, -r, "cannot scan the memory of process %d", (int)l->process->pid) : 0;
}

static int look_at_all(struct look *l, struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};
        const struct tracked *p = l->process;

        int r = trackable_mappings(p->pid, &space, err);
        if (r < 0)
                return r;
        for (size_t i = 0, end; r == 0 && i < space.n; i = end) {
                end = row_end(&space, i);
                const struct area *first = &space.areas[i], *last = &space.areas[end - 1];
                if (is_ours(p, l->pagemap, first->start, last->end)) {
                        r = look_at(l, first->start, last->end, err);
                        continue;
                }
                for (const struct area *a = first; r == 0 && a <= last; a++)
                        if (is_ours(p, l->pagemap, a->start, a->end))
                                r = look_at(l, a->start, a->end, err);
        }
        return r;
}

static int look(struct uffd_tracker *t, const struct tracked *p, bool clean, tracker_range_fn found, void *context,
                struct error *err)
{
        AUTO_FD int pagemap = trackable_pagemap(p->pid, err);
        struct look l = {t, p, pagemap, clean, found, context};

        return pagemap < 0 ? pagemap : look_at_all(&l, err);
}

static int uffd_scan(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, false, found, context, err);
}

static int uffd_clean(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, true, found, context, err);
}

const struct track_ops track_uffd = {.open = uffd_open,
                                     .close = uffd_close,
                                     .needs_stop = true,
                                     .attach = uffd_attach,
                                     .scan = uffd_scan,
                                     .clean = uffd_clean};
