/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

/*
 * Which pages a dump may leave out, and which of them it did leave out: memory shared between us and a library that is
 * loaded into `criu dump` (clean-pages-filter.c). The library removes clean pages from what CRIU is told of a process's
 * page tables, and marks those that it removed. Only the marks count afterwards: where the library was not loaded, or
 * CRIU looked elsewhere, nothing is marked and everything is in the dump.
 *
 * Same machine, same build: plain structures. Two bits for each page, in windows of 16 MiB of address space.
 */
#define CLEAN_WINDOW_PAGES 4096U
#define CLEAN_WINDOW_BYTES ((uint64_t)CLEAN_WINDOW_PAGES * 4096)
#define CLEAN_WORDS (CLEAN_WINDOW_PAGES / 64)

struct clean_window {
        int32_t pid; /* as /proc shows it where criu runs */
        uint32_t zero;
        uint64_t start; /* address, a multiple of CLEAN_WINDOW_BYTES */
        uint64_t clean[CLEAN_WORDS];
        uint64_t removed[CLEAN_WORDS];
};

#define CLEAN_ABI 0x70680001U

struct clean_header {
        uint32_t abi;
        uint32_t n_windows;     /* sorted by pid, then start */
        _Atomic uint32_t scans; /* of page tables that went through the library */
        uint32_t zero;
        struct clean_window windows[];
};

/*
 * The descriptors the library finds them at, and what loads it. The second are pages that need not be in the dump for
 * another reason: they go to the target after it. A page that is in both counts as one of the first.
 */
#define CLEAN_PAGES_ENV "PHAUL_CLEAN_PAGES"
#define LATE_PAGES_ENV "PHAUL_LATE_PAGES"

struct clean_pages;

int clean_pages_new(struct clean_pages **ret);
void clean_pages_free(struct clean_pages *pages);
DEFINE_CLEANUP(struct clean_pages, clean_pages_free)

/* [start, end) of `pid` is clean. All of one pid after the other, with rising pids and rising addresses: -EINVAL for
 * what is not. -E2BIG beyond 16 TiB. */
int clean_pages_add(struct clean_pages *pages, pid_t pid, uint64_t start, uint64_t end);

/* For criu; borrowed. */
int clean_pages_fd(const struct clean_pages *pages);

/* How many scans the library has seen. */
uint32_t clean_pages_scans(const struct clean_pages *pages);

/* After the dump: what was left out, as runs of pages, sorted by pid and address. Returns what `found` returned when it
 * was not 0. Begins anew with *cursor 0 and goes on from there, so that `found` may say "later" (-EAGAIN). */
struct clean_cursor {
        uint32_t window;
        uint32_t page;
};
int clean_pages_removed(const struct clean_pages *pages, struct clean_cursor *cursor,
                        int (*found)(pid_t pid, uint64_t vaddr, uint64_t n_pages, void *context), void *context);
