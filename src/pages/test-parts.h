/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "criu/page_server.h"
#include "pages/ledger.h"
#include "pages/service.h"

/*
 * An image directory with the memory of one task, the page service on it, and the other ends: CRIU's, and a process
 * whose memory is served. Page `n` of the task holds numbers that follow from n; some were never sent.
 */
#define BASE UINT64_C(0x200000000000)
#define TASK_PID 4242

struct lazy_story {
        char directory[64], ledger[96];
        int images_fd;
        uint64_t n_pages;
        bool left; /* some pages are not here: they were left on another host */
        pid_t service;
        struct page_ledger *view; /* of the ledger, to look at */
};

/* Images of a task with one area of that many pages at BASE, and the service on it. */
void lazy_story_begin(struct lazy_story *s, uint64_t n_pages, bool keep);
/* The same with pages that were left; was_left() says which. */
void lazy_story_begin_left(struct lazy_story *s, uint64_t n_pages);
bool was_left(uint64_t page);
void lazy_story_end(struct lazy_story *s);

static inline void *at_address(uint64_t address)
{
        return (void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr): addresses are numbers to the service */
}

static inline void *page_at(uint64_t page)
{
        return at_address(BASE + page * PAGE_BYTES);
}

/* Whether the page was sent. */
bool was_sent(uint64_t page);
/* Numbers that follow from `seed`; 0: zeros. */
void write_page(void *page, uint64_t seed);
bool check_page(const void *page, uint64_t seed);
static inline uint64_t seed_of(uint64_t page)
{
        return was_sent(page) ? page + 1 : 0;
}

/* In the process: the area, registered and handed to the service. The connection, for finish(). */
int become_lazy(const struct lazy_story *s);
void finish_restore(int connection);

/* Exits with 1 at the first page that is not what it has to be. */
void check_pages(const struct lazy_story *s);
/* All of that: from when it says "+" it is restored, and reads its pages, when all were given to it if `wait`. */
void be_lazy(const struct lazy_story *s, bool wait, int out);
/* What the process has in memory. */
uint64_t bytes_resident(pid_t pid);

/* Until no process of the service is left; false when that takes a minute. */
bool wait_for_end(const struct lazy_story *s);
struct page_service_status look(const struct lazy_story *s);
/* Bytes that the files of pages take. */
uint64_t bytes_stored(const struct lazy_story *s);
