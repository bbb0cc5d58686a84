/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sender PID... | zeros MIB | few MIB | random MIB
 *
 * What the source's session does with memory, and what it costs: processor time for each GiB of reading alone, with the
 * digest, and with what is left out of what the target has; and how much that is. Of the private memory of running
 * processes, in their order, or of memory of one's own: zeros, pages of 1000 contents, pages of noise. The link takes
 * everything and throws it away; phaul-net's part (compression, TLS, TCP) is not in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "memory/address_space.h"
#include "memory/dedup.h"
#include "memory/image_stream.h"
#include "memory/page_table.h"
#include "memory/process_memory.h"

#define PLACES ((size_t)1 << 19)

struct link {
        uint8_t *slot;
        uint64_t bytes;
};

int link_bulk_reserve(struct link *link, void **ret_data)
{
        *ret_data = link->slot;
        return 0;
}

int link_bulk_commit(struct link *link, const struct bulk_frame *frame)
{
        link->bytes += frame->size;
        return 0;
}

bool link_bulk_idle(const struct link *link)
{
        (void)link;
        return true;
}

enum way { READ, DIGEST, DEDUP, WAYS };
static const char *const ways[WAYS] = {"read", "read, digest", "read, digest, left out"};

struct run {
        struct link link;
        struct image_sender *sender;
        enum way way;
        int memory;
        uint64_t image, zero_frame, pages;
        uint64_t next; /* pages from here on are gathered */
        uint32_t n;
        int result;
};

static double processor_s(void)
{
        struct timespec now;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int send_gathered(struct run *r)
{
        uint8_t *slot;

        if (!r->n)
                return 0;
        int result = image_sender_reserve(r->sender, &slot);
        if (result < 0)
                return result;
        ssize_t got = process_memory_read(r->memory, r->next, slot + RUN_TABLE_BYTES, (size_t)r->n * PAGE_BYTES);
        const uint32_t pages = got > 0 ? (uint32_t)got / PAGE_BYTES : 0;
        if (pages) {
                page_span_put(slot, &(struct page_span){r->next, pages});
                r->pages += pages;
                if (r->way == READ)
                        r->link.bytes += (uint64_t)got;
                else
                        result = image_sender_pages(r->sender, r->image, 1, pages);
        }
        r->n = 0;
        return result;
}

static int on_entries(uint64_t vaddr, const uint64_t *entries, size_t n, void *context)
{
        struct run *r = context;
        int result = 0;

        for (size_t i = 0; result == 0 && i < n; i++) {
                const uint64_t at = vaddr + i * PAGE_BYTES;
                if (!page_entry_has_contents(entries[i], r->zero_frame))
                        continue;
                if (r->n == PAGE_BATCH_MAX || (r->n && r->next + (uint64_t)r->n * PAGE_BYTES != at))
                        result = send_gathered(r);
                if (!r->n)
                        r->next = at;
                r->n++;
        }
        return result;
}

static int send_process(struct run *r, pid_t pid)
{
        struct address_space all = {0};
        struct error err = {0};
        char path[64];
        size_t n = 0;

        if (address_space_read(pid, &all, &err) < 0) {
                (void)fprintf(stderr, "%s\n", err.text);
                return -1;
        }
        for (size_t i = 0; i < all.n; i++)
                if (all.areas[i].private && !all.areas[i].special && !area_is_file(&all.areas[i]))
                        all.areas[n++] = all.areas[i];
        all.n = n;
        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
        AUTO_FD int pagemap = open(path, O_RDONLY | O_CLOEXEC);
        AUTO_FD int memory = process_memory_open(pid);
        r->memory = memory;
        r->image = PAGE_IMAGE(PAGE_IMAGE_TASK, (uint64_t)pid);
        r->zero_frame = page_table_zero_frame();
        int result = pagemap < 0 || memory < 0 ? -errno : page_table_walk(pagemap, &all, on_entries, r);
        if (result == 0)
                result = send_gathered(r);
        address_space_done(&all);
        return result;
}

static int measure(enum way way, const pid_t *pids, size_t n)
{
        struct run r = {.way = way, .link.slot = malloc(BULK_MAX)};
        uint64_t zero = 0, same = 0;

        if (!r.link.slot || image_sender_new(&r.link, true, &r.sender) < 0 ||
            (way == DEDUP && image_sender_dedup(r.sender, PLACES) < 0))
                return -ENOMEM;
        const double began = processor_s();
        int result = image_sender_round(r.sender, 1);
        for (size_t i = 0; result == 0 && i < n; i++)
                result = send_process(&r, pids[i]);
        const double took = processor_s() - began, gib = (double)r.pages * PAGE_BYTES / (1 << 30);
        image_sender_saved(r.sender, &zero, &same);
        if (result == 0)
                (void)printf("%-24s %8.3f s/GiB   %9.1f MB of %9.1f sent, %9.1f zeros, %9.1f there already\n",
                             ways[way], gib > 0 ? took / gib : 0, (double)r.link.bytes / 1e6,
                             (double)r.pages * PAGE_BYTES / 1e6, (double)zero / 1e6, (double)same / 1e6);
        image_sender_free(r.sender);
        free(r.link.slot);
        return result;
}

/* Memory of this process, which is then what is sent. */
static int make_memory(const char *kind, size_t mib)
{
        const size_t pages = mib * 256;
        uint64_t *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t random = 1;

        if (memory == MAP_FAILED)
                return -1;
        for (size_t i = 0; i < pages; i++) {
                uint64_t *page = memory + i * (PAGE_BYTES / 8);
                if (strcmp(kind, "few") == 0)
                        random = 1 + i * 7 % 1000;
                for (size_t k = 0; k < PAGE_BYTES / 8; k++) {
                        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
                        page[k] = strcmp(kind, "zeros") == 0 ? 0 : random;
                }
        }
        return 0;
}

int main(int argc, char **argv)
{
        pid_t pids[256] = {getpid()};
        size_t n = 1;

        if (argc < 2)
                return 2;
        if (argv[1][0] >= 'a') {
                if (argc != 3 || make_memory(argv[1], strtoul(argv[2], NULL, 10)) < 0)
                        return 2;
        } else {
                for (n = 0; n + 1 < (size_t)argc && n < 256; n++)
                        pids[n] = (pid_t)strtol(argv[n + 1], NULL, 10);
        }
        for (enum way way = READ; way < WAYS; way++) {
                int r = measure(way, pids, n);
                if (r < 0) {
                        (void)fprintf(stderr, "%s\n", strerror(-r));
                        return 1;
                }
        }
        return 0;
}
