/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "criu/lazy_areas.h"
#include "criu/pagemap_file.h"
#include "criu/pagemap_writer.h"

/* What is written when all pages are here: the pagemaps, and who may wait for what. */

static void pagemap_name(const struct image *image, char *ret, size_t size)
{
        (void)snprintf(ret, size, "pagemap-%s%" PRIu64 ".img",
                       (image->image & 0xff) == PAGE_IMAGE_SHMEM ? "shmem-" : "", image->image >> 8);
}

static int make_pagemap(struct pagemap_writer *w, const struct image *image, uint32_t level, struct pagemap_file **ret)
{
        char name[64];

        if (image->stored[level] == 0) {
                AUTO_FD int fd = pagemap_writer_open_pages(w, image, level, O_WRONLY | O_CREAT | O_EXCL);
                if (fd < 0)
                        return fd;
        }
        pagemap_name(image, name, sizeof(name));
        return pagemap_file_new(w->levels[level].dir_fd, name, image->pages_id, ret);
}

/* What a level has, and what it leaves to those before it. */
static int write_level(struct pagemap_writer *w, const struct image *image, uint32_t level)
{
        struct pagemap_file *file;
        int r = make_pagemap(w, image, level, &file);

        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && i < image->index.n_known; i++) {
                const struct page_run *run = &image->index.known[i];
                if (run->level <= level)
                        r = pagemap_file_add(file, run->vaddr, run->n_pages,
                                             run->level == level ? PE_PRESENT : PE_PARENT);
        }
        int closed = pagemap_file_close(file);
        return r < 0 ? r : closed;
}

/* A part of what the frozen task had, wholly within the lazy areas or wholly outside. */
struct part {
        uint64_t vaddr, n_pages;
        uint64_t position; /* in the file of the last level, for what is there */
        uint32_t flags;
        bool lazy;
};

typedef int (*part_fn)(const struct pagemap_writer *w, const struct image *image, const struct part *part,
                       void *context);

struct parts {
        const struct lazy_area *areas; /* those that end behind what was looked at last */
        size_t n_areas;
        uint64_t end, position;
};

static int each_part(const struct pagemap_writer *w, const struct image *image, struct parts *p,
                     const struct map_entry *e, part_fn fn, void *context)
{
        if (e->vaddr < p->end)
                return -EBADMSG;
        p->end = e->vaddr + e->n_pages * PAGE_BYTES;
        for (uint64_t vaddr = e->vaddr, until; vaddr < p->end; vaddr = until) {
                while (p->n_areas && p->areas->end <= vaddr) {
                        p->areas++;
                        p->n_areas--;
                }
                const bool lazy = p->n_areas && p->areas->start <= vaddr;
                until = !p->n_areas ? p->end : lazy ? p->areas->end : p->areas->start;
                if (until > p->end)
                        until = p->end;
                const struct part part = {.vaddr = vaddr,
                                          .n_pages = (until - vaddr) / PAGE_BYTES,
                                          .position = p->position,
                                          .flags = e->flags,
                                          .lazy = lazy};
                int r = fn(w, image, &part, context);
                if (r < 0)
                        return r;
                if (e->flags & PE_PRESENT)
                        p->position += part.n_pages;
        }
        return 0;
}

/* The entry that begins first, of lists that are not through; NULL: all are. */
static const struct map_entry *take_first(const struct map_entries *lists[static 3], size_t next[static 3])
{
        const struct map_entry *first = NULL;
        size_t from = 0;

        for (size_t i = 0; i < 3; i++)
                if (next[i] < lists[i]->n && (!first || lists[i]->list[next[i]].vaddr < first->vaddr)) {
                        first = &lists[i]->list[next[i]];
                        from = i;
                }
        next[from]++;
        return first;
}

/* What was dumped and what was left out, in order of addresses; -EBADMSG when they overlap. */
static int each_entry(const struct pagemap_writer *w, const struct image *image, part_fn fn, void *context)
{
        const struct map_entries *lists[3] = {&image->last, &image->kept, &image->left};
        size_t next[3] = {0};
        struct parts parts = {0};
        const struct map_entry *e;
        int r = 0;

        if (w->lazy && (image->image & 0xff) == PAGE_IMAGE_TASK)
                parts.areas = lazy_areas_of(w->lazy, (uint32_t)(image->image >> 8), &parts.n_areas);
        while (r == 0 && (e = take_first(lists, next)))
                r = each_part(w, image, &parts, e, fn, context);
        return r;
}

/*
 * CRIU's own idea of what is lazy, which it noted when it dumped, does not count. An eager restore does not look at the
 * flag, so it does no harm when it comes to that after all.
 */
static int write_part(const struct pagemap_writer *w, const struct image *image, const struct part *part, void *context)
{
        struct pagemap_file *file = context;
        uint32_t flags = part->flags & ~MAP_LEFT;

        (void)image;
        if (w->lazy && flags & (PE_PRESENT | PE_PARENT))
                flags = (flags & ~(uint32_t)PE_LAZY) | (part->lazy ? PE_LAZY : 0);
        return pagemap_file_add(file, part->vaddr, part->n_pages, flags);
}

static int write_last(struct pagemap_writer *w, const struct image *image)
{
        struct pagemap_file *file;

        int r = make_pagemap(w, image, w->n_levels - 1, &file);
        if (r < 0)
                return r;
        r = each_entry(w, image, write_part, file);
        int closed = pagemap_file_close(file);
        return r < 0 ? r : closed;
}

/* The levels from the first that has something of it. */
static int finish_image(struct pagemap_writer *w, const struct image *image)
{
        bool begun = false;
        int r = 0;

        for (uint32_t level = 0; r == 0 && level + 1 < w->n_levels; level++) {
                begun |= image->stored[level] != 0;
                if (begun)
                        r = write_level(w, image, level);
        }
        return r < 0 ? r : write_last(w, image);
}

/* Of a task that was gone before the others were frozen: nobody will look for it. */
static int drop_image(struct pagemap_writer *w, struct image *image)
{
        char name[32];

        (void)snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", image->pages_id);
        for (uint32_t level = 0; level < w->n_levels; level++) {
                if (image->stored[level] && unlinkat(w->levels[level].dir_fd, name, 0) < 0)
                        return -errno;
                w->stored -= image->stored[level];
                image->stored[level] = 0;
        }
        return 0;
}

static int check_left(const struct pagemap_writer *w, const struct image *image, const struct part *part, void *context)
{
        (void)w;
        (void)image;
        (void)context;
        return part->flags & MAP_LEFT && !part->lazy ? -EXDEV : 0;
}

/* The places of what comes later: a hole in a file that has its size. */
static int place_left(struct pagemap_writer *w, struct image *image, struct error *err)
{
        if (!image->left.n)
                return 0;
        int r = each_entry(w, image, check_left, NULL);
        if (r == -EXDEV)
                return error_set(err, EBADMSG,
                                 "memory of process %" PRIu64
                                 " stayed on the source, and has to be here before it runs",
                                 image->image >> 8);
        if (r == 0)
                r = page_index_settle(&image->index);
        if (r == 0 && image->stored[w->left_level]) {
                AUTO_FD int fd = pagemap_writer_open_pages(w, image, w->left_level, O_WRONLY | O_CREAT | O_EXCL);
                if (fd < 0)
                        r = fd;
                else if (ftruncate(fd, (off_t)(image->stored[w->left_level] * PAGE_BYTES)) < 0)
                        r = -errno;
        }
        return r < 0 ? pagemap_writer_failed(w, r, err) : 0;
}

int pagemap_writer_finish(struct pagemap_writer *writer, uint64_t *ret_pages, struct error *err)
{
        int r = pagemap_writer_check(writer, err);

        if (r < 0)
                return r;
        if (writer->round && !writer->last)
                return error_set(err, EBADMSG, "the pages end within a round");
        for (struct image *i = writer->first; i; i = i->next) {
                r = place_left(writer, i, err);
                if (r < 0)
                        return r;
        }
        r = pagemap_writer_close(writer);
        if (r == 0 && !writer->level_open) {
                writer->last = true; /* also when there were no rounds */
                r = pagemap_writer_level(writer);
        }
        for (struct image *i = writer->first; r == 0 && i; i = i->next)
                r = i->opened ? finish_image(writer, i) : drop_image(writer, i);
        if (r < 0)
                return pagemap_writer_failed(writer, r, err);
        writer->finished = true;
        *ret_pages = writer->pages;
        return 0;
}

/* -- what is owed to the tasks ------------------------------------------------------------------------------------- */

struct owing {
        int (*each)(const struct page_owed *owed, void *context);
        void *context;
};

static int tell(const struct pagemap_writer *w, const struct image *image, uint32_t level, uint64_t vaddr,
                uint64_t n_pages, uint64_t position, bool left, const struct owing *o)
{
        const struct page_owed owed = {.pid = (uint32_t)(image->image >> 8),
                                       .round = w->levels[level].round,
                                       .pages_id = image->pages_id,
                                       .file_pages = image->stored[level],
                                       .vaddr = vaddr,
                                       .n_pages = n_pages,
                                       .position = position,
                                       .left = left};

        return o->each(&owed, o->context);
}

static int owe_part(const struct pagemap_writer *w, const struct image *image, const struct part *part, void *context)
{
        const uint64_t end = part->vaddr + part->n_pages * PAGE_BYTES;
        const struct owing *o = context;
        int r = 0;

        if (!part->lazy)
                return 0;
        if (part->flags & PE_PRESENT)
                return tell(w, image, w->n_levels - 1, part->vaddr, part->n_pages, part->position, false, o);
        if (!(part->flags & PE_PARENT))
                return 0;
        for (uint64_t vaddr = part->vaddr, until; r == 0 && vaddr < end; vaddr = until) {
                const struct page_run *run = page_index_find(&image->index, vaddr);
                if (!run || run->vaddr > vaddr)
                        return -EBADMSG;
                until = page_run_end(run) < end ? page_run_end(run) : end;
                r = tell(w, image, run->level, vaddr, (until - vaddr) / PAGE_BYTES,
                         run->position + (vaddr - run->vaddr) / PAGE_BYTES, part->flags & MAP_LEFT, o);
        }
        return r;
}

int pagemap_writer_owed(const struct pagemap_writer *writer, int (*each)(const struct page_owed *owed, void *context),
                        void *context)
{
        struct owing owing = {.each = each, .context = context};
        int r = writer->finished ? 0 : -EINVAL;

        for (const struct image *i = writer->lazy ? writer->first : NULL; r == 0 && i; i = i->next)
                if (i->opened && (i->image & 0xff) == PAGE_IMAGE_TASK)
                        r = each_entry(writer, i, owe_part, &owing);
        return r;
}

const char *page_owed_file(const struct page_owed *owed, char ret[static PAGE_OWED_FILE])
{
        if (owed->round)
                (void)snprintf(ret, PAGE_OWED_FILE, "round-%u/pages-%" PRIu32 ".img", owed->round, owed->pages_id);
        else
                (void)snprintf(ret, PAGE_OWED_FILE, "pages-%" PRIu32 ".img", owed->pages_id);
        return ret;
}

void pagemap_writer_lazy(struct pagemap_writer *writer, const struct lazy_areas *areas)
{
        writer->lazy = areas;
}
