/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "criu/page_server.h"

/* A huge page of a tmpfs: only whole ones are given back by the kernel for certain. */
#define PIECE_BYTES (UINT64_C(2) << 20)
#define PIECE_PAGES (PIECE_BYTES / PAGE_BYTES)

struct store_file {
        uint8_t *base;
        uint32_t *owed; /* pages, by piece */
        uint32_t *kept; /* those that are given and still here */
        uint64_t n_pieces;
};

struct page_store {
        struct page_ledger *ledger;
        struct store_file *files;
        uint32_t n_files;
        bool releasing;
        uint64_t twice; /* sum of kept */
};

void page_store_free(struct page_store *store)
{
        if (!store)
                return;
        for (uint32_t i = 0; store->files && i < store->n_files; i++) {
                if (store->files[i].base)
                        (void)munmap(store->files[i].base, store->ledger->files[i].n_pages * PAGE_BYTES);
                free(store->files[i].owed);
                free(store->files[i].kept);
        }
        free(store->files);
        free(store);
}

static int open_file(struct page_store *s, uint32_t i, int images_fd, struct error *err)
{
        struct ledger_file *f = &s->ledger->files[i];
        struct store_file *mapped = &s->files[i];
        const uint64_t bytes = f->n_pages * PAGE_BYTES;
        struct stat st;

        if (f->fd < 0)
                f->fd = openat(images_fd, f->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (f->fd < 0 || fstat(f->fd, &st) < 0)
                return error_errno(err, errno, "cannot open %s", f->name);
        /* Beyond its end a mapping is a trap. */
        if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < bytes)
                return error_set(err, EBADMSG, "%s is shorter than it should be", f->name);
        void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, f->fd, 0);
        if (base == MAP_FAILED)
                return error_errno(err, errno, "cannot map %s", f->name);
        mapped->base = base;
        mapped->n_pieces = (f->n_pages + PIECE_PAGES - 1) / PIECE_PAGES;
        mapped->owed = calloc(mapped->n_pieces, sizeof(*mapped->owed));
        mapped->kept = calloc(mapped->n_pieces, sizeof(*mapped->kept));
        return mapped->owed && mapped->kept ? 0 : error_set(err, ENOMEM, "out of memory");
}

int page_store_new(struct page_ledger *ledger, int images_fd, struct page_store **ret, struct error *err)
{
        CLEANUP(page_store_free_ptr) struct page_store *s = calloc(1, sizeof(*s));
        int r = 0;

        if (!s)
                return error_set(err, ENOMEM, "out of memory");
        s->ledger = ledger;
        s->n_files = ledger->head->n_files;
        s->files = calloc(s->n_files + 1, sizeof(*s->files));
        if (!s->files)
                return error_set(err, ENOMEM, "out of memory");
        for (uint32_t i = 0; r == 0 && i < s->n_files; i++)
                r = open_file(s, i, images_fd, err);
        if (r == 0)
                *ret = TAKE_PTR(s);
        return r;
}

void *page_store_at(const struct page_store *store, uint32_t file, uint64_t position)
{
        return store->files[file].base + position * PAGE_BYTES;
}

/* Each piece that the pages lie in, with how many of them. */
static void each_piece(struct page_store *s, uint32_t file, uint64_t position, uint64_t n_pages,
                       void (*fn)(struct page_store *s, uint32_t file, uint64_t piece, uint32_t n))
{
        for (uint64_t n; n_pages; position += n, n_pages -= n) {
                n = PIECE_PAGES - position % PIECE_PAGES;
                if (n > n_pages)
                        n = n_pages;
                fn(s, file, position / PIECE_PAGES, (uint32_t)n);
        }
}

static void owe(struct page_store *s, uint32_t file, uint64_t piece, uint32_t n)
{
        (void)__atomic_add_fetch(&s->files[file].owed[piece], n, __ATOMIC_RELAXED);
}

/* A file system that cannot do it keeps the file until it is removed. */
static void give_back(struct page_store *s, uint32_t file, uint64_t piece)
{
        const uint32_t kept = __atomic_exchange_n(&s->files[file].kept[piece], 0, __ATOMIC_ACQ_REL);

        (void)__atomic_sub_fetch(&s->twice, kept, __ATOMIC_RELAXED);
        if (!s->ledger->head->keep)
                (void)fallocate(s->ledger->files[file].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)(piece * PIECE_BYTES), (off_t)PIECE_BYTES);
}

static void settle(struct page_store *s, uint32_t file, uint64_t piece, uint32_t n)
{
        (void)__atomic_add_fetch(&s->files[file].kept[piece], n, __ATOMIC_RELAXED);
        (void)__atomic_add_fetch(&s->twice, n, __ATOMIC_RELAXED);
        if (__atomic_sub_fetch(&s->files[file].owed[piece], n, __ATOMIC_ACQ_REL) == 0 &&
            __atomic_load_n(&s->releasing, __ATOMIC_ACQUIRE))
                give_back(s, file, piece);
}

void page_store_owe(struct page_store *store, uint32_t file, uint64_t position, uint64_t n_pages)
{
        each_piece(store, file, position, n_pages, owe);
}

void page_store_settled(uint32_t file, uint64_t position, uint64_t n_pages, void *store)
{
        each_piece(store, file, position, n_pages, settle);
}

struct ledger_part page_store_piece(uint32_t file, uint64_t position)
{
        const uint64_t first = position / PIECE_PAGES * PIECE_PAGES;

        return (struct ledger_part){.file = file, .first = first, .end = first + PIECE_PAGES};
}

uint64_t page_store_twice(const struct page_store *store)
{
        return store->ledger->head->keep ? 0 : __atomic_load_n(&store->twice, __ATOMIC_RELAXED);
}

/* A piece that comes to nothing meanwhile is given back by one of the two, or by both. */
void page_store_release(struct page_store *store)
{
        __atomic_store_n(&store->releasing, true, __ATOMIC_SEQ_CST);
        for (uint32_t i = 0; i < store->n_files; i++)
                for (uint64_t piece = 0; piece < store->files[i].n_pieces; piece++)
                        if (__atomic_load_n(&store->files[i].owed[piece], __ATOMIC_SEQ_CST) == 0)
                                give_back(store, i, piece);
}
