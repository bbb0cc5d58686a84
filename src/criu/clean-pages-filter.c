/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Loaded into `criu dump` (LD_PRELOAD) to leave out pages that are on the target already, or go there after the dump:
 * CRIU asks the kernel which pages a process has, by PAGEMAP_SCAN, before Linux 6.7 by reading the entries of
 * /proc/PID/pagemap, and does not hear of those (clean_pages.h). CRIU has no option for that; criu/pagemap-cache.c is
 * where it asks.
 *
 * Each page that is removed is marked as such before CRIU goes on. Questions for other things (guard pages), other
 * files, or processes that nothing is known of pass through untouched, and so does everything when the memory to be
 * shared is not what it should be. Nothing here allocates, locks or prints.
 */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu/clean_pages.h"
#include "base/kernel_abi.h"

#define PAGE UINT64_C(4096)
#define PAGES_MAX (INT64_C(1) << 52)
#define ENTRY_USED (UINT64_C(3) << 62) /* present, swapped: Documentation/admin-guide/mm/pagemap.rst */

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset);
int ioctl(int fd, unsigned long request, ...);

/* What is there already, and what is clean in the other sense: it need not be in the dump. Each has marks of its own.
 */
static struct clean_header *kept, *late;

static struct clean_header *attach(const char *variable)
{
        const char *text = getenv(variable);
        struct stat st;
        char *end;

        if (!text)
                return NULL;
        long fd = strtol(text, &end, 10);
        if (*end || fd < 0 || fd > INT_MAX || fstat((int)fd, &st) < 0 ||
            st.st_size < (off_t)sizeof(struct clean_header))
                return NULL;
        void *memory = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
        if (memory == MAP_FAILED)
                return NULL;
        const struct clean_header *header = memory;
        const uint64_t room = ((uint64_t)st.st_size - sizeof(*header)) / sizeof(struct clean_window);
        if (header->abi != CLEAN_ABI || header->n_windows > room) {
                (void)munmap(memory, (size_t)st.st_size);
                return NULL;
        }
        return memory;
}

__attribute__((constructor)) static void attach_both(void)
{
        kept = attach(CLEAN_PAGES_ENV);
        late = attach(LATE_PAGES_ENV);
}

/* The process whose page tables a descriptor shows, or 0: its name ends in "/PID/pagemap". */
static int32_t pid_of(int fd)
{
        char link[40], path[PATH_MAX];

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof(path) - 1);
        if (n <= 0)
                return 0;
        path[n] = '\0';
        char *file = strrchr(path, '/');
        if (!file || strcmp(file, "/pagemap") != 0)
                return 0;
        *file = '\0';
        const char *number = strrchr(path, '/');
        number = number ? number + 1 : path;
        char *end;
        long pid = strtol(number, &end, 10);
        return *end || end == number || pid <= 0 || pid > INT_MAX ? 0 : (int32_t)pid;
}

/* The first window of `pid` that ends behind `address`, or n_windows. */
static uint32_t find_window(const struct clean_header *shared, int32_t pid, uint64_t address)
{
        uint32_t low = 0, high = shared->n_windows;

        while (low < high) {
                const uint32_t middle = low + (high - low) / 2;
                const struct clean_window *w = &shared->windows[middle];
                if (w->pid < pid || (w->pid == pid && w->start + CLEAN_WINDOW_BYTES <= address))
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* How far the pages from `address` on are all clean (*ret_clean) or all not, up to `end`. */
static uint64_t run_end(const struct clean_header *shared, int32_t pid, uint64_t address, uint64_t end, bool *ret_clean)
{
        bool first = true;

        *ret_clean = false;
        if (!shared)
                return end;
        uint32_t i = find_window(shared, pid, address);
        while (address < end) {
                const struct clean_window *w = i < shared->n_windows ? &shared->windows[i] : NULL;
                const bool outside = !w || w->pid != pid || w->start > address;
                const uint64_t page = outside ? 0 : (address - w->start) / PAGE;
                const bool clean = !outside && w->clean[page / 64] >> page % 64 & 1;

                if (first)
                        *ret_clean = clean;
                else if (clean != *ret_clean)
                        return address;
                first = false;
                if (outside)
                        address = w && w->pid == pid && w->start < end ? w->start : end;
                else
                        address += PAGE;
                if (!outside && address == w->start + CLEAN_WINDOW_BYTES)
                        i++;
        }
        return end;
}

static void mark(struct clean_header *shared, int32_t pid, uint64_t address, uint64_t end)
{
        for (uint32_t i = find_window(shared, pid, address); address < end; address += PAGE) {
                struct clean_window *w = &shared->windows[i];
                if (address >= w->start + CLEAN_WINDOW_BYTES)
                        w = &shared->windows[++i];
                const uint64_t page = (address - w->start) / PAGE;
                w->removed[page / 64] |= UINT64_C(1) << page % 64;
        }
}

/*
 * Regions without their clean pages. A region may fall into several, so that there may be more than fit: the walk then
 * ends (for the asker) where the first one that does not fit begins, and is taken up there by the next question.
 */
static long filter(int32_t pid, struct scan_request *arg, long n)
{
        /* NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel's way to say where */
        struct scan_region *regions = (struct scan_region *)(uintptr_t)arg->regions;
        /* What is written never overtakes what is still to be read: both are in one array, the rest waits in here. */
        enum { LEFT_MAX = 4096 };
        static struct scan_region left[LEFT_MAX];
        const size_t room = arg->regions_size < LEFT_MAX ? arg->regions_size : LEFT_MAX;
        size_t n_left = 0;

        for (long i = 0; i < n; i++) {
                for (uint64_t at = regions[i].start, next; at < regions[i].end; at = next) {
                        bool is_kept, is_late = false;
                        next = run_end(kept, pid, at, regions[i].end, &is_kept);
                        if (!is_kept)
                                next = run_end(late, pid, at, next, &is_late);
                        if (is_kept || is_late) {
                                mark(is_kept ? kept : late, pid, at, next);
                                continue;
                        }
                        if (n_left == room) {
                                arg->walk_end = at;
                                memcpy(regions, left, n_left * sizeof(*left));
                                return (long)n_left;
                        }
                        left[n_left++] = (struct scan_region){at, next, regions[i].categories};
                }
        }
        memcpy(regions, left, n_left * sizeof(*left));
        return (long)n_left;
}

static bool is_about_pages(const struct scan_request *arg)
{
        return arg->size >= sizeof(*arg) && arg->flags == 0 && arg->regions && arg->regions_size &&
               (arg->any_of & PAGE_PRESENT) && (arg->returned & PAGE_PRESENT);
}

int ioctl(int fd, unsigned long request, ...)
{
        va_list list;

        va_start(list, request);
        void *argument = va_arg(list, void *);
        va_end(list);
        const long n = syscall(SYS_ioctl, fd, request, argument);
        if (request != SCAN_IOCTL || (!kept && !late) || n < 0 || !is_about_pages(argument))
                return (int)n;
        const int saved = errno;
        const int32_t pid = pid_of(fd);
        errno = saved;
        atomic_fetch_add(&(kept ? kept : late)->scans, 1);
        return (int)(pid ? filter(pid, argument, n) : n);
}

/* Entries from that of the page at `address`; clean pages are not there. */
static void filter_entries(int32_t pid, uint64_t *entries, size_t n, uint64_t address)
{
        const uint64_t end = address + n * PAGE;

        for (uint64_t next; address < end; address = next) {
                bool is_kept, is_late = false;
                next = run_end(kept, pid, address, end, &is_kept);
                if (!is_kept)
                        next = run_end(late, pid, address, next, &is_late);
                for (uint64_t at = address; at < next; at += PAGE, entries++)
                        if ((is_kept || is_late) && *entries & ENTRY_USED) {
                                *entries = 0;
                                mark(is_kept ? kept : late, pid, at, at + PAGE);
                        }
        }
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
{
        const ssize_t n = (ssize_t)syscall(SYS_pread64, fd, buffer, size, offset);
        const bool whole = n > 0 && n % (ssize_t)sizeof(uint64_t) == 0 && offset % (off64_t)sizeof(uint64_t) == 0;

        if ((!kept && !late) || !whole || (uintptr_t)buffer % sizeof(uint64_t) ||
            offset / (off64_t)sizeof(uint64_t) > PAGES_MAX)
                return n;
        const int saved = errno;
        const int32_t pid = pid_of(fd);
        errno = saved;
        if (pid) {
                atomic_fetch_add(&(kept ? kept : late)->scans, 1);
                filter_entries(pid, buffer, (size_t)n / sizeof(uint64_t), (uint64_t)offset / sizeof(uint64_t) * PAGE);
        }
        return n;
}
