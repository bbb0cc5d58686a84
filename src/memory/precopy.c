/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/precopy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "memory/address_space.h"
#include "memory/process_image.h"
#include "memory/process_memory.h"
#include "memory/withhold.h"

/* Beyond so many a process is left to the dump altogether. */
#define UNREAD_MAX 4096

struct process {
        pid_t pid;
        pid_t number; /* the one criu has for it in /proc */
        uint64_t image;
        bool tracked;
};

/* Pages of one process. */
struct range {
        size_t process;
        uint64_t start, end;
};

struct ranges {
        struct range *list;
        size_t n, room;
};

struct precopy {
        struct image_sender *sender;
        struct tracker *tracker;
        enum precopy_demand demand;
        size_t depth; /* which of a process's pids CRIU knows it by: of the root's pid namespace */
        struct process *processes;
        size_t n_processes, room;
        unsigned round;
        bool announced;            /* the round was */
        bool any_announced, over;  /* since the beginning; its end was */
        struct ranges todo;        /* of the round */
        size_t next;               /* of todo */
        struct ranges unread;      /* of all rounds: sent never or not as it was */
        struct pid_list abandoned; /* processes of which too much could not be read */
        uint64_t round_bytes, written_bytes;
        size_t scanned;  /* processes, in the round */
        bool first_look; /* at the process that is scanned */

        size_t current;               /* process whose ranges a scan reports */
        size_t unread_at, unread_end; /* what of `unread` is its, from where the scan is */
        struct clean_pages *clean;
        struct clean_cursor cursor; /* of what was told to be kept */
        uint8_t *table;             /* being filled with it */
        uint64_t table_image, kept_pages;
        uint32_t table_runs;
        struct withhold *withhold; /* in tests */
};

void precopy_free(struct precopy *precopy)
{
        if (!precopy)
                return;
        tracker_free(precopy->tracker);
        withhold_free(precopy->withhold);
        free(precopy->processes);
        free(precopy->todo.list);
        free(precopy->unread.list);
        free(precopy->abandoned.pids);
        free(precopy);
}

bool precopy_needs_stop(const struct precopy *precopy)
{
        return tracker_needs_stop(precopy->tracker);
}

uint64_t precopy_round_bytes(const struct precopy *precopy)
{
        return precopy->round_bytes;
}

uint64_t precopy_written_bytes(const struct precopy *precopy)
{
        return precopy->written_bytes;
}

void precopy_coverage(const struct precopy *precopy, size_t *ret_scanned, size_t *ret_all)
{
        *ret_scanned = precopy->scanned;
        *ret_all = precopy->n_processes;
}

uint64_t precopy_kept_bytes(const struct precopy *precopy)
{
        return precopy->kept_pages * PAGE_BYTES;
}

/* -- processes -------------------------------------------------------------------------------------------------------
 */

int precopy_new(struct image_sender *sender, enum tracker_kind kind, enum precopy_demand demand, pid_t root,
                struct precopy **ret, struct error *err)
{
        CLEANUP(precopy_free_ptr) struct precopy *p = calloc(1, sizeof(*p));

        if (!p)
                return error_set(err, ENOMEM, "out of memory");
        p->sender = sender;
        p->demand = demand;
        int r = process_image_depth(root, &p->depth);
        if (r < 0)
                return error_errno(err, -r, "cannot look at process %d", (int)root);
        r = tracker_new(kind, &p->tracker, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

int precopy_withhold(struct precopy *precopy)
{
        return precopy->withhold ? 0 : withhold_new(&precopy->withhold);
}

/*
 * The process the round is at: to the tracker its pages were told, and count as clean until they are written again, but
 * the target has not all of them.
 */
static void skip_process(struct precopy *p)
{
        const size_t process = p->todo.list[p->next].process;

        p->processes[process].tracked = false;
        tracker_forget(p->tracker, p->processes[process].pid);
        while (p->next < p->todo.n && p->todo.list[p->next].process == process)
                p->next++;
}

/* A round that ended before all of it was sent. */
static void drop_unsent(struct precopy *p)
{
        while (p->next < p->todo.n)
                skip_process(p);
        p->todo.n = p->next = 0;
}

static int compare_pids(const void *a, const void *b)
{
        const pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

        return (x > y) - (x < y);
}

static bool is_abandoned(const struct precopy *p, pid_t pid)
{
        for (size_t i = 0; i < p->abandoned.n; i++)
                if (p->abandoned.pids[i] == pid)
                        return true;
        return false;
}

/* Rounds save time; what cannot be had in them is in the dump. */
static bool is_left_to_the_dump(const struct precopy *p, int r)
{
        return r == -ESRCH || r == -EOPNOTSUPP || (p->demand == PRECOPY_TRY && r != -ENOMEM);
}

static int watch_one(struct precopy *p, pid_t pid, struct error *reason, struct error *err)
{
        struct process process = {.pid = pid};
        struct error why = {0};

        int r = process_image_find(pid, p->depth, &process.image);
        if (r == 0 && is_abandoned(p, pid))
                r = error_set(&why, EOPNOTSUPP, "too much memory of process %d cannot be read", (int)pid);
        else if (r == 0)
                r = tracker_attach(p->tracker, pid, &why);
        if (r == -ESRCH || r == -ENOENT)
                return 0;
        if (r < 0 && r != -EAGAIN && !is_left_to_the_dump(p, r))
                return error_wrap(&why, "tracking the memory of process %d", (int)pid), *err = why, r;
        process.tracked = r == 0;
        if (r < 0 && reason->kind == ERROR_NONE)
                *reason = why;
        if (p->n_processes == p->room) {
                size_t room = p->room ? 2 * p->room : 32;
                struct process *grown = reallocarray(p->processes, room, sizeof(*grown));
                if (!grown)
                        return error_set(err, ENOMEM, "out of memory");
                p->processes = grown;
                p->room = room;
        }
        p->processes[p->n_processes++] = process;
        return 0;
}

int precopy_watch(struct precopy *precopy, pid_t *pids, size_t n, struct error *reason, struct error *err)
{
        int r = 0;

        error_clear(reason);
        drop_unsent(precopy);
        tracker_sweep(precopy->tracker);
        qsort(pids, n, sizeof(*pids), compare_pids);
        precopy->n_processes = 0;
        for (size_t i = 0; r == 0 && i < n; i++)
                if (i == 0 || pids[i] != pids[i - 1])
                        r = watch_one(precopy, pids[i], reason, err);
        return r;
}

/* -- a round ---------------------------------------------------------------------------------------------------------
 */

static int ranges_add(struct ranges *ranges, const struct range *range)
{
        if (!ranges->list || ranges->n == ranges->room) {
                size_t room = ranges->room ? 2 * ranges->room : 256;
                struct range *grown = reallocarray(ranges->list, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                ranges->list = grown;
                ranges->room = room;
        }
        ranges->list[ranges->n++] = *range;
        return 0;
}

static int on_dirty(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct precopy *p = context;

        (void)pid;
        p->round_bytes += end - start;
        if (!p->first_look)
                p->written_bytes += end - start;
        return ranges_add(&p->todo, &(struct range){.process = p->current, .start = start, .end = end});
}

int precopy_scan(struct precopy *precopy, struct error *err)
{
        drop_unsent(precopy);
        precopy->round_bytes = precopy->written_bytes = 0;
        precopy->scanned = 0;
        precopy->announced = false;
        precopy->round++;
        for (size_t i = 0; i < precopy->n_processes; i++) {
                struct process *process = &precopy->processes[i];
                struct error why = {0};
                if (!process->tracked)
                        continue;
                precopy->current = i;
                precopy->first_look = tracker_is_new(precopy->tracker, process->pid);
                int r = tracker_scan(precopy->tracker, process->pid, on_dirty, precopy, &why);
                if (r < 0 && is_left_to_the_dump(precopy, r)) {
                        /* What was protected anew before it failed may never have been told. */
                        process->tracked = false;
                        tracker_forget(precopy->tracker, process->pid);
                        continue;
                }
                if (r < 0) {
                        if (why.kind == ERROR_NONE)
                                (void)error_errno(&why, -r, "cannot keep in mind what is dirty");
                        (void)error_wrap(&why, "looking for what process %d has written", (int)process->pid);
                        *err = why;
                        return r;
                }
                precopy->scanned++;
        }
        tracker_arm(precopy->tracker);
        return 0;
}

/* A part of what the round has to send, as one frame holds it: pages of one process. */
struct load {
        struct page_span spans[RUNS_PER_TABLE];
        uint32_t n_spans, n_pages;
};

static void take_load(const struct precopy *p, struct load *load)
{
        const size_t process = p->todo.list[p->next].process;

        load->n_spans = load->n_pages = 0;
        for (size_t i = p->next; i < p->todo.n && p->todo.list[i].process == process; i++) {
                const struct range *range = &p->todo.list[i];
                uint64_t n = (range->end - range->start) / PAGE_BYTES;
                if (n > PAGE_BATCH_MAX - load->n_pages)
                        n = PAGE_BATCH_MAX - load->n_pages;
                if (n == 0 || load->n_spans == RUNS_PER_TABLE)
                        break;
                load->spans[load->n_spans++] = (struct page_span){.vaddr = range->start, .n_pages = (uint32_t)n};
                load->n_pages += (uint32_t)n;
        }
}

/* So many pages of the round are dealt with. */
static void advance(struct precopy *p, uint64_t n_pages)
{
        while (n_pages) {
                struct range *range = &p->todo.list[p->next];
                const uint64_t have = (range->end - range->start) / PAGE_BYTES, n = have < n_pages ? have : n_pages;
                range->start += n * PAGE_BYTES;
                n_pages -= n;
                if (range->start == range->end)
                        p->next++;
        }
}

/* The page the round is at cannot be read: unmapped meanwhile, or mapped such that nobody may read it. */
static int note_unread(struct precopy *p)
{
        const struct range *at = &p->todo.list[p->next];
        struct range page = {
                .process = (size_t)p->processes[at->process].pid, .start = at->start, .end = at->start + PAGE_BYTES};
        struct range *latest = p->unread.n ? &p->unread.list[p->unread.n - 1] : NULL;

        if (latest && latest->process == page.process && latest->end == page.start) {
                latest->end = page.end;
                return 0;
        }
        if (p->unread.n == UNREAD_MAX) {
                skip_process(p);
                return pid_list_add(&p->abandoned, (pid_t)page.process);
        }
        return ranges_add(&p->unread, &page);
}

/* As many of its pages as can be read at once; 0 when not even the first. */
static ssize_t read_load(const struct precopy *p, const struct load *load, uint8_t *to)
{
        const pid_t pid = p->processes[p->todo.list[p->next].process].pid;

        AUTO_FD int memory = process_memory_open(pid);
        if (memory < 0)
                return memory;
        ssize_t n = process_memory_read_spans(memory, load->spans, load->n_spans, to);
        return n != 0 || process_has_memory(pid) ? n : -ESRCH;
}

static int send_load(struct precopy *p, const struct load *load, uint8_t *slot, uint32_t n_pages)
{
        const struct process *process = &p->processes[p->todo.list[p->next].process];
        const uint32_t withheld = withhold_some(p->withhold, process->image, load->spans, n_pages);
        uint32_t n_runs = 0;

        for (uint32_t i = 0, done = 0; done < n_pages; i++) {
                struct page_span span = load->spans[i];
                if (span.n_pages > n_pages - done)
                        span.n_pages = n_pages - done;
                tracker_sent(p->tracker, process->pid, span.vaddr, span.n_pages,
                             slot + RUN_TABLE_BYTES + (size_t)done * PAGE_BYTES);
                done += span.n_pages;
                if (done == n_pages)
                        span.n_pages -= withheld;
                if (span.n_pages)
                        page_span_put(slot + (size_t)n_runs++ * RUN_BYTES, &span);
        }
        return image_sender_pages(p->sender, process->image, n_runs, n_pages - withheld);
}

static int send_some(struct precopy *p)
{
        struct load load = {0};
        uint8_t *slot;

        int r = image_sender_reserve(p->sender, &slot);
        if (r < 0)
                return r;
        take_load(p, &load);
        ssize_t n = read_load(p, &load, slot + RUN_TABLE_BYTES);
        if (n < 0 && is_left_to_the_dump(p, (int)n)) {
                skip_process(p);
                return 0;
        }
        if (n > 0) {
                r = send_load(p, &load, slot, (uint32_t)n);
                if (r == 0)
                        advance(p, (uint64_t)n);
                return r;
        }
        if (n < 0)
                return (int)n;
        const size_t before = p->next;
        r = note_unread(p);
        if (r == 0 && p->next == before)
                advance(p, 1);
        return r;
}

int precopy_send(struct precopy *precopy, struct error *err)
{
        int r = 0;

        if (!precopy->announced) {
                r = image_sender_round(precopy->sender, precopy->round);
                precopy->announced = r == 0;
                precopy->any_announced |= precopy->announced;
        }
        while (r == 0 && precopy->next < precopy->todo.n)
                r = send_some(precopy);
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot send memory") : r;
}

int precopy_last(struct precopy *precopy, struct error *err)
{
        drop_unsent(precopy);
        if (!precopy->any_announced || precopy->over)
                return 0;
        int r = image_sender_last(precopy->sender);
        precopy->over = r == 0;
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot send memory") : r;
}

/* -- the end ---------------------------------------------------------------------------------------------------------
 */

/* What was never read is not left out. Both come by rising address. */
static int on_clean(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct precopy *p = context;
        const pid_t number = p->processes[p->current].number;
        int r = 0;

        (void)pid;
        while (r == 0 && start < end) {
                while (p->unread_at < p->unread_end && p->unread.list[p->unread_at].end <= start)
                        p->unread_at++;
                const bool any = p->unread_at < p->unread_end && p->unread.list[p->unread_at].start < end;
                const struct range hole = any ? p->unread.list[p->unread_at] : (struct range){.start = end, .end = end};
                if (hole.start > start)
                        r = clean_pages_add(p->clean, number, start, hole.start);
                start = hole.end;
        }
        return r;
}

static int compare_ranges(const void *a, const void *b)
{
        const struct range *x = a, *y = b;

        return x->process != y->process ? (x->process > y->process) - (x->process < y->process)
                                        : (x->start > y->start) - (x->start < y->start);
}

/* By process and address, without overlaps. */
static void order_unread(struct ranges *unread)
{
        size_t n = 0;

        if (unread->n)
                qsort(unread->list, unread->n, sizeof(*unread->list), compare_ranges);
        for (size_t i = 0; i < unread->n; i++) {
                const struct range *range = &unread->list[i];
                struct range *latest = n ? &unread->list[n - 1] : NULL;
                if (!latest || latest->process != range->process || latest->end < range->start)
                        unread->list[n++] = *range;
                else if (latest->end < range->end)
                        latest->end = range->end;
        }
        unread->n = n;
}

/* The part of it that is one process's. */
static void find_unread(struct precopy *p, pid_t pid)
{
        size_t low = 0, high = p->unread.n;

        while (low < high) {
                const size_t middle = low + (high - low) / 2;
                if (p->unread.list[middle].process < (size_t)pid)
                        low = middle + 1;
                else
                        high = middle;
        }
        p->unread_at = p->unread_end = low;
        while (p->unread_end < p->unread.n && p->unread.list[p->unread_end].process == (size_t)pid)
                p->unread_end++;
}

static int compare_numbers(const void *a, const void *b)
{
        const pid_t x = ((const struct process *)a)->number, y = ((const struct process *)b)->number;

        return (x > y) - (x < y);
}

int precopy_clean(struct precopy *precopy, bool within, struct clean_pages *clean, struct error *err)
{
        drop_unsent(precopy);
        precopy->clean = clean;
        order_unread(&precopy->unread);
        for (size_t i = 0; i < precopy->n_processes; i++) {
                struct process *process = &precopy->processes[i];
                process->number = within ? (pid_t)(process->image >> 8) : process->pid;
        }
        if (precopy->n_processes)
                qsort(precopy->processes, precopy->n_processes, sizeof(struct process), compare_numbers);
        for (size_t i = 0; i < precopy->n_processes; i++) {
                const struct process *process = &precopy->processes[i];
                uint64_t image;
                struct error why = {0};
                /* The name its pages went under must be the one CRIU has for it. */
                if (!process->tracked || process_image_find(process->pid, precopy->depth, &image) < 0 ||
                    image != process->image)
                        continue;
                precopy->current = i;
                find_unread(precopy, process->pid);
                int r = tracker_clean(precopy->tracker, process->pid, on_clean, precopy, &why);
                /* What was told before it failed is clean nevertheless: they stand still. */
                if (r < 0 && !is_left_to_the_dump(precopy, r)) {
                        if (why.kind == ERROR_NONE)
                                (void)error_errno(&why, -r, "cannot keep in mind what is clean");
                        (void)error_wrap(&why, "looking for what process %d has not written", (int)process->pid);
                        *err = why;
                        return r;
                }
        }
        return 0;
}

/* precopy_clean() has put them in order. */
static const struct process *find_process(const struct precopy *p, pid_t number)
{
        const struct process key = {.number = number};

        return p->n_processes ? bsearch(&key, p->processes, p->n_processes, sizeof(key), compare_numbers) : NULL;
}

static int flush_table(struct precopy *p)
{
        int r = p->table_runs ? image_sender_kept(p->sender, p->table_image, p->table_runs) : 0;

        if (r == 0) {
                p->table_runs = 0;
                p->table = NULL;
        }
        return r;
}

static int on_kept(pid_t number, uint64_t vaddr, uint64_t n_pages, void *context)
{
        struct precopy *p = context;
        const struct process *process = find_process(p, number);

        if (!process)
                return -EINVAL;
        if (p->table_runs && (p->table_image != process->image || p->table_runs == RUNS_PER_FRAME)) {
                int r = flush_table(p);
                if (r < 0)
                        return r;
        }
        if (!p->table) {
                int r = image_sender_reserve(p->sender, &p->table);
                if (r < 0)
                        return r;
        }
        p->table_image = process->image;
        page_span_put(p->table + (size_t)p->table_runs++ * RUN_BYTES,
                      &(struct page_span){.vaddr = vaddr, .n_pages = (uint32_t)n_pages});
        p->kept_pages += n_pages;
        return 0;
}

int precopy_kept(struct precopy *precopy, const struct clean_pages *clean, struct error *err)
{
        int r = clean_pages_removed(clean, &precopy->cursor, on_kept, precopy);

        if (r == 0)
                r = flush_table(precopy);
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot tell what the target has already") : r;
}
