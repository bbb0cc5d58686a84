/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/page_table.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/kernel_abi.h"

#define PAGE 4096U
#define PORTION 4096U /* entries */
#define REGIONS 512U
#define SWAP_TYPES 16U     /* far more than anybody has swap files; the kernel's own types begin after 20 of them */
#define SWAP_TYPE_MASK 31U /* MAX_SWAPFILES_SHIFT is 5 */

/* Two pages, because there are machines where each read one gets a frame of its own. */
uint64_t page_table_zero_frame(void)
{
        uint64_t entries[2] = {0};
        volatile const char *memory = mmap(NULL, 2L * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (memory == MAP_FAILED)
                return 0;
        AUTO_FD int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        const off_t at = (off_t)((uintptr_t)memory / PAGE * sizeof(entries[0]));
        if (fd < 0 || memory[0] != memory[PAGE] || pread(fd, entries, sizeof(entries), at) != sizeof(entries))
                entries[0] = 0;
        (void)munmap((void *)memory, 2L * PAGE);
        return entries[0] & ENTRY_PRESENT && entries[0] == entries[1] ? entries[0] & ENTRY_FRAME : 0;
}

bool page_entry_has_contents(uint64_t entry, uint64_t zero_frame)
{
        const uint64_t frame = entry & ENTRY_FRAME;

        if (entry & ENTRY_PRESENT)
                return !(entry & ENTRY_FILE) && (frame == 0 || frame != zero_frame);
        return entry & ENTRY_SWAPPED && (frame & SWAP_TYPE_MASK) < SWAP_TYPES;
}

/* The entries of [start, end), in portions. */
static int read_entries(int pagemap, uint64_t start, uint64_t end, page_entries_fn found, void *context)
{
        uint64_t entries[PORTION];

        for (uint64_t vaddr = start; vaddr < end;) {
                const uint64_t left = (end - vaddr) / PAGE;
                const size_t n = left < PORTION ? (size_t)left : PORTION;
                ssize_t got = pread(pagemap, entries, n * sizeof(*entries), (off_t)(vaddr / PAGE * sizeof(*entries)));
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return -errno;
                if (got < (ssize_t)sizeof(*entries))
                        return -EIO;
                const size_t whole = (size_t)got / sizeof(*entries);
                int r = found(vaddr, entries, whole, context);
                if (r < 0)
                        return r;
                vaddr += whole * PAGE;
        }
        return 0;
}

/* Where there is anything, the kernel tells of itself: -ENOTTY before Linux 6.7. */
static int walk_used(int pagemap, const struct area *area, page_entries_fn found, void *context)
{
        struct scan_region regions[REGIONS];
        uint64_t done = area->start;

        for (uint64_t start = area->start; start < area->end;) {
                struct scan_request q = {.size = sizeof(q),
                                         .start = start,
                                         .end = area->end,
                                         .regions = (uintptr_t)regions,
                                         .regions_size = REGIONS,
                                         .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                                         .returned = PAGE_PRESENT | PAGE_SWAPPED};
                int n = ioctl(pagemap, SCAN_IOCTL, &q);
                if (n < 0)
                        return -errno;
                if (q.walk_end <= start || q.walk_end > area->end || n > (int)REGIONS)
                        return -EIO;
                for (int i = 0; i < n; i++) {
                        /* Some may be told twice (see track_uffd.c). */
                        const uint64_t from = regions[i].start > done ? regions[i].start : done;
                        int r = from < regions[i].end ? read_entries(pagemap, from, regions[i].end, found, context) : 0;
                        if (r < 0)
                                return r;
                        done = regions[i].end > done ? regions[i].end : done;
                }
                start = q.walk_end;
        }
        return 0;
}

int page_table_walk(int pagemap, const struct address_space *space, page_entries_fn found, void *context)
{
        bool scans = true;

        for (size_t i = 0; i < space->n; i++) {
                const struct area *area = &space->areas[i];
                int r = scans ? walk_used(pagemap, area, found, context) : -ENOTTY;
                if (r == -ENOTTY) {
                        scans = false;
                        r = area->end - area->start <= PAGE_TABLE_AREA_MAX
                                    ? read_entries(pagemap, area->start, area->end, found, context)
                                    : 0;
                }
                if (r < 0)
                        return r;
        }
        return 0;
}
