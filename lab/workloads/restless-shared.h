/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that several processes have together. Its first page says of each of the others what it has to hold, and is
 * itself believed only as far as no generation is lower than one that this process has seen.
 */
#ifndef WORKLOADS_RESTLESS_SHARED_H
#define WORKLOADS_RESTLESS_SHARED_H

#include "restless-pages.h"
#include <sched.h>
#include <sys/shm.h>
#include <sys/stat.h>

enum { SHARE_PAGES = 63, SHARE_BYTES = (SHARE_PAGES + 1) * PAGE };
enum share_kind { SHARE_ANONYMOUS, SHARE_MEMFD, SHARE_POSIX, SHARE_SYSV, SHARE_KINDS };

struct share_page {
        uint32_t lock, generation, owner;
        uint32_t empty;
};

/* Mapped. */
struct share_memory {
        union {
                struct share_page states[SHARE_PAGES];
                page_words first;
        };
        page_words pages[SHARE_PAGES];
};

struct share {
        enum share_kind kind;
        int handle;                  /* a descriptor that survives an exec, or the number of a segment; -1: none */
        struct share_memory *memory; /* NULL: this process has none of that kind */
        uint32_t seen[SHARE_PAGES];
};

static inline void share_attach(struct share *share)
{
        void *p;

        if (share->kind == SHARE_SYSV)
                p = shmat(share->handle, NULL, 0);
        else
                p = mmap(NULL, SHARE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_SHARED | (share->kind == SHARE_ANONYMOUS ? MAP_ANONYMOUS : 0), share->handle, 0);
        must(p != MAP_FAILED, "shared memory"); /* what shmat() fails with as well */
        share->memory = p;
}

static inline void share_detach(struct share *share)
{
        must((share->kind == SHARE_SYSV ? shmdt(share->memory) : munmap(share->memory, SHARE_BYTES)) == 0, "unmapping");
        share->memory = NULL;
}

/* `handle`: of one that exists, or -1. All pages of a new one are zeroes. */
static inline void share_open(struct share *share, enum share_kind kind, int handle)
{
        char name[64];

        share->kind = kind;
        share->handle = handle;
        if (handle < 0 && kind == SHARE_MEMFD)
                share->handle = memfd_create("restless", 0);
        if (handle < 0 && kind == SHARE_SYSV)
                share->handle = shmget(IPC_PRIVATE, SHARE_BYTES, IPC_CREAT | 0600);
        if (handle < 0 && kind == SHARE_POSIX) {
                (void)mkdir("/dev/shm", 01777); /* a container need not have it */
                (void)snprintf(name, sizeof(name), "/restless-%d", (int)getpid());
                share->handle = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
                must(share->handle >= 0 && shm_unlink(name) == 0, "shm_open");
                must(fcntl(share->handle, F_SETFD, 0) == 0, "fcntl"); /* for who is executed */
        }
        must(kind == SHARE_ANONYMOUS || share->handle >= 0, "shared memory");
        if (handle < 0 && (kind == SHARE_MEMFD || kind == SHARE_POSIX))
                must(ftruncate(share->handle, SHARE_BYTES) == 0, "ftruncate");
        share_attach(share);
        if (handle < 0)
                for (size_t i = 0; i < SHARE_PAGES; i++)
                        share->memory->states[i].empty = 1;
}

static inline uint64_t share_word(const struct share *share, size_t page, size_t i)
{
        const struct share_page *s = &share->memory->states[page];

        return s->empty ? 0 : mixed((uint64_t)share->kind * 1000003 + page, s->generation, s->owner, i);
}

static inline void share_check(struct share *share, size_t page, int status)
{
        struct share_page *s = &share->memory->states[page];
        const uint64_t *words = share->memory->pages[page];

        if (s->generation < share->seen[page])
                complain(status, "generation of a shared page", s, s->generation, s->owner, s->generation,
                         share->seen[page]);
        for (size_t i = 0; i < WORDS; i++)
                if (words[i] != share_word(share, page, i))
                        complain(status, s->empty ? "empty shared page" : "shared page", &words[i], s->generation,
                                 s->owner, words[i], share_word(share, page, i));
}

/* Checked; then, by `what`, written anew, emptied, or left. */
static inline void share_act(struct share *share, size_t page, unsigned what, int status)
{
        struct share_page *s = &share->memory->states[page];

        while (__atomic_exchange_n(&s->lock, 1, __ATOMIC_ACQUIRE))
                (void)sched_yield();
        share_check(share, page, status);
        if (what < 8) {
                s->generation++;
                s->owner = (uint32_t)getpid();
                s->empty = what == 0;
                if (s->empty)
                        must(madvise(share->memory->pages[page], PAGE, MADV_REMOVE) == 0, "MADV_REMOVE");
                for (size_t i = 0; i < WORDS && !s->empty; i++)
                        share->memory->pages[page][i] = share_word(share, page, i);
        }
        share->seen[page] = s->generation;
        __atomic_store_n(&s->lock, 0, __ATOMIC_RELEASE);
}

#endif
