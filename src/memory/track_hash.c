/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "memory/page_notes.h"
#include "memory/page_run.h"
#include "memory/page_table.h"
#include "memory/process_memory.h"
#include "memory/track.h"
#include "memory/trackable.h"

/*
 * Written pages by what is in them: of each page that is sent a digest is kept, and the page is clean while its
 * contents have that one. So it does not matter how a page was written, or whether it is the same page at all: the
 * target has what is there. Nothing needs to stand still but in the end, and the kernel needs no feature for it. All
 * memory is read for it each time.
 *
 * 128 bits of XXH3 with a seed that nobody knows: that two contents have one digest is a chance, not an impossibility.
 */
#define PAGE 4096U
#define BLOCK_PAGES 256U
#define NOTES_BYTES ((size_t)40 << 20) /* enough for 10 GiB; the rest counts as written */

struct digest {
        uint64_t low, high; /* both 0: none */
};

struct hash_tracker {
        uint64_t seed, zero_frame;
        size_t allowance; /* of all notes */
        uint8_t block[BLOCK_PAGES * PAGE];
};

static struct digest digest_of(const struct hash_tracker *t, const uint8_t *page)
{
        const XXH128_hash_t hash = XXH3_128bits_withSeed(page, PAGE, t->seed);

        return (struct digest){hash.low64, hash.high64};
}

static int hash_open(void **ret_state, struct error *err)
{
        AUTO_FREE struct hash_tracker *t = calloc(1, sizeof(*t));

        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        if (getrandom(&t->seed, sizeof(t->seed), 0) != sizeof(t->seed))
                return error_errno(err, errno, "cannot get random numbers");
        t->zero_frame = page_table_zero_frame();
        t->allowance = NOTES_BYTES;
        *ret_state = TAKE_PTR(t);
        return 0;
}

static void hash_close(void *state)
{
        free(state);
}

static int hash_attach(void *state, struct tracked *p, struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};
        struct hash_tracker *t = state;

        int r = trackable_descriptors(p->pid, err);
        if (r == 0)
                r = trackable_mappings(p->pid, &space, err);
        if (r == 0 && !p->notes && !(p->notes = page_notes_new(sizeof(struct digest), &t->allowance)))
                r = error_set(err, ENOMEM, "out of memory");
        return r;
}

static void hash_sent(void *state, struct tracked *p, uint64_t vaddr, size_t n_pages, const void *data)
{
        const struct hash_tracker *t = state;

        for (size_t i = 0; i < n_pages; i++) {
                struct digest *note = page_notes_make(p->notes, vaddr + i * PAGE);
                if (note)
                        *note = digest_of(t, (const uint8_t *)data + i * PAGE);
        }
}

/* -- tracker_scan() and tracker_clean() --------------------------------------------------------------------------- */

struct look {
        struct hash_tracker *tracker;
        struct page_notes *notes;
        int memory;
        bool clean;
        struct page_run run;
};

static const struct digest *noted(const struct look *l, uint64_t vaddr)
{
        const struct digest *note = page_notes_find(l->notes, vaddr);

        return note && (note->low || note->high) ? note : NULL;
}

/* One after the other, from `vaddr`: `page` is what is in it, NULL when that cannot be read. */
static int judge(struct look *l, uint64_t vaddr, const uint8_t *page)
{
        const struct digest *note = page ? noted(l, vaddr) : NULL;
        bool same = false;

        if (note) {
                const struct digest now = digest_of(l->tracker, page);
                same = now.low == note->low && now.high == note->high;
        }
        return same == l->clean ? page_run_add(&l->run, vaddr) : 0;
}

/* Pages in a row, no more than a block. What nothing is noted of is not worth reading. */
static int look_at_block(struct look *l, uint64_t vaddr, size_t n)
{
        size_t done = 0;

        while (done < n && !noted(l, vaddr + done * PAGE)) {
                int r = judge(l, vaddr + done * PAGE, NULL);
                if (r < 0)
                        return r;
                done++;
        }
        while (done < n) {
                const uint64_t at = vaddr + done * PAGE;
                ssize_t got = process_memory_read(l->memory, at, l->tracker->block, (n - done) * PAGE);
                if (got < 0)
                        return (int)got;
                const size_t whole = (size_t)got / PAGE;
                int r = whole ? 0 : judge(l, at, NULL);
                for (size_t i = 0; r == 0 && i < whole; i++)
                        r = judge(l, at + i * PAGE, l->tracker->block + i * PAGE);
                if (r < 0)
                        return r;
                done += whole ? whole : 1;
        }
        return 0;
}

static int look_at(uint64_t vaddr, const uint64_t *entries, size_t n, void *context)
{
        struct look *l = context;

        for (size_t i = 0, end; i < n; i = end) {
                for (end = i; end < n && end - i < BLOCK_PAGES; end++)
                        if (!page_entry_has_contents(entries[end], l->tracker->zero_frame))
                                break;
                int r = end > i ? look_at_block(l, vaddr + i * PAGE, end - i) : 0;
                if (r < 0)
                        return r;
                if (end == i)
                        end++;
        }
        return 0;
}

static int look(struct hash_tracker *t, struct tracked *p, bool clean, tracker_range_fn found, void *context,
                struct error *err)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        AUTO_FD int pagemap = trackable_pagemap(p->pid, err);
        if (pagemap < 0)
                return pagemap;
        AUTO_FD int memory = process_memory_open(p->pid);
        if (memory < 0)
                return error_errno(err, -memory, "cannot open the memory of process %d", (int)p->pid);
        struct look l = {t, p->notes, memory, clean, {.pid = p->pid, .found = found, .context = context}};
        int r = trackable_mappings(p->pid, &space, err);
        if (r < 0)
                return r;
        r = page_table_walk(pagemap, &space, look_at, &l);
        if (r == 0)
                r = page_run_tell(&l.run);
        return r < 0 ? error_errno(err, -r, "cannot read the memory of process %d", (int)p->pid) : 0;
}

static int hash_scan(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, false, found, context, err);
}

static int hash_clean(void *state, struct tracked *p, tracker_range_fn found, void *context, struct error *err)
{
        return look(state, p, true, found, context, err);
}

const struct track_ops track_hash = {.open = hash_open,
                                     .close = hash_close,
                                     .attach = hash_attach,
                                     .scan = hash_scan,
                                     .sent = hash_sent,
                                     .clean = hash_clean};
