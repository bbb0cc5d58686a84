/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/page_table.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "memory/page_scan.h"

#define PAGE 4096U
#define PORTION 4096U      /* entries */
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

struct walk {
        int pagemap;
        page_entries_fn found;
        void *context;
};

static int on_used(uint64_t start, uint64_t end, void *context)
{
        const struct walk *w = context;

        return read_entries(w->pagemap, start, end, w->found, w->context);
}

int page_table_walk(int pagemap, const struct address_space *space, page_entries_fn found, void *context)
{
        static const struct scan_request used = {.any_of = PAGE_PRESENT | PAGE_SWAPPED, .returned = PAGE_PRESENT};
        struct walk walk = {pagemap, found, context};
        bool scans = true;

        for (size_t i = 0; i < space->n; i++) {
                const struct area *area = &space->areas[i];
                int r = scans ? page_scan(pagemap, &used, area->start, area->end, on_used, &walk) : -ENOTTY;
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
