/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/test-tracker.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define USED (UINT64_C(3) << 62) /* present, swapped */

/* -- the servant -------------------------------------------------------------------------------------------------- */

struct order {
        servant_fn fn;
        uint64_t arguments[4];
};

static int sockets[2];

static void serve(int out)
{
        struct order order;

        (void)close(sockets[0]);
        say(out, "+");
        while (read(sockets[1], &order, sizeof(order)) == sizeof(order)) {
                const uint64_t answer = order.fn(order.arguments);
                if (write(sockets[1], &answer, sizeof(answer)) != sizeof(answer))
                        break;
        }
}

void servant_start(struct servant *s)
{
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
        start(&s->child, serve);
        (void)close(sockets[1]);
        s->socket = sockets[0];
}

void servant_end(struct servant *s)
{
        (void)close(s->socket);
        kill_child(&s->child);
}

uint64_t servant_ask_all(struct servant *s, servant_fn fn, const uint64_t *arguments)
{
        struct order order = {.fn = fn};
        uint64_t answer = 0;

        memcpy(order.arguments, arguments, sizeof(order.arguments));
        assert_int_equal(write(s->socket, &order, sizeof(order)), sizeof(order));
        assert_int_equal(read(s->socket, &answer, sizeof(answer)), sizeof(answer));
        return answer;
}

static uint64_t execute(const uint64_t *arguments)
{
        (void)arguments;
        (void)execl("/bin/sleep", "sleep", "1000", (char *)NULL);
        return 1;
}

void servant_exec(struct servant *s)
{
        const struct order order = {.fn = execute};
        uint64_t answer;

        assert_int_equal(write(s->socket, &order, sizeof(order)), sizeof(order));
        assert_int_equal(read(s->socket, &answer, sizeof(answer)), 0); /* closed on exec */
        for (int i = 0; i < 5000; i++) {
                AUTO_FREE char *name = NULL;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/wchan", (int)s->child.pid);
                assert_int_equal(fd_read_file(AT_FDCWD, path, 1000, &name, NULL), 0);
                if (strstr(name, "nanosleep"))
                        return;
                (void)usleep(1000);
        }
        fail_msg("it does not sleep");
}

/* -- counting -------------------------------------------------------------------------------------------------------
 */

int page_count_add(pid_t pid, uint64_t start, uint64_t end, void *context)
{
        struct page_count *count = context;

        assert_true(pid > 0 && start < end && start % PAGE == 0 && end % PAGE == 0);
        assert_true(start >= count->last);
        count->last = end;
        uint64_t from = start > count->start ? start : count->start, to = end < count->end ? end : count->end;
        if (from < to)
                count->pages += (to - from) / PAGE;
        return count->pages ? count->fail : 0;
}

bool has_zero_page(void)
{
        uint64_t entries[2] = {0};
        volatile char *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_true(memory != MAP_FAILED);
        assert_int_equal(memory[0] + memory[PAGE], 0);
        AUTO_FD int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, entries, sizeof(entries), (off_t)((uintptr_t)memory / PAGE * sizeof(entries[0]))),
                         sizeof(entries));
        (void)munmap((void *)memory, 2 * PAGE);
        return entries[0] == entries[1];
}

uint64_t count_used(pid_t pid, uint64_t start, uint64_t pages)
{
        uint64_t entry, n = 0;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        for (uint64_t i = 0; i < pages; i++) {
                assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)((start / PAGE + i) * sizeof(entry))),
                                 sizeof(entry));
                n += (entry & USED) != 0;
        }
        return n;
}

size_t count_flagged(pid_t pid)
{
        AUTO_FREE char *line = NULL;
        size_t room = 0, n = 0;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
        AUTO_FILE FILE *file = fopen(path, "re");
        assert_non_null(file);
        while (getline(&line, &room, file) > 0)
                if (strncmp(line, "VmFlags:", 8) == 0)
                        n += strstr(line, " um") || strstr(line, " uw") || strstr(line, " ui");
        return n;
}
