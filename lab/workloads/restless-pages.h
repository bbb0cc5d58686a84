/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private memory of which it is known, page by page, what it has to hold. */
#ifndef WORKLOADS_RESTLESS_PAGES_H
#define WORKLOADS_RESTLESS_PAGES_H

#include "common.h"
#include <sys/mman.h>
#include <sys/uio.h>

enum { PAGE = 4096, WORDS = PAGE / 8, REGION_PAGES_MAX = 1024, DATA_PAGES = 64 };

typedef uint64_t page_words[WORDS];

/* Generations never begin anew as long as the region lives: what a page held once it must not hold again. */
struct page_state {
        uint32_t written;  /* how often */
        uint16_t owner;    /* which process did it last */
        uint8_t from_file; /* 1 + the page of the data file that was read into it since; 0: none */
        bool empty;        /* zeroes */
        bool freed;        /* may become empty at any moment */
        bool guarded;      /* nobody may touch it */
};

struct region {
        page_words *pages;
        size_t begin, n, full; /* first page that is there, the one after the last, and how large it may grow */
        size_t align;          /* of its place, in pages */
        uint64_t seed;
        bool forbidden, locked, wiped_in_children, not_for_children;
        struct page_state state[REGION_PAGES_MAX];
};

static inline void must(bool ok, const char *what)
{
        if (!ok)
                die("%s: %s", what, strerror(errno));
}

static inline uint64_t mixed(uint64_t place, uint64_t generation, uint64_t owner, size_t i)
{
        return (place * UINT64_C(0x9E3779B97F4A7C15) ^ generation * UINT64_C(0xC2B2AE3D27D4EB4F) ^
                owner * UINT64_C(0xD6E8FEB86659FD93)) +
               i * UINT64_C(0x165667B19E3779F9);
}

static inline uint64_t data_word(size_t page, size_t i)
{
        return mixed(page + 1, 0, 0, i);
}

/* What must be there. */
static inline uint64_t word(const struct region *r, size_t page, size_t i)
{
        const struct page_state *s = &r->state[page];

        if (s->empty)
                return 0;
        return s->from_file ? data_word(s->from_file - 1, i) : mixed(r->seed + page, s->written, s->owner, i);
}

static _Noreturn void complain(int status, const char *what, const void *at, uint32_t written, unsigned owner,
                               uint64_t found, uint64_t expected)
{
        put_line(status, "error: process %d: %s at %p, written %u times, last by %u, holds %016lx instead of %016lx",
                 (int)getpid(), what, at, written, owner, (unsigned long)found, (unsigned long)expected);
        _exit(1);
}

/* Asked through the kernel, which does not kill us for it. */
static inline bool may_be_read(const void *at)
{
        uint64_t value;
        const struct iovec to = {&value, sizeof(value)}, from = {(void *)(uintptr_t)at, sizeof(value)};

        return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)sizeof(value);
}

static inline void check(struct region *r, size_t page, int status)
{
        struct page_state *s = &r->state[page];
        const uint64_t *words = r->pages[page];

        if (s->guarded) {
                if (may_be_read(words))
                        complain(status, "guard page", words, s->written, s->owner, words[0], 0);
                return;
        }
        if (s->freed && words[0] == 0) {
                s->empty = true;
                s->freed = false;
        }
        for (size_t i = 0; i < WORDS; i++)
                if (words[i] != word(r, page, i))
                        complain(status, s->empty ? "empty page" : "page", &words[i], s->written, s->owner, words[i],
                                 word(r, page, i));
}

static inline void check_region(struct region *r, int status)
{
        for (size_t page = r->begin; page < r->n && !r->forbidden; page++)
                check(r, page, status);
}

/* What it holds next. */
static inline void note_written(struct region *r, size_t page)
{
        const struct page_state *s = &r->state[page];

        r->state[page] = (struct page_state){.written = s->written + 1, .owner = (uint16_t)getpid()};
}

static inline void put(struct region *r, size_t page)
{
        note_written(r, page);
        for (size_t i = 0; i < WORDS; i++)
                r->pages[page][i] = word(r, page, i);
}

static inline void note_empty(struct region *r, size_t first, size_t n)
{
        for (size_t page = first; page < first + n; page++) {
                r->state[page].empty = true;
                r->state[page].freed = false;
        }
}

/* Memory that has nothing to do with what was there. */
static inline void renew(struct region *r, uint64_t seed)
{
        r->seed = seed;
        r->forbidden = r->locked = r->wiped_in_children = r->not_for_children = false;
        memset(r->state, 0, sizeof(r->state));
        note_empty(r, 0, REGION_PAGES_MAX);
}

static inline bool any_guarded(const struct region *r, size_t first, size_t n)
{
        for (size_t page = first; page < first + n; page++)
                if (r->state[page].guarded)
                        return true;
        return false;
}

static inline void *map(void *at, size_t n, int flags)
{
        void *p = mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

        must(p != MAP_FAILED, "mmap");
        return p;
}

/* Address space for n pages, so that the first is at a multiple of `align` pages; nothing may be touched there. */
static inline char *find_place(size_t n, size_t align)
{
        const size_t more = align > 1 ? align : 0;
        char *p = mmap(NULL, (n + more) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        must(p != MAP_FAILED, "mmap");
        if (!more)
                return p;
        const size_t before = (align * PAGE - (uintptr_t)p % (align * PAGE)) % (align * PAGE);
        if (before)
                (void)munmap(p, before);
        (void)munmap(p + before + n * PAGE, more * PAGE - before);
        return p + before;
}

#endif
