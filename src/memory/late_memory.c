/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/late_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/kernel_abi.h"
#include "base/proc_status.h"
#include "memory/address_space.h"
#include "memory/page_scan.h"
#include "memory/process_image.h"
#include "memory/process_memory.h"

#define SMAPS_MAX (256U << 20)

struct process {
        pid_t pid, parent;
        pid_t number; /* the one criu has for it in /proc */
        uint64_t image;
        int memory; /* for reading, opened when it is first read; -1 */
        struct address_space space;
        bool *late; /* of each area */
};

struct late_memory {
        size_t depth;
        struct process *processes; /* by pid, then by number, once that is known */
        size_t n;
        struct clean_cursor cursor; /* of what was told to be left */
        uint8_t *table;             /* being filled with it */
        uint64_t table_image, left_pages;
        uint32_t table_runs;
        struct image_sender *sender;
};

static void forget_processes(struct late_memory *l)
{
        for (size_t i = 0; i < l->n; i++) {
                address_space_done(&l->processes[i].space);
                free(l->processes[i].late);
                if (l->processes[i].memory >= 0)
                        (void)close(l->processes[i].memory);
        }
        free(TAKE_PTR(l->processes));
        l->n = 0;
}

void late_memory_free(struct late_memory *late)
{
        if (!late)
                return;
        forget_processes(late);
        free(late);
}

int late_memory_new(pid_t root, struct late_memory **ret, struct error *err)
{
        CLEANUP(late_memory_free_ptr) struct late_memory *l = calloc(1, sizeof(*l));

        if (!l)
                return error_set(err, ENOMEM, "out of memory");
        int r = process_image_depth(root, &l->depth);
        if (r < 0)
                return error_errno(err, -r, "cannot look at process %d", (int)root);
        *ret = TAKE_PTR(l);
        return 0;
}

int late_memory_possible(struct error *err)
{
        struct scan_region region;
        struct scan_request q = {.size = sizeof(q),
                                 .start = (uintptr_t)&q / PAGE_BYTES * PAGE_BYTES,
                                 .regions = (uintptr_t)&region,
                                 .regions_size = 1,
                                 .any_of = PAGE_PRESENT,
                                 .returned = PAGE_PRESENT};

        q.end = q.start + PAGE_BYTES;
        AUTO_FD int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (pagemap < 0 || ioctl(pagemap, SCAN_IOCTL, &q) < 0)
                return error_set(err, EOPNOTSUPP, "this kernel has no PAGEMAP_SCAN (Linux 6.7)");
        return 0;
}

uint64_t late_memory_left_bytes(const struct late_memory *late)
{
        return late->left_pages * PAGE_BYTES;
}

/* -- processes -------------------------------------------------------------------------------------------------------
 */

static int compare_pids(const void *a, const void *b)
{
        const pid_t x = ((const struct process *)a)->pid, y = ((const struct process *)b)->pid;

        return (x > y) - (x < y);
}

static int compare_numbers(const void *a, const void *b)
{
        const pid_t x = ((const struct process *)a)->number, y = ((const struct process *)b)->number;

        return (x > y) - (x < y);
}

int late_memory_watch(struct late_memory *late, const pid_t *pids, size_t n, struct error *err)
{
        forget_processes(late);
        late->processes = calloc(n + 1, sizeof(*late->processes));
        if (!late->processes)
                return error_set(err, ENOMEM, "out of memory");
        for (size_t i = 0; i < n; i++) {
                AUTO_FREE char *status = NULL;
                struct process p = {.pid = pids[i], .memory = -1};
                if (process_image_find(p.pid, late->depth, &p.image) < 0 || proc_status_read(p.pid, &status) < 0)
                        continue;
                p.parent = (pid_t)proc_status_number(status, "PPid");
                late->processes[late->n++] = p;
        }
        if (late->n)
                qsort(late->processes, late->n, sizeof(*late->processes), compare_pids);
        return 0;
}

/* -- which memory may come late --------------------------------------------------------------------------------------
 */

/* Of the flags of a mapping (fs/proc/task_mmu.c): locked, hugetlb, wiped on fork, a shadow stack, I/O, raw frames. */
static bool is_special(const char *flags)
{
        static const char *const words[] = {" lo", " ht", " wf", " ss", " io", " pf", " mm"};
        const size_t length = strcspn(flags, "\n");

        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
                const char *found = strstr(flags, words[i]);
                if (found && found < flags + length)
                        return true;
        }
        return false;
}

/*
 * smaps is maps with lines about each mapping behind it: "Key:  value" with a capital letter, which no line of maps
 * begins with. The one of its flags is the last.
 */
static int parse(char *smaps, struct process *p)
{
        char *to = smaps;
        size_t n = 0;

        p->late = calloc(strlen(smaps) / 64 + 1, sizeof(*p->late));
        if (!p->late)
                return -ENOMEM;
        for (char *line = smaps, *next; *line; line = next) {
                next = strchrnul(line, '\n');
                next += *next == '\n';
                if (*line >= 'A' && *line <= 'Z') {
                        if (strncmp(line, "VmFlags:", 8) == 0 && n)
                                p->late[n - 1] = !is_special(line);
                        continue;
                }
                n++;
                (void)memmove(to, line, (size_t)(next - line));
                to += next - line;
        }
        *to = '\0';
        int r = address_space_parse(smaps, &p->space);
        return r == 0 && p->space.n != n ? -EBADMSG : r;
}

/* None of it, where it cannot be understood. */
static int look_at(struct process *p)
{
        AUTO_FREE char *smaps = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/smaps", (int)p->pid);
        int r = fd_read_file(AT_FDCWD, path, SMAPS_MAX, &smaps, NULL);
        if (r == 0)
                r = parse(smaps, p);
        if (r < 0) {
                address_space_done(&p->space);
                return r == -ENOMEM ? r : 0;
        }
        for (size_t i = 0; i < p->space.n; i++) {
                const struct area *a = &p->space.areas[i];
                p->late[i] &= a->private && !area_is_file(a) && !a->special;
        }
        return 0;
}

static struct process *find_pid(const struct late_memory *l, pid_t pid)
{
        const struct process key = {.pid = pid};

        return l->n ? bsearch(&key, l->processes, l->n, sizeof(key), compare_pids) : NULL;
}

/* The target keeps memory shared that two have with the same bounds, if they run the same program; here they may. */
static void leave_shared_out(struct process *parent, struct process *child)
{
        for (size_t i = 0, j = 0; i < parent->space.n && j < child->space.n;) {
                const struct area *a = &parent->space.areas[i], *b = &child->space.areas[j];
                if (a->start == b->start && a->end == b->end)
                        parent->late[i] = child->late[j] = false;
                if (a->start <= b->start)
                        i++;
                else
                        j++;
        }
}

struct marking {
        struct clean_pages *pages;
        pid_t number;
};

static int on_there(uint64_t start, uint64_t end, void *context)
{
        const struct marking *m = context;

        return clean_pages_add(m->pages, m->number, start, end);
}

static int on_guard(uint64_t start, uint64_t end, void *context)
{
        (void)start;
        (void)end;
        (void)context;
        return -EEXIST;
}

/* A kernel that does not tell them (before Linux 6.15) has none, or none that CRIU would restore. */
static bool has_guards(int pagemap, const struct area *a)
{
        static const struct scan_request guards = {.all_of = PAGE_GUARD, .returned = PAGE_GUARD};

        return page_scan(pagemap, &guards, a->start, a->end, on_guard, NULL) == -EEXIST;
}

/* What is there of an area: a mapping may be much larger. */
static int mark_process(const struct process *p, struct clean_pages *pages)
{
        static const struct scan_request there = {.inverted = PAGE_ZERO,
                                                  .all_of = PAGE_ZERO,
                                                  .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                                                  .returned = PAGE_PRESENT};
        struct marking marking = {pages, p->number};
        char path[64];
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)p->pid);
        AUTO_FD int pagemap = open(path, O_RDONLY | O_CLOEXEC);
        if (pagemap < 0)
                return errno == ENOENT || errno == ESRCH ? 0 : -errno;
        for (size_t i = 0; r == 0 && i < p->space.n; i++)
                if (p->late[i] && !has_guards(pagemap, &p->space.areas[i]))
                        r = page_scan(pagemap, &there, p->space.areas[i].start, p->space.areas[i].end, on_there,
                                      &marking);
        return r;
}

int late_memory_mark(struct late_memory *late, bool within, bool unshare, struct clean_pages *pages, struct error *err)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < late->n; i++)
                r = look_at(&late->processes[i]);
        for (size_t i = 0; r == 0 && !unshare && i < late->n; i++) {
                struct process *child = &late->processes[i], *parent = find_pid(late, child->parent);
                if (parent && parent != child)
                        leave_shared_out(parent, child);
        }
        for (size_t i = 0; i < late->n; i++) {
                struct process *p = &late->processes[i];
                p->number = within ? (pid_t)(p->image >> 8) : p->pid;
        }
        if (late->n)
                qsort(late->processes, late->n, sizeof(*late->processes), compare_numbers);
        for (size_t i = 0; r == 0 && i < late->n; i++)
                r = mark_process(&late->processes[i], pages);
        return r < 0 ? error_errno(err, -r, "cannot find out what memory may be sent late") : 0;
}

/* -- what was left out -----------------------------------------------------------------------------------------------
 */

static int flush_table(struct late_memory *l)
{
        int r = l->table_runs ? image_sender_left(l->sender, l->table_image, l->table_runs) : 0;

        if (r == 0) {
                l->table_runs = 0;
                l->table = NULL;
        }
        return r;
}

static int on_left(pid_t number, uint64_t vaddr, uint64_t n_pages, void *context)
{
        struct late_memory *l = context;
        const struct process key = {.number = number};
        const struct process *p = l->n ? bsearch(&key, l->processes, l->n, sizeof(key), compare_numbers) : NULL;
        int r = 0;

        if (!p)
                return -EINVAL;
        if (l->table_runs && (l->table_image != p->image || l->table_runs == RUNS_PER_FRAME))
                r = flush_table(l);
        if (r == 0 && !l->table)
                r = image_sender_reserve(l->sender, &l->table);
        if (r < 0)
                return r;
        l->table_image = p->image;
        page_span_put(l->table + (size_t)l->table_runs++ * RUN_BYTES,
                      &(struct page_span){.vaddr = vaddr, .n_pages = (uint32_t)n_pages});
        l->left_pages += n_pages;
        return 0;
}

int late_memory_left(struct late_memory *late, struct image_sender *sender, const struct clean_pages *pages,
                     struct error *err)
{
        late->sender = sender;
        int r = clean_pages_removed(pages, &late->cursor, on_left, late);
        if (r == 0)
                r = flush_table(late);
        return r < 0 && r != -EAGAIN ? error_errno(err, -r, "cannot tell what stays here for now") : r;
}

/* -- reading ---------------------------------------------------------------------------------------------------------
 */

static struct process *find_image(const struct late_memory *l, uint64_t image)
{
        for (size_t i = 0; i < l->n; i++)
                if (l->processes[i].image == image)
                        return &l->processes[i];
        return NULL;
}

ssize_t late_memory_read(uint64_t image, const struct page_span *spans, uint32_t n_spans, void *to, void *late)
{
        struct process *p = find_image(late, image);

        if (!p)
                return -ESRCH;
        if (p->memory < 0)
                p->memory = process_memory_open(p->pid);
        if (p->memory < 0)
                return p->memory;
        ssize_t n = process_memory_read_spans(p->memory, spans, n_spans, to);
        return n != 0 || process_has_memory(p->pid) ? n : -ESRCH;
}
