/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "criu/page_server.h"

#define LEDGER_MAGIC UINT64_C(0x706861756c706731)

/* Sparse: only what is used takes memory. Lists grow by doubling, so this is for hundreds of millions of runs. */
#define LEDGER_BYTES (UINT64_C(1) << 36)

#define FILES_AT UINT64_C(4096)
#define SPACES_AT (FILES_AT + LEDGER_FILES_MAX * sizeof(struct ledger_file))
#define LISTS_AT (SPACES_AT + LEDGER_SPACES_MAX * sizeof(struct ledger_space))

#define WORD_BITS 64U

_Static_assert(sizeof(struct ledger_head) <= FILES_AT, "the head fills less than a page");

static int map(int fd, struct page_ledger **ret, struct error *err)
{
        struct page_ledger *l = calloc(1, sizeof(*l));

        if (!l)
                return error_set(err, ENOMEM, "out of memory");
        l->base = mmap(NULL, LEDGER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (l->base == MAP_FAILED) {
                int r = error_errno(err, errno, "cannot map the ledger of pages");
                free(l);
                return r;
        }
        l->head = (struct ledger_head *)(void *)l->base;
        l->files = (struct ledger_file *)(void *)(l->base + FILES_AT);
        l->spaces = (struct ledger_space *)(void *)(l->base + SPACES_AT);
        *ret = l;
        return 0;
}

int page_ledger_create(int fd, struct page_ledger **ret, struct error *err)
{
        if (ftruncate(fd, (off_t)LEDGER_BYTES) < 0)
                return error_errno(err, errno, "cannot make a ledger of pages");
        int r = map(fd, ret, err);
        if (r == 0)
                *(*ret)->head = (struct ledger_head){.magic = LEDGER_MAGIC, .used = LISTS_AT, .connection = -1};
        return r;
}

int page_ledger_open(int fd, struct page_ledger **ret, struct error *err)
{
        int r = lseek(fd, 0, SEEK_END) == (off_t)LEDGER_BYTES ? map(fd, ret, err)
                                                              : error_set(err, EBADMSG, "that is no ledger of pages");

        if (r == 0 && (*ret)->head->magic != LEDGER_MAGIC) {
                page_ledger_free(TAKE_PTR(*ret));
                r = error_set(err, EBADMSG, "that is no ledger of pages");
        }
        return r;
}

void page_ledger_free(struct page_ledger *ledger)
{
        if (!ledger)
                return;
        (void)munmap(ledger->base, LEDGER_BYTES);
        free(ledger);
}

/* -- lists -------------------------------------------------------------------------------------------------------- */

/* Fresh bytes, which are zero. Whoever dies now has lost them, and nothing else. 0: there are none. */
uint64_t page_ledger_take(struct page_ledger *l, uint64_t bytes)
{
        const uint64_t at = l->head->used, rounded = (bytes + 63) / 64 * 64;

        if (bytes > LEDGER_BYTES || rounded > LEDGER_BYTES - at)
                return 0;
        l->head->used = at + rounded;
        return at;
}

static struct ledger_run *runs_of(const struct page_ledger *l, const struct ledger_runs *runs)
{
        return (struct ledger_run *)(void *)(l->base + runs->offset);
}

static uint64_t *bits_of(const struct page_ledger *l, const struct ledger_space *s)
{
        return (uint64_t *)(void *)(l->base + s->bits);
}

static uint64_t run_end(const struct ledger_run *r)
{
        return r->vaddr + r->n_pages * PAGE_BYTES;
}

/* Room for `n` runs; what was in the list is lost unless `keep`. */
static int reserve(struct page_ledger *l, struct ledger_runs *runs, uint64_t n, bool keep)
{
        if (n <= runs->room)
                return 0;
        const uint64_t room = n < 16 ? 16 : 2 * n, at = page_ledger_take(l, room * sizeof(struct ledger_run));
        if (!at)
                return -ENOSPC;
        if (keep && runs->n)
                memcpy(l->base + at, l->base + runs->offset, runs->n * sizeof(struct ledger_run));
        runs->offset = at;
        runs->room = room;
        return 0;
}

static int reserve_bits(struct page_ledger *l, struct ledger_space *s, uint64_t n)
{
        if (n > s->bits_room) {
                const uint64_t at = page_ledger_take(l, (n + WORD_BITS - 1) / WORD_BITS * sizeof(uint64_t));
                if (!at)
                        return -ENOSPC;
                s->bits = at;
                s->bits_room = (n + WORD_BITS - 1) / WORD_BITS * WORD_BITS;
        }
        s->n_bits = n;
        return 0;
}

/* -- before the service starts ------------------------------------------------------------------------------------ */

int page_ledger_add_file(struct page_ledger *ledger, const char *name, uint64_t n_pages, uint32_t *ret)
{
        struct ledger_head *h = ledger->head;

        if (h->n_files == LEDGER_FILES_MAX || strlen(name) >= LEDGER_FILE_NAME)
                return -E2BIG;
        struct ledger_file *f = &ledger->files[h->n_files];
        *f = (struct ledger_file){.n_pages = n_pages, .fd = -1};
        memcpy(f->name, name, strlen(name) + 1);
        *ret = h->n_files++;
        return 0;
}

int page_ledger_add_space(struct page_ledger *ledger, int32_t pid, uint32_t *ret)
{
        struct ledger_head *h = ledger->head;

        if (h->n_spaces == LEDGER_SPACES_MAX)
                return -E2BIG;
        ledger->spaces[h->n_spaces] = (struct ledger_space){.state = SPACE_EXPECTED, .pid = pid, .uffd = -1};
        *ret = h->n_spaces++;
        return 0;
}

int page_ledger_add_run(struct page_ledger *ledger, uint32_t space, uint64_t vaddr, uint64_t n_pages, uint32_t file,
                        uint64_t position)
{
        struct ledger_space *s = &ledger->spaces[space];
        struct ledger_runs *runs = &s->runs[0];
        struct ledger_run *last = runs->n ? &runs_of(ledger, runs)[runs->n - 1] : NULL;

        if (!n_pages || file >= ledger->head->n_files || position > ledger->files[file].n_pages ||
            n_pages > ledger->files[file].n_pages - position || (last && run_end(last) > vaddr))
                return -EINVAL;
        ledger->head->total += n_pages;
        s->n_bits += n_pages;
        if (last && last->file == file && run_end(last) == vaddr && last->position + last->n_pages == position) {
                last->n_pages += n_pages;
                return 0;
        }
        int r = reserve(ledger, runs, runs->n + 1, true);
        if (r < 0)
                return r;
        runs_of(ledger, runs)[runs->n++] = (struct ledger_run){
                .vaddr = vaddr, .n_pages = n_pages, .position = position, .bit = s->n_bits - n_pages, .file = file};
        return 0;
}

int page_ledger_owe(struct page_ledger *ledger, uint32_t space)
{
        struct ledger_space *s = &ledger->spaces[space];
        const uint64_t n = s->n_bits;

        int r = reserve_bits(ledger, s, n);
        if (r < 0)
                return r;
        uint64_t *bits = bits_of(ledger, s);
        memset(bits, 0xff, n / WORD_BITS * sizeof(*bits));
        if (n % WORD_BITS)
                bits[n / WORD_BITS] = (UINT64_C(1) << n % WORD_BITS) - 1;
        return 0;
}

/* -- bits --------------------------------------------------------------------------------------------------------- */

static bool is_set(const uint64_t *bits, uint64_t i)
{
        return __atomic_load_n(&bits[i / WORD_BITS], __ATOMIC_RELAXED) >> i % WORD_BITS & 1;
}

/* The first set bit at or behind `i` and before `end`; `end`: there is none. */
static uint64_t next_set(const uint64_t *bits, uint64_t i, uint64_t end)
{
        while (i < end) {
                const uint64_t word = __atomic_load_n(&bits[i / WORD_BITS], __ATOMIC_RELAXED) >> i % WORD_BITS;
                if (word) {
                        i += (unsigned)__builtin_ctzll(word);
                        return i < end ? i : end;
                }
                i += WORD_BITS - i % WORD_BITS;
        }
        return end;
}

/* True for whoever was the one to clear it. */
static bool clear_bit(uint64_t *bits, uint64_t i)
{
        const uint64_t mask = UINT64_C(1) << i % WORD_BITS;

        return __atomic_fetch_and(&bits[i / WORD_BITS], ~mask, __ATOMIC_ACQ_REL) & mask;
}

/* The first run that ends behind `vaddr`. */
static uint64_t find(const struct ledger_run *list, uint64_t n, uint64_t vaddr)
{
        uint64_t low = 0, high = n;

        while (low < high) {
                const uint64_t middle = low + (high - low) / 2;
                if (run_end(&list[middle]) <= vaddr)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* The first owed pages of a run at or behind `from` and before `end`, bits of the space. */
static bool owed_of(const struct page_ledger *l, const struct ledger_space *s, const struct ledger_run *r,
                    uint64_t from, uint64_t end, uint64_t max, struct ledger_run *ret)
{
        const uint64_t *bits = bits_of(l, s);
        const uint64_t first = next_set(bits, from, end);
        uint64_t n = 1;

        if (first >= end)
                return false;
        while (n < max && first + n < end && is_set(bits, first + n))
                n++;
        *ret = (struct ledger_run){.vaddr = r->vaddr + (first - r->bit) * PAGE_BYTES,
                                   .n_pages = n,
                                   .position = r->position + (first - r->bit),
                                   .bit = first,
                                   .file = r->file};
        return true;
}

bool page_ledger_next(const struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t end, uint64_t max,
                      struct ledger_run *ret)
{
        const struct ledger_space *s = &ledger->spaces[space];
        const struct ledger_runs *runs = &s->runs[s->current];
        const struct ledger_run *list = runs_of(ledger, runs);

        for (uint64_t i = find(list, runs->n, from); i < runs->n && list[i].vaddr < end; i++) {
                const struct ledger_run *r = &list[i];
                const uint64_t skip = from > r->vaddr ? (from - r->vaddr) / PAGE_BYTES : 0;
                uint64_t limit = r->bit + r->n_pages;
                if (run_end(r) > end)
                        limit = r->bit + (end - r->vaddr) / PAGE_BYTES;
                if (owed_of(ledger, s, r, r->bit + skip, limit, max, ret))
                        return true;
        }
        return false;
}

bool page_ledger_where(const struct page_ledger *ledger, uint32_t space, uint64_t vaddr, uint32_t *ret_file,
                       uint64_t *ret_position)
{
        const struct ledger_space *s = &ledger->spaces[space];
        const struct ledger_runs *runs = &s->runs[s->current];
        const struct ledger_run *list = runs_of(ledger, runs);
        const uint64_t i = find(list, runs->n, vaddr);

        if (i == runs->n || list[i].vaddr > vaddr)
                return false;
        *ret_file = list[i].file;
        *ret_position = list[i].position + (vaddr - list[i].vaddr) / PAGE_BYTES;
        return true;
}

bool page_ledger_next_of(const struct page_ledger *ledger, uint32_t space, const struct ledger_part *part,
                         uint64_t from, uint64_t max, struct ledger_run *ret)
{
        const struct ledger_space *s = &ledger->spaces[space];
        const struct ledger_runs *runs = &s->runs[s->current];
        const struct ledger_run *list = runs_of(ledger, runs);

        for (uint64_t i = find(list, runs->n, from); i < runs->n; i++) {
                const struct ledger_run *r = &list[i];
                if (r->file != part->file)
                        continue;
                if (r->position >= part->end)
                        break;
                uint64_t first = from > r->vaddr ? (from - r->vaddr) / PAGE_BYTES : 0, end = r->n_pages;
                if (r->position + first < part->first)
                        first = part->first - r->position;
                if (r->position + end > part->end)
                        end = part->end - r->position;
                if (first < end && owed_of(ledger, s, r, r->bit + first, r->bit + end, max, ret))
                        return true;
        }
        return false;
}

uint64_t page_ledger_begin_of(const struct page_ledger *ledger, uint32_t space, const struct ledger_part *part,
                              uint64_t vaddr)
{
        const struct ledger_space *s = &ledger->spaces[space];
        const struct ledger_runs *runs = &s->runs[s->current];
        const struct ledger_run *list = runs_of(ledger, runs);
        uint64_t i = find(list, runs->n, vaddr), begin = vaddr;

        for (i = i < runs->n ? i + 1 : i; i > 0; i--) {
                const struct ledger_run *r = &list[i - 1];
                if (r->file != part->file)
                        continue;
                if (r->position + r->n_pages <= part->first)
                        break;
                begin = r->vaddr < begin ? r->vaddr : begin;
        }
        return begin;
}

uint64_t page_ledger_settle(struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t end,
                            ledger_settled_fn settled, void *context)
{
        struct ledger_space *s = &ledger->spaces[space];
        struct ledger_run r;
        uint64_t count = 0;

        while (page_ledger_next(ledger, space, from, end, UINT64_MAX, &r)) {
                uint64_t *bits = bits_of(ledger, s);
                for (uint64_t i = 0; i < r.n_pages; i++) {
                        if (!clear_bit(bits, r.bit + i))
                                continue;
                        count++;
                        settled(r.file, r.position + i, 1, context);
                }
                from = run_end(&r);
        }
        (void)__atomic_add_fetch(&ledger->head->settled, count, __ATOMIC_RELAXED);
        return count;
}

/* -- what happens to address spaces ------------------------------------------------------------------------------- */

/* One that is free, best with room for as much; made if there is none. */
static int free_space(struct page_ledger *l, uint64_t runs, uint64_t bits, uint32_t *ret)
{
        struct ledger_head *h = l->head;
        uint32_t any = h->n_spaces;

        for (uint32_t i = 0; i < h->n_spaces; i++) {
                const struct ledger_space *s = &l->spaces[i];
                if (s->state != SPACE_FREE)
                        continue;
                any = i;
                if (s->runs[0].room >= runs && s->bits_room >= bits)
                        break;
        }
        if (any == h->n_spaces) {
                if (any == LEDGER_SPACES_MAX)
                        return -ENOSPC;
                l->spaces[any] = (struct ledger_space){.state = SPACE_FREE, .uffd = -1};
                h->n_spaces++;
        }
        *ret = any;
        return 0;
}

static bool find_uffd(const struct page_ledger *l, int32_t uffd, uint32_t *ret)
{
        for (uint32_t i = 0; i < l->head->n_spaces; i++)
                if (l->spaces[i].state == SPACE_LIVE && l->spaces[i].uffd == uffd) {
                        *ret = i;
                        return true;
                }
        return false;
}

int page_ledger_attach(struct page_ledger *ledger, int32_t pid, int32_t uffd, uint32_t *ret_space)
{
        uint32_t i = 0;

        if (find_uffd(ledger, uffd, ret_space))
                return 1;
        while (i < ledger->head->n_spaces &&
               (ledger->spaces[i].state != SPACE_EXPECTED || ledger->spaces[i].pid != pid))
                i++;
        if (i == ledger->head->n_spaces) {
                int r = free_space(ledger, 0, 0, &i);
                if (r < 0)
                        return r;
                struct ledger_space *s = &ledger->spaces[i];
                s->pid = pid;
                s->runs[0].n = s->runs[0].event = s->n_bits = 0;
                s->current = 0;
        }
        ledger->spaces[i].uffd = uffd;
        __atomic_store_n(&ledger->spaces[i].state, SPACE_LIVE, __ATOMIC_RELEASE);
        *ret_space = i;
        return 0;
}

static int compare_runs(const void *a, const void *b)
{
        uint64_t x = ((const struct ledger_run *)a)->vaddr, y = ((const struct ledger_run *)b)->vaddr;

        return x < y ? -1 : x > y;
}

static struct ledger_run cut(const struct ledger_run *r, uint64_t from, uint64_t end)
{
        const uint64_t skip = (from - r->vaddr) / PAGE_BYTES;

        return (struct ledger_run){.vaddr = from,
                                   .n_pages = (end - from) / PAGE_BYTES,
                                   .position = r->position + skip,
                                   .bit = r->bit + skip,
                                   .file = r->file};
}

/* The parts of a run before, within and behind a range; each of them if there is one. */
static uint64_t split(const struct ledger_run *r, uint64_t from, uint64_t end, struct ledger_run ret[static 3],
                      int *ret_within)
{
        uint64_t n = 0;
        const uint64_t stop = run_end(r), low = r->vaddr < from ? from : r->vaddr, high = stop < end ? stop : end;

        *ret_within = -1;
        if (low >= high) {
                ret[n++] = *r;
                return n;
        }
        if (r->vaddr < low)
                ret[n++] = cut(r, r->vaddr, low);
        *ret_within = (int)n;
        ret[n++] = cut(r, low, high);
        if (high < stop)
                ret[n++] = cut(r, high, stop);
        return n;
}

int page_ledger_move(struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t to, uint64_t length,
                     uint64_t event)
{
        struct ledger_space *s = &ledger->spaces[space];
        const struct ledger_runs *old = &s->runs[s->current];
        struct ledger_runs *new = &s->runs[1 - s->current];
        struct ledger_run part[3], left[3];
        int within, over;

        if (old->event == event)
                return 0;
        int r = reserve(ledger, new, 5 * old->n + 1, false);
        if (r < 0)
                return r;
        struct ledger_run *list = runs_of(ledger, new);
        const struct ledger_run *was = runs_of(ledger, old);
        new->n = 0;
        for (uint64_t i = 0; i < old->n; i++) {
                const uint64_t n = split(&was[i], from, from + length, part, &within);
                for (uint64_t p = 0; p < n; p++) {
                        if ((int)p == within) {
                                list[new->n] = part[p];
                                list[new->n++].vaddr += to - from;
                                continue;
                        }
                        /* What lay where it goes is gone; its bits were cleared by our caller. */
                        const uint64_t m = split(&part[p], to, to + length, left, &over);
                        for (uint64_t q = 0; q < m; q++)
                                if ((int)q != over)
                                        list[new->n++] = left[q];
                }
        }
        qsort(list, new->n, sizeof(*list), compare_runs);
        new->event = event;
        __atomic_store_n(&s->current, 1 - s->current, __ATOMIC_RELEASE);
        return 0;
}

int page_ledger_fork(struct page_ledger *ledger, uint32_t parent, int32_t uffd, uint32_t *ret_space)
{
        const struct ledger_space *p = &ledger->spaces[parent];
        const struct ledger_runs *runs = &p->runs[p->current];
        uint32_t i;

        if (find_uffd(ledger, uffd, ret_space))
                return 1;
        int r = free_space(ledger, runs->n, p->n_bits, &i);
        struct ledger_space *child = &ledger->spaces[i];
        if (r == 0)
                r = reserve(ledger, &child->runs[0], runs->n, false);
        if (r == 0)
                r = reserve_bits(ledger, child, p->n_bits);
        if (r < 0)
                return r;
        if (runs->n)
                memcpy(runs_of(ledger, &child->runs[0]), runs_of(ledger, runs), runs->n * sizeof(struct ledger_run));
        if (p->n_bits)
                memcpy(bits_of(ledger, child), bits_of(ledger, p),
                       (p->n_bits + WORD_BITS - 1) / WORD_BITS * sizeof(uint64_t));
        child->runs[0].n = runs->n;
        child->runs[0].event = 0;
        child->runs[1].event = 0;
        child->current = 0;
        child->pid = p->pid;
        child->uffd = uffd;
        __atomic_store_n(&child->state, SPACE_LIVE, __ATOMIC_RELEASE);
        *ret_space = i;
        return 0;
}
