/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "memory/page_notes.h"
#include "memory/page_run.h"
#include "memory/page_table.h"
#include "memory/track.h"
#include "memory/trackable.h"

/*
 * Written pages by a bit that the kernel sets in the page table with each write, and takes off for all of a process
 * when asked to (Documentation/admin-guide/mm/soft-dirty.rst). New mappings have it set.
 *
 * The bit alone does not do: page tables that are moved as a whole (mremap() of aligned 2 MiB) come without it, to an
 * address at which other contents were reported. Therefore it is noted which frame a page had when it was reported, and
 * one that is in another frame counts as written: also one that the kernel has moved to another frame for reasons of
 * its own.
 */
#define PAGE 4096U
#define HUGE_BYTES (UINT64_C(2) << 20)
#define PARTS 512                      /* as many at once: 1 GiB */
#define NOTES_BYTES ((size_t)40 << 20) /* enough for 40 GiB; the rest counts as written */
#define NOTE_SWAPPED (UINT32_C(1) << 31)

struct soft_tracker {
        uint64_t zero_frame;
        size_t allowance; /* of all notes */
};

/* What is noted of a page: never 0, and unlike for pages in unlike places; or 0, as which nothing is remembered. */
static uint32_t note_of(uint64_t entry)
{
        const uint64_t frame = entry & ENTRY_FRAME;

        if (frame >= NOTE_SWAPPED)
                return 0;
        return entry & ENTRY_PRESENT ? (uint32_t)frame : (uint32_t)frame | NOTE_SWAPPED;
}

static int clear_bits(pid_t pid)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
        AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd_write_all(fd, "4", 1);
}

/* -- tracker_new() ------------------------------------------------------------------------------------------------ */

static uint64_t own_entry(int pagemap, const volatile char *page)
{
        uint64_t entry = 0;

        if (pread(pagemap, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
                return 0;
        return entry;
}

/* The whole way, on a page of our own. */
static int try_ourselves(int pagemap, volatile char *page, struct error *err)
{
        page[0] = 1;
        const uint64_t fresh = own_entry(pagemap, page);
        int r = clear_bits(getpid());
        const uint64_t cleared = own_entry(pagemap, page);
        page[0] = 2;
        const uint64_t written = own_entry(pagemap, page);

        if (r < 0 || !(fresh & ENTRY_SOFT_DIRTY) || cleared & ENTRY_SOFT_DIRTY || !(written & ENTRY_SOFT_DIRTY))
                return error_set(err, EOPNOTSUPP,
                                 "this kernel does not remember written pages (CONFIG_MEM_SOFT_DIRTY)");
        if (!(written & ENTRY_FRAME))
                return error_set(err, EOPNOTSUPP, "the frames of pages are not shown to us");
        return 0;
}

static int soft_open(void **ret_state, struct error *err)
{
        AUTO_FREE struct soft_tracker *t = calloc(1, sizeof(*t));
        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_FD int pagemap = trackable_pagemap(getpid(), err);
        if (pagemap < 0)
                return pagemap;
        char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
                return error_set(err, ENOMEM, "out of memory");
        int r = try_ourselves(pagemap, page, err);
        (void)munmap(page, PAGE);
        if (r < 0)
                return r;
        *t = (struct soft_tracker){.zero_frame = page_table_zero_frame(), .allowance = NOTES_BYTES};
        *ret_state = TAKE_PTR(t);
        return 0;
}

static void soft_close(void *state)
{
        free(state);
}

/* -- a process ---------------------------------------------------------------------------------------------------- */

/* Those of them that the kernel takes: it stops at one that it does not (locked memory). False: none at all. */
static bool call_cold(int pidfd, const struct iovec *parts, size_t n)
{
        for (size_t done = 0; done < n;) {
                const long bytes = syscall(SYS_process_madvise, pidfd, parts + done, n - done, MADV_COLD, 0);
                if (bytes < 0 && errno != EINVAL && errno != EAGAIN && errno != EINTR && errno != ENOMEM)
                        return false;
                done += bytes > 0 ? (size_t)bytes / PAGE : 1;
        }
        return true;
}

/*
 * Of a huge page the bit is one, too: a program that writes a little everywhere would have written all of it. When a
 * part of one is called cold, the kernel splits it (mm/madvise.c), and others may call it so (process_madvise(2), Linux
 * 5.10). One that is not split now, as somebody else holds it, may be before the next look.
 */
static void split_huge_pages(const struct tracked *p, const struct address_space *space)
{
        struct iovec parts[PARTS];
        size_t n = 0;

        for (size_t i = 0; i < space->n; i++) {
                const struct area *a = &space->areas[i];
                if (a->end - a->start > PAGE_TABLE_AREA_MAX)
                        continue;
                uint64_t at = (a->start + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
                for (; at < a->end && a->end - at >= HUGE_BYTES; at += HUGE_BYTES) {
                        /* NOLINTNEXTLINE(performance-no-int-to-ptr): an address of another process */
                        parts[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)at, .iov_len = PAGE};
                        if (n < PARTS)
                                continue;
                        if (!call_cold(p->pidfd, parts, n))
                                return;
                        n = 0;
                }
        }
        (void)call_cold(p->pidfd, parts, n);
}

static int soft_attach(void *state, struct tracked *p, struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};
        struct soft_tracker *t = state;

        int r = trackable_descriptors(p->pid, err);
        if (r == 0)
                r = trackable_mappings(p->pid, &space, err);
        if (r == 0 && !p->notes && !(p->notes = page_notes_new(sizeof(uint32_t), &t->allowance)))
                r = error_set(err, ENOMEM, "out of memory");
        if (r == 0)
                split_huge_pages(p, &space);
        return r;
}

struct look {
        const struct soft_tracker *tracker;
        struct page_notes *notes;
        bool clean;
        struct page_run run;
};

/* Since it was noted; what was found written is noted anew. */
static bool was_written(const struct look *l, uint64_t vaddr, uint64_t entry)
{
        const uint32_t now = note_of(entry);
        uint32_t *note = page_notes_find(l->notes, vaddr);

        if (note && now && *note == now && !(entry & ENTRY_SOFT_DIRTY))
                return false;
        if (!l->clean && (note || (note = page_notes_make(l->notes, vaddr))))
                *note = now;
        return true;
}

/* What is not looked at loses its bit without having been reported: nothing is known of it any more. */
static void forget_gaps(struct page_notes *notes, const struct address_space *space)
{
        uint64_t end = 0;

        for (size_t i = 0; i < space->n; i++) {
                if (space->areas[i].end - space->areas[i].start > PAGE_TABLE_AREA_MAX)
                        continue; /* passed over, perhaps */
                page_notes_erase(notes, end, space->areas[i].start);
                end = space->areas[i].end;
        }
        page_notes_erase(notes, end, UINT64_MAX);
}

static int look_at(uint64_t vaddr, const uint64_t *entries, size_t n, void *context)
{
        struct look *l = context;

        for (size_t i = 0; i < n; i++, vaddr += PAGE) {
                if (!page_entry_has_contents(entries[i], l->tracker->zero_frame))
                        continue;
                if (was_written(l, vaddr, entries[i]) != l->clean) {
                        int r = page_run_add(&l->run, vaddr);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int look(struct soft_tracker *t, struct tracked *p, bool clean, tracker_range_fn found, void *context,
                struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};
        struct look l = {t, p->notes, clean, {.pid = p->pid, .found = found, .context = context}};

        AUTO_FD int pagemap = trackable_pagemap(p->pid, err);
        if (pagemap < 0)
                return pagemap;
        int r = trackable_mappings(p->pid, &space, err);
        if (r < 0)
                return r;
        if (!clean)
                forget_gaps(p->notes, &space);
        r = page_table_walk(pagemap, &space, look_at, &l);
        if (r == 0)
                r = page_run_tell(&l.run);
        return r < 0 ? error_errno(err, -r, "cannot look at the page tables of process %d", (int)p->pid) : 0;
}

static int soft_scan(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, false, found, context, err);
}

static int soft_arm(void *state, struct tracked *p)
{
        (void)state;
        return clear_bits(p->pid);
}

static int soft_clean(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, true, found, context, err);
}

const struct track_ops track_soft_dirty = {.open = soft_open,
                                           .close = soft_close,
                                           .needs_stop = true,
                                           .attach = soft_attach,
                                           .scan = soft_scan,
                                           .arm = soft_arm,
                                           .clean = soft_clean};
