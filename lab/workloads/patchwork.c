/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * patchwork [--areas N] [--pause MS] [--status FILE] [--seconds N]
 *
 * Memory in N areas of a page each, every second of which may only be read, so that no two are one to the kernel. What
 * each holds follows from its number and from how often it was written; it is checked before it is rewritten, and all
 * of them in turn. One status line per half second; exit 1 at the first wrong byte.
 */
#include "common.h"
#include <sys/mman.h>

enum { PAGE = 4096, WORDS = PAGE / 8, WRITES = 50, CHECKS = 200 };

struct patchwork {
        uint64_t (*pages)[WORDS];
        uint32_t *written;
        size_t n;
        int status;
};

static uint64_t word(const struct patchwork *p, size_t page, size_t i)
{
        return (page + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ p->written[page] * UINT64_C(0xC2B2AE3D27D4EB4F) ^
               i * UINT64_C(0x165667B19E3779F9);
}

static void check(const struct patchwork *p, size_t page)
{
        for (size_t i = 0; i < WORDS; i++)
                if (p->pages[page][i] != word(p, page, i)) {
                        put_line(p->status, "error: area %zu at %p, written %u times, holds %lx instead of %lx", page,
                                 (void *)&p->pages[page][i], p->written[page], (unsigned long)p->pages[page][i],
                                 (unsigned long)word(p, page, i));
                        exit(1);
                }
}

static void put(struct patchwork *p, size_t page)
{
        p->written[page]++;
        for (size_t i = 0; i < WORDS; i++)
                p->pages[page][i] = word(p, page, i);
}

static void allow(const struct patchwork *p, size_t page, int access)
{
        if (mprotect(p->pages[page], PAGE, access) < 0)
                die("mprotect: %s", strerror(errno));
}

static void rewrite(struct patchwork *p, size_t page)
{
        check(p, page);
        if (page % 2)
                allow(p, page, PROT_READ | PROT_WRITE);
        put(p, page);
        if (page % 2)
                allow(p, page, PROT_READ);
}

int main(int argc, char **argv)
{
        const double seconds = number_option(argc, argv, "seconds", 1e9);
        const long pause_us = (long)(number_option(argc, argv, "pause", 5) * 1000);
        struct patchwork p = {.n = (size_t)number_option(argc, argv, "areas", 10000),
                              .status = open_status(argc, argv)};
        uint64_t random = 1, writes = 0;
        size_t next = 0;

        p.pages = mmap(NULL, p.n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        p.written = calloc(p.n, sizeof(*p.written));
        if (p.n == 0 || p.pages == MAP_FAILED || !p.written)
                die("no memory for %zu areas", p.n);
        for (size_t page = 0; page < p.n; page++) {
                put(&p, page);
                if (page % 2)
                        allow(&p, page, PROT_READ);
        }
        stop_on_signals();
        put_line(p.status, "ready: %zu areas", p.n);
        const double start = monotonic_s();
        for (double told = start; !asked_to_stop && monotonic_s() - start < seconds; sleep_us(pause_us)) {
                for (size_t i = 0; i < WRITES; i++, writes++) {
                        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
                        rewrite(&p, (size_t)((random >> 33) % p.n));
                }
                for (size_t i = 0; i < CHECKS; i++, next = (next + 1) % p.n)
                        check(&p, next);
                if (monotonic_s() - told > 0.5) {
                        told = monotonic_s();
                        put_line(p.status, "%ld ms: %lu written, 0 errors", (long)(realtime_ns() / 1000000),
                                 (unsigned long)writes);
                }
        }
        for (size_t page = 0; page < p.n; page++)
                check(&p, page);
        put_line(p.status, "end: %lu written, 0 errors", (unsigned long)writes);
        return 0;
}
