/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>

#include "criu/page_server.h"
#include "pages/ledger.h"

/*
 * Pages that are still on another host (post-copy). Their places in the files are there, and empty or out of date,
 * until the session has written them and set their bits; before that nobody is given what lies there.
 */
#define WORD_BITS 64U
#define FIRST_ROOM 64U

static uint64_t *bits_of(const struct page_ledger *l, uint32_t file)
{
        const uint64_t at = l->files[file].here;

        return at ? (uint64_t *)(void *)(l->base + at) : NULL;
}

static struct ledger_wanted *wanted_of(const struct page_ledger *l)
{
        return (struct ledger_wanted *)(void *)(l->base + l->head->wanted_at);
}

/* A file of which all pages are here gets the bits that say so. */
static int make_bits(struct page_ledger *l, uint32_t file)
{
        const uint64_t words = (l->files[file].n_pages + WORD_BITS - 1) / WORD_BITS;

        if (l->files[file].here)
                return 0;
        const uint64_t at = page_ledger_take(l, words * sizeof(uint64_t));
        if (!at)
                return -ENOSPC;
        memset(l->base + at, 0xff, words * sizeof(uint64_t));
        l->files[file].here = at;
        return 0;
}

static int make_room(struct page_ledger *l)
{
        struct ledger_head *h = l->head;

        if (!h->wanted_at)
                h->wanted_at = page_ledger_take(l, LEDGER_WANTED_MAX * sizeof(struct ledger_wanted));
        if (h->n_away == h->away_room) {
                const uint64_t room = h->away_room ? 2 * h->away_room : FIRST_ROOM;
                const uint64_t at = page_ledger_take(l, room * sizeof(struct ledger_away));
                if (!at)
                        return -ENOSPC;
                if (h->n_away)
                        memcpy(l->base + at, l->base + h->away_at, h->n_away * sizeof(struct ledger_away));
                h->away_at = at;
                h->away_room = room;
        }
        return h->wanted_at ? 0 : -ENOSPC;
}

int page_ledger_add_away(struct page_ledger *ledger, uint64_t image, uint64_t vaddr, uint64_t n_pages, uint32_t file,
                         uint64_t position)
{
        struct ledger_head *h = ledger->head;

        if (!n_pages || file >= h->n_files || position > ledger->files[file].n_pages ||
            n_pages > ledger->files[file].n_pages - position)
                return -EINVAL;
        int r = make_bits(ledger, file);
        if (r == 0)
                r = make_room(ledger);
        if (r < 0)
                return r;
        struct ledger_away *list = (struct ledger_away *)(void *)(ledger->base + h->away_at);
        list[h->n_away++] = (struct ledger_away){
                .image = image, .vaddr = vaddr, .n_pages = n_pages, .position = position, .file = file};
        h->total_away += n_pages;
        uint64_t *bits = bits_of(ledger, file);
        for (uint64_t i = position; i < position + n_pages; i++)
                bits[i / WORD_BITS] &= ~(UINT64_C(1) << i % WORD_BITS);
        return 0;
}

/* How many bits from there on are like the first, at most `max`. */
static uint64_t count(const uint64_t *bits, uint64_t from, uint64_t max, bool set)
{
        uint64_t n = 0;

        while (n < max) {
                const uint64_t i = from + n, skip = i % WORD_BITS;
                uint64_t word = __atomic_load_n(&bits[i / WORD_BITS], __ATOMIC_ACQUIRE);
                word = (set ? ~word : word) >> skip;
                const uint64_t same = word ? (uint64_t)__builtin_ctzll(word) : WORD_BITS - skip;
                n += same;
                if (word)
                        break;
        }
        return n < max ? n : max;
}

uint64_t page_ledger_here(const struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t max)
{
        const uint64_t *bits = bits_of(ledger, file);

        return bits ? count(bits, position, max, true) : max;
}

uint64_t page_ledger_missing(const struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t max)
{
        const uint64_t *bits = bits_of(ledger, file);

        return bits ? count(bits, position, max, false) : 0;
}

uint64_t page_ledger_arrived(struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t n_pages)
{
        uint64_t *bits = bits_of(ledger, file), fresh = 0;

        for (uint64_t i = position; bits && i < position + n_pages; i++) {
                const uint64_t mask = UINT64_C(1) << i % WORD_BITS;
                fresh += (__atomic_fetch_or(&bits[i / WORD_BITS], mask, __ATOMIC_ACQ_REL) & mask) == 0;
        }
        (void)__atomic_add_fetch(&ledger->head->arrived, fresh, __ATOMIC_ACQ_REL);
        return fresh;
}

bool page_ledger_want(struct page_ledger *ledger, uint32_t file, uint64_t position)
{
        struct ledger_wanted *list = wanted_of(ledger);

        if (!ledger->head->wanted_at)
                return false;
        for (size_t i = 0; i < LEDGER_WANTED_MAX; i++) {
                /* One that a worker died over stays in that state: there are others. */
                uint32_t free = 0;
                if (!__atomic_compare_exchange_n(&list[i].state, &free, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                        continue;
                list[i].file = file;
                list[i].position = position;
                __atomic_store_n(&list[i].state, 2, __ATOMIC_RELEASE);
                return true;
        }
        return false;
}

bool page_ledger_wanted(struct page_ledger *ledger, size_t *cursor, uint32_t *ret_file, uint64_t *ret_position)
{
        struct ledger_wanted *list = wanted_of(ledger);

        for (; ledger->head->wanted_at && *cursor < LEDGER_WANTED_MAX; (*cursor)++) {
                struct ledger_wanted *w = &list[*cursor];
                if (__atomic_load_n(&w->state, __ATOMIC_ACQUIRE) != 2)
                        continue;
                if (w->file >= ledger->head->n_files || w->position >= ledger->files[w->file].n_pages ||
                    page_ledger_here(ledger, w->file, w->position, 1)) {
                        __atomic_store_n(&w->state, 0, __ATOMIC_RELEASE);
                        continue;
                }
                *ret_file = w->file;
                *ret_position = w->position;
                (*cursor)++;
                return true;
        }
        return false;
}
