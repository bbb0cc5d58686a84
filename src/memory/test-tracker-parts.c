/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/test-tracker-story.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* -- a story ------------------------------------------------------------------------------------------------------ */

enum tracker_kind kind = TRACKER_UFFD_WP;
struct servant servant;
struct tracker *tracker;

int set_up(void **state)
{
        struct error err = {0};

        (void)state;
        servant_start(&servant);
        if (tracker_new(kind, &tracker, &err) < 0)
                fail_msg("%s", err.text);
        return 0;
}

int tear_down(void **state)
{
        (void)state;
        tracker_free(tracker);
        tracker = NULL;
        servant_end(&servant);
        return 0;
}

void attach_to(pid_t pid)
{
        struct error err = {0};

        if (tracker_attach(tracker, pid, &err) < 0)
                fail_msg("attach: %s", err.text);
}

uint64_t clean_of(pid_t pid, uint64_t start, uint64_t pages)
{
        struct page_count count = {.start = start, .end = start + pages * PAGE};
        struct error err = {0};

        if (tracker_clean(tracker, pid, page_count_add, &count, &err) < 0)
                fail_msg("clean: %s", err.text);
        return count.pages;
}

uint64_t clean(uint64_t start, uint64_t pages)
{
        return clean_of(servant.child.pid, start, pages);
}

/* -- what it is told ------------------------------------------------------------------------------------------------
 */

uint64_t map(const uint64_t *a)
{
        return (uintptr_t)mmap(at(a[1]), a[0] * PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | (a[1] ? MAP_FIXED : 0), -1, 0);
}

uint64_t map_shared(const uint64_t *a)
{
        return (uintptr_t)mmap(NULL, a[0] * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Of a file of as many pages. */
uint64_t map_file(const uint64_t *a)
{
        AUTO_FD int fd = memfd_create("mapped", MFD_CLOEXEC);

        if (ftruncate(fd, (off_t)(a[0] * PAGE)) < 0)
                return 0;
        for (uint64_t i = 0; i < a[0]; i++)
                if (pwrite(fd, "file", 4, (off_t)(i * PAGE)) != 4)
                        return 0;
        return (uintptr_t)mmap(NULL, a[0] * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
}

uint64_t write_pages(const uint64_t *a)
{
        for (uint64_t i = 0; i < a[1]; i++)
                ++*(volatile unsigned char *)at(a[0] + i * PAGE);
        return 0;
}

uint64_t read_pages(const uint64_t *a)
{
        uint64_t sum = 0;

        for (uint64_t i = 0; i < a[1]; i++)
                sum += *(volatile unsigned char *)at(a[0] + i * PAGE);
        return sum;
}

/* By the kernel. */
uint64_t read_into(const uint64_t *a)
{
        AUTO_FD int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

        return (uint64_t)read(fd, at(a[0]), PAGE);
}

uint64_t unmap(const uint64_t *a)
{
        return (uint64_t)munmap(at(a[0]), a[1] * PAGE);
}

uint64_t move(const uint64_t *a)
{
        return (uintptr_t)mremap(at(a[0]), a[1] * PAGE, a[1] * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(a[2]));
}

uint64_t advise(const uint64_t *a)
{
        return (uint64_t)madvise(at(a[0]), a[1] * PAGE, (int)a[2]);
}

uint64_t protect(const uint64_t *a)
{
        return (uint64_t)mprotect(at(a[0]), a[1] * PAGE, (int)a[2]);
}

/* As deep as so many half pages; the answer is how far that is. Inlined into itself it would leave some pages out. */
__attribute__((noinline)) uint64_t grow_stack(const uint64_t *a)
{
        volatile unsigned char half[PAGE / 2];

        half[0] = (unsigned char)a[0];
        const uint64_t deeper = a[0] - 1;
        return a[0] ? grow_stack(&deeper) : (uintptr_t)&half[0] / PAGE * PAGE;
}

static void *write_in_thread(void *context)
{
        (void)write_pages(context);
        return NULL;
}

uint64_t write_by_thread(const uint64_t *a)
{
        pthread_t thread;
        uint64_t copy[2] = {a[0], a[1]};

        if (pthread_create(&thread, NULL, write_in_thread, copy) != 0)
                return 1;
        return (uint64_t)pthread_join(thread, NULL);
}

uint64_t fork_child(const uint64_t *a)
{
        (void)a;
        pid_t pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        (void)pause();
        }
        return (uint64_t)pid;
}

static int pause_for_ever(void *unused)
{
        (void)unused;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)pause();
        return 0;
}

/* A process in the same memory. */
uint64_t share_memory(const uint64_t *a)
{
        static char stack[65536];

        (void)a;
        return (uint64_t)clone(pause_for_ever, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
}

uint64_t kill_it(const uint64_t *a)
{
        (void)kill((pid_t)a[0], SIGKILL);
        return (uint64_t)waitpid((pid_t)a[0], NULL, 0);
}

uint64_t make_aio(const uint64_t *a)
{
        static aio_context_t context;

        (void)a;
        return (uint64_t)syscall(SYS_io_setup, 8, &context);
}

uint64_t make_userfaultfd(const uint64_t *a)
{
        (void)a;
        return (uint64_t)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
}

uint64_t become_nobody(const uint64_t *a)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        const struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

        (void)a;
        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return 1;
        return 0;
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
