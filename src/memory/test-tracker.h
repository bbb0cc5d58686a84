/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/test-process.h"

#define PAGE UINT64_C(4096)

static inline void *at(uint64_t address)
{
        return (void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr): addresses are numbers to a tracker */
}

/* A child that does what it is told, one thing after the other. */
struct servant {
        struct child child;
        int socket;
};

void servant_start(struct servant *s);
void servant_end(struct servant *s);

/* The child calls the function with up to three numbers, the rest are 0; its answer. */
typedef uint64_t (*servant_fn)(const uint64_t *arguments);
uint64_t servant_ask_all(struct servant *s, servant_fn fn, const uint64_t *arguments);
#define servant_ask(s, fn, ...) servant_ask_all(s, fn, (const uint64_t[4]){__VA_ARGS__})

/* It becomes another program, and is that when this returns. Nothing can be asked of it any more. */
void servant_exec(struct servant *s);

/* For tracker_scan() and tracker_clean(): pages of a range. */
struct page_count {
        uint64_t start, end, pages;
        int fail; /* what to return, once there were any */
        uint64_t last;
};
int page_count_add(pid_t pid, uint64_t start, uint64_t end, void *context);

/* Pages of the range that are present or in swap, or look like it. */
uint64_t count_used(pid_t pid, uint64_t start, uint64_t pages);

/* Whether memory that was only read is the one page of zeros; some virtual machines have none. */
bool has_zero_page(void);

/* Mappings that a userfaultfd has to do with, by the flags of /proc/PID/smaps. */
size_t count_flagged(pid_t pid);

/* What it can be told: numbers of pages, addresses. */
uint64_t map(const uint64_t *a);             /* pages, where (0: anywhere): private memory */
uint64_t map_shared(const uint64_t *a);      /* pages */
uint64_t map_file(const uint64_t *a);        /* pages: private, of a file that is as long */
uint64_t write_pages(const uint64_t *a);     /* where, pages: the first byte of each goes up by one */
uint64_t read_pages(const uint64_t *a);      /* where, pages: the sum of the first bytes */
uint64_t read_into(const uint64_t *a);       /* where: a page of zeros, by the kernel */
uint64_t unmap(const uint64_t *a);           /* where, pages */
uint64_t move(const uint64_t *a);            /* where, pages, where to */
uint64_t advise(const uint64_t *a);          /* where, pages, advice */
uint64_t protect(const uint64_t *a);         /* where, pages, protection */
uint64_t grow_stack(const uint64_t *a);      /* half pages: the deepest page */
uint64_t write_by_thread(const uint64_t *a); /* as write_pages */
uint64_t fork_child(const uint64_t *a);      /* its pid */
uint64_t share_memory(const uint64_t *a);    /* the pid of another process in the same memory */
uint64_t kill_it(const uint64_t *a);         /* pid */
uint64_t make_aio(const uint64_t *a);
uint64_t make_userfaultfd(const uint64_t *a);
uint64_t become_nobody(const uint64_t *a); /* behind a filter that kills whoever asks for a userfaultfd */
