/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/process_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int process_memory_open(pid_t pid)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd >= 0 ? fd : errno == ENOENT ? -ESRCH : -errno;
}

ssize_t process_memory_read(int fd, uint64_t vaddr, void *to, size_t size)
{
        size_t done = 0;

        while (done < size) {
                ssize_t n = pread(fd, (char *)to + done, size - done, (off_t)(vaddr + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno != EIO && errno != EFAULT)
                        return -errno;
                if (n <= 0)
                        break;
                done += (size_t)n;
        }
        return (ssize_t)(done / PAGE_BYTES * PAGE_BYTES);
}

ssize_t process_memory_read_spans(int fd, const struct page_span *spans, uint32_t n_spans, void *to)
{
        uint64_t done = 0;

        for (uint32_t i = 0; i < n_spans; i++) {
                const size_t size = (size_t)spans[i].n_pages * PAGE_BYTES;
                ssize_t n = process_memory_read(fd, spans[i].vaddr, (char *)to + done * PAGE_BYTES, size);
                if (n < 0)
                        return n;
                done += (uint64_t)n / PAGE_BYTES;
                if ((size_t)n < size)
                        break;
        }
        return (ssize_t)done;
}
