/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/lazy_areas.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "criu/images.pb-c.h"
#include "criu/page_server.h"

/* criu/include/magic.h: every image but the inventory begins with the first, then its own. Little-endian words. */
#define MAGIC_COMMON 0x54564319U
#define MAGIC_TASKS 0x50273030U
#define MAGIC_MEMORY 0x57492820U

/* criu/include/image.h, bits of an area's status. */
#define AREA_REGULAR (1U << 0)
#define AREA_STACK (1U << 1)
#define AREA_HEAP (1U << 5)
#define AREA_ANONYMOUS_PRIVATE (1U << 9)
#define AREA_GUARD (1U << 16) /* since CRIU 4.2: no area, but a part of one that traps (MADV_GUARD_INSTALL) */

#define IMAGE_MAX (256U << 20)
#define ENTRY_MAX (128U << 20)
#define TASKS_MAX (1U << 17)

/* An area as the image has it, with what became of it. */
struct found_area {
        uint64_t start, end;
        bool can, shared;
};

struct task {
        uint32_t pid, ppid, program;
        struct found_area *found;
        size_t n_found;
        struct lazy_area *areas;
        size_t n_areas;
};

struct lazy_areas {
        struct task *tasks; /* by rising pid */
        size_t n, room;
};

void lazy_areas_free(struct lazy_areas *areas)
{
        if (!areas)
                return;
        for (size_t i = 0; i < areas->n; i++) {
                free(areas->tasks[i].found);
                free(areas->tasks[i].areas);
        }
        free(areas->tasks);
        free(areas);
}

/* -- image files -------------------------------------------------------------------------------------------------- */

static uint32_t word(const char *at)
{
        const unsigned char *b = (const unsigned char *)at;

        return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Each entry of an image: its bytes. 0, -ENOENT, -EBADMSG, or what `each` returned. */
static int each_entry(int images_fd, const char *name, uint32_t magic,
                      int (*each)(const uint8_t *data, size_t size, void *context), void *context)
{
        AUTO_FREE char *image = NULL;
        size_t size;

        int r = fd_read_file(images_fd, name, IMAGE_MAX, &image, &size);
        if (r < 0)
                return r;
        if (size < 8 || word(image) != MAGIC_COMMON || word(image + 4) != magic)
                return -EBADMSG;
        for (size_t at = 8; at < size;) {
                if (size - at < 4)
                        return -EBADMSG;
                const uint32_t n = word(image + at);
                at += 4;
                if (n > ENTRY_MAX || n > size - at)
                        return -EBADMSG;
                r = each((const uint8_t *)image + at, n, context);
                if (r < 0)
                        return r;
                at += n;
        }
        return 0;
}

static int take_task(const uint8_t *data, size_t size, void *context)
{
        struct lazy_areas *all = context;
        CriuImage__Task *entry = criu_image__task__unpack(NULL, size, data);

        if (!entry)
                return -EBADMSG;
        const bool good = entry->has_pid && entry->pid > 0 && entry->pid <= INT32_MAX && entry->has_ppid;
        const struct task task = {.pid = entry->pid, .ppid = entry->ppid};
        criu_image__task__free_unpacked(entry, NULL);
        if (!good || all->n == TASKS_MAX)
                return -EBADMSG;
        if (!all->tasks || all->n == all->room) {
                size_t room = all->room ? 2 * all->room : 16;
                struct task *grown = reallocarray(all->tasks, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                all->tasks = grown;
                all->room = room;
        }
        all->tasks[all->n++] = task;
        return 0;
}

/* A child finds such memory empty. Owed to its parent it would be owed to it, too. */
static bool is_wiped_on_fork(const CriuImage__Area *a)
{
        return a->madv >> MADV_WIPEONFORK & 1;
}

/* Nothing special: CRIU's restorer reads the vdso, makes rings of asynchronous I/O and shadow stacks, … */
static bool can_be_lazy(const CriuImage__Area *a)
{
        const uint32_t wanted = MAP_PRIVATE | MAP_ANONYMOUS, status = AREA_REGULAR | AREA_ANONYMOUS_PRIVATE;

        return (a->flags & wanted) == wanted && !(a->flags & (MAP_LOCKED | MAP_HUGETLB)) &&
               (a->status & ~(AREA_STACK | AREA_HEAP)) == status && !is_wiped_on_fork(a);
}

/*
 * Of the areas with guards, none: who puts guards in will put in more, also where pages are still to come, and of
 * those no userfaultfd tells (before Linux 6.19 the kernel even lets us put a page in the place of one).
 */
static int leave_guarded_out(const CriuImage__Memory *memory, struct task *task)
{
        for (size_t i = 0, j = 0; i < memory->n_areas; i++) {
                const CriuImage__Area *guard = memory->areas[i];
                if (!(guard->status & AREA_GUARD))
                        continue;
                if (guard->start >= guard->end)
                        return -EBADMSG;
                while (j > 0 && task->found[j - 1].end > guard->start)
                        j--;
                while (j < task->n_found && task->found[j].end <= guard->start)
                        j++;
                for (; j < task->n_found && task->found[j].start < guard->end; j++)
                        task->found[j].can = false;
        }
        return 0;
}

static int take_memory(const uint8_t *data, size_t size, void *context)
{
        struct task *task = context;
        uint64_t end = 0;
        int r = 0;

        if (task->found)
                return -EBADMSG;
        CriuImage__Memory *memory = criu_image__memory__unpack(NULL, size, data);
        if (!memory)
                return -EBADMSG;
        task->program = memory->exe_file_id;
        task->found = calloc(memory->n_areas + 1, sizeof(*task->found));
        if (!task->found)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < memory->n_areas; i++) {
                const CriuImage__Area *a = memory->areas[i];
                if (a->status & AREA_GUARD)
                        continue; /* they stand behind all areas, and have no pages */
                if (a->start % PAGE_BYTES || a->end % PAGE_BYTES || a->start >= a->end || a->start < end)
                        r = -EBADMSG;
                else
                        task->found[task->n_found++] =
                                (struct found_area){.start = a->start, .end = a->end, .can = can_be_lazy(a)};
                end = a->end;
        }
        if (r == 0)
                r = leave_guarded_out(memory, task);
        criu_image__memory__free_unpacked(memory, NULL);
        return r;
}

/* -- what is shared ----------------------------------------------------------------------------------------------- */

static int compare_tasks(const void *a, const void *b)
{
        uint32_t x = ((const struct task *)a)->pid, y = ((const struct task *)b)->pid;

        return x < y ? -1 : x > y;
}

static struct task *find_task(const struct lazy_areas *all, uint32_t pid)
{
        const struct task key = {.pid = pid};

        return all->n ? bsearch(&key, all->tasks, all->n, sizeof(key), compare_tasks) : NULL;
}

/* A parent may itself have inherited what it hands on: so it is marked in both. */
static void mark_shared(struct task *parent, struct task *child)
{
        for (size_t i = 0, j = 0; i < parent->n_found && j < child->n_found;) {
                struct found_area *a = &parent->found[i], *b = &child->found[j];
                if (a->start == b->start && a->end == b->end)
                        a->shared = b->shared = true;
                if (a->start <= b->start)
                        i++;
                else
                        j++;
        }
}

/* What is left, areas that touch as one. */
static int select_areas(struct task *task)
{
        task->areas = calloc(task->n_found + 1, sizeof(*task->areas));
        if (!task->areas)
                return -ENOMEM;
        for (size_t i = 0; i < task->n_found; i++) {
                const struct found_area *f = &task->found[i];
                struct lazy_area *last = task->n_areas ? &task->areas[task->n_areas - 1] : NULL;
                if (!f->can || f->shared)
                        continue;
                if (last && last->end == f->start)
                        last->end = f->end;
                else
                        task->areas[task->n_areas++] = (struct lazy_area){.start = f->start, .end = f->end};
        }
        return 0;
}

static int read_memories(int images_fd, struct lazy_areas *all, struct error *err)
{
        char name[32];

        for (size_t i = 0; i < all->n; i++) {
                if (i && all->tasks[i].pid == all->tasks[i - 1].pid)
                        return error_set(err, EBADMSG, "the image of the task tree has %" PRIu32 " twice",
                                         all->tasks[i].pid);
                (void)snprintf(name, sizeof(name), "mm-%" PRIu32 ".img", all->tasks[i].pid);
                int r = each_entry(images_fd, name, MAGIC_MEMORY, take_memory, &all->tasks[i]);
                /* The dead have no memory. */
                if (r < 0 && r != -ENOENT)
                        return error_errno(err, -r, "cannot understand the image %s", name);
        }
        return 0;
}

int lazy_areas_read(int images_fd, bool unshare, struct lazy_areas **ret, struct error *err)
{
        CLEANUP(lazy_areas_free_ptr) struct lazy_areas *all = calloc(1, sizeof(*all));

        if (!all)
                return error_set(err, ENOMEM, "out of memory");
        int r = each_entry(images_fd, "pstree.img", MAGIC_TASKS, take_task, all);
        if (r < 0)
                return error_errno(err, -r, "cannot understand the image of the task tree");
        if (all->n)
                qsort(all->tasks, all->n, sizeof(*all->tasks), compare_tasks);
        r = read_memories(images_fd, all, err);
        if (r < 0)
                return r;
        for (size_t i = 0; !unshare && i < all->n; i++) {
                struct task *parent = find_task(all, all->tasks[i].ppid);
                if (parent && parent != &all->tasks[i] && parent->program == all->tasks[i].program)
                        mark_shared(parent, &all->tasks[i]);
        }
        for (size_t i = 0; i < all->n; i++)
                if (select_areas(&all->tasks[i]) < 0)
                        return error_set(err, ENOMEM, "out of memory");
        *ret = TAKE_PTR(all);
        return 0;
}

const struct lazy_area *lazy_areas_of(const struct lazy_areas *areas, uint32_t pid, size_t *ret_n)
{
        const struct task *task = find_task(areas, pid);

        *ret_n = task ? task->n_areas : 0;
        return task ? task->areas : NULL;
}

bool lazy_areas_need_permission(int images_fd)
{
        int fd = openat(images_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);

        if (!dir && fd >= 0)
                (void)close(fd);
        for (const struct dirent *e; dir && (e = readdir(dir));)
                if (strncmp(e->d_name, "userns-", 7) == 0)
                        return true;
        return false;
}
