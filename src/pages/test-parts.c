/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/test-parts.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/test-process.h"
#include "base/fd.h"
#include "criu/criu.h"
#include "criu/images.pb-c.h"
#include "criu/lazy_areas.h"
#include "criu/pagemap_image.h"

/* -- contents ----------------------------------------------------------------------------------------------------- */

#define NUMBERS (PAGE_BYTES / sizeof(uint64_t))

bool was_sent(uint64_t page)
{
        return page % 64 != 63;
}

static uint64_t number(uint64_t seed, uint64_t i)
{
        return seed ? seed * UINT64_C(0x9e3779b97f4a7c15) + i : 0;
}

void write_page(void *page, uint64_t seed)
{
        uint64_t *to = page;

        for (uint64_t i = 0; i < NUMBERS; i++)
                to[i] = number(seed, i);
}

bool check_page(const void *page, uint64_t seed)
{
        const volatile uint64_t *from = page;

        for (uint64_t i = 0; i < NUMBERS; i++)
                if (from[i] != number(seed, i))
                        return false;
        return true;
}

/* -- images ------------------------------------------------------------------------------------------------------- */

static void put_image(int fd, const char *name, uint32_t magic, const uint8_t *entry, size_t size)
{
        const uint32_t head[] = {0x54564319U, magic, (uint32_t)size};

        AUTO_FD int file = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_int_equal(fd_write_all(file, head, sizeof(head)), 0);
        assert_int_equal(fd_write_all(file, entry, size), 0);
}

static void put_task(const struct lazy_story *s)
{
        CriuImage__Task task = CRIU_IMAGE__TASK__INIT;
        CriuImage__Memory memory = CRIU_IMAGE__MEMORY__INIT;
        CriuImage__Area area = CRIU_IMAGE__AREA__INIT, *areas[] = {&area};
        uint8_t entry[256];

        task.has_pid = task.has_ppid = true;
        task.pid = TASK_PID;
        put_image(s->images_fd, "pstree.img", 0x50273030U, entry, criu_image__task__pack(&task, entry));
        area.has_start = area.has_end = area.has_flags = area.has_status = true;
        area.start = BASE;
        area.end = BASE + s->n_pages * PAGE_BYTES;
        area.flags = MAP_PRIVATE | MAP_ANONYMOUS;
        area.status = 1 | 1 << 9;
        memory.n_areas = 1;
        memory.areas = areas;
        put_image(s->images_fd, "mm-4242.img", 0x57492820U, entry, criu_image__memory__pack(&memory, entry));
}

/* A round has brought most of it, but not the last word of some; the dump of the frozen task the rest. */
enum { IN_ROUND = 1, STALE = 2, DUMPED = 4, LEFT = 8 };

/* Some of which a round has brought an older word. */
bool was_left(uint64_t page)
{
        return was_sent(page) && (page % 11 < 3 || page % 512 > 400);
}

static unsigned how_it_came(const struct lazy_story *s, uint64_t page)
{
        if (!was_sent(page))
                return 0;
        if (s->left && was_left(page))
                return page % 3 ? LEFT : IN_ROUND | STALE | LEFT;
        return page % 7 == 3 ? DUMPED : page % 5 == 0 ? IN_ROUND | STALE | DUMPED : IN_ROUND;
}

static void add_pages(const struct lazy_story *s, struct pagemap_writer *w, unsigned which)
{
        uint8_t page[PAGE_BYTES];
        struct error err = {0};

        for (uint64_t n = 0; n < s->n_pages; n++) {
                const unsigned how = how_it_came(s, n);
                const struct page_batch batch = {.image = PAGE_IMAGE(PAGE_IMAGE_TASK, TASK_PID),
                                                 .vaddr = BASE + n * PAGE_BYTES,
                                                 .n_pages = 1,
                                                 .flags = PE_PRESENT};
                if (!(how & which))
                        continue;
                write_page(page, which == IN_ROUND && how & STALE ? 77 : seed_of(n));
                assert_int_equal(pagemap_writer_add(w, &batch, page, &err), 0);
        }
}

static void put_pages(const struct lazy_story *s, struct pagemap_writer *w)
{
        const uint64_t image = PAGE_IMAGE(PAGE_IMAGE_TASK, TASK_PID);
        struct error err = {0};
        uint64_t pages;

        if (s->left)
                pagemap_writer_expect_left(w);
        assert_int_equal(pagemap_writer_round(w, &err), 0);
        add_pages(s, w, IN_ROUND);
        assert_int_equal(pagemap_writer_last(w, &err), 0);
        assert_int_equal(pagemap_writer_open(w, image, &err), 0);
        add_pages(s, w, DUMPED);
        for (uint64_t n = 0; n < s->n_pages; n++)
                if (how_it_came(s, n) == IN_ROUND)
                        assert_int_equal(pagemap_writer_keep(w, image, BASE + n * PAGE_BYTES, 1, &err), 0);
                else if (how_it_came(s, n) & LEFT)
                        assert_int_equal(pagemap_writer_leave(w, image, BASE + n * PAGE_BYTES, 1, &err), 0);
        assert_int_equal(pagemap_writer_finish(w, &pages, &err), 0);
}

/* -- the story ---------------------------------------------------------------------------------------------------- */

static void begin(struct lazy_story *s, uint64_t n_pages, bool keep, bool left)
{
        CLEANUP(pagemap_writer_free_ptr) struct pagemap_writer *w = NULL;
        CLEANUP(lazy_areas_free_ptr) struct lazy_areas *areas = NULL;
        struct error err = {0};

        *s = (struct lazy_story){.n_pages = n_pages, .left = left};
        (void)snprintf(s->directory, sizeof(s->directory), "/dev/shm/phaul-pages-XXXXXX");
        assert_non_null(mkdtemp(s->directory));
        memcpy(s->ledger, s->directory, sizeof(s->directory));
        memcpy(s->ledger + strlen(s->directory), "/1.pages", sizeof("/1.pages"));
        s->images_fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(s->images_fd >= 0);
        put_task(s);
        assert_int_equal(pagemap_writer_new(s->images_fd, &w), 0);
        assert_int_equal(lazy_areas_read(s->images_fd, false, &areas, &err), 0);
        pagemap_writer_lazy(w, areas);
        put_pages(s, w);

        const struct page_service_options options = {.path = s->ledger,
                                                     .program = getenv("PHAUL_PAGES"),
                                                     .images_fd = s->images_fd,
                                                     .writer = w,
                                                     .keep = keep};
        assert_non_null(options.program);
        if (page_service_start(&options, &s->service, &err) != 0)
                fail_msg("%s", err.text);
        AUTO_FD int fd = open(s->ledger, O_RDWR | O_CLOEXEC);
        assert_int_equal(page_ledger_open(fd, &s->view, &err), 0);
}

void lazy_story_begin(struct lazy_story *s, uint64_t n_pages, bool keep)
{
        begin(s, n_pages, keep, false);
}

void lazy_story_begin_left(struct lazy_story *s, uint64_t n_pages)
{
        begin(s, n_pages, false, true);
}

void lazy_story_end(struct lazy_story *s)
{
        struct error err = {0};

        assert_int_equal(page_service_stop(s->ledger, &err), 0);
        assert_int_equal(access(s->ledger, F_OK), -1);
        page_ledger_free(s->view);
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        (void)close(s->images_fd);
        assert_int_equal(fd_remove_tree(AT_FDCWD, s->directory, &err), 0);
}

int become_lazy(const struct lazy_story *s)
{
        const uint64_t size = s->n_pages * PAGE_BYTES;
        struct uffdio_api api = {.api = UFFD_API,
                                 .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                             UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP};
        struct uffdio_register area = {.range = {.start = BASE, .len = size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const int pid = TASK_PID;
        char control[CMSG_SPACE(sizeof(int))] = "", byte = 0;
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {
                .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_LEN(sizeof(int))};

        int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/" CRIU_LAZY_SOCKET, s->directory);
        int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 || connection < 0 ||
            connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            send(connection, &pid, sizeof(pid), 0) != sizeof(pid))
                _exit(90);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_len = CMSG_LEN(sizeof(int));
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(c), &uffd, sizeof(uffd));
        if (sendmsg(connection, &message, 0) != 1)
                _exit(91);
        if (mmap(at_address(BASE), size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0) == MAP_FAILED ||
            ioctl(uffd, UFFDIO_REGISTER, &area) < 0)
                _exit(92);
        (void)close(uffd);
        return connection;
}

void finish_restore(int connection)
{
        const uint32_t word = 0x52535446;

        if (send(connection, &word, sizeof(word), 0) != sizeof(word))
                _exit(93);
        (void)close(connection);
}

struct page_service_status look(const struct lazy_story *s)
{
        struct page_service_status status;
        struct error err = {0};

        if (page_service_look(s->ledger, &status, &err) < 0)
                fail_msg("%s", err.text);
        return status;
}

bool wait_for_end(const struct lazy_story *s)
{
        const uint64_t deadline = clock_ms() + 60000;

        while (look(s).running) {
                if (clock_ms() > deadline)
                        return false;
                (void)usleep(2000);
        }
        return true;
}

uint64_t bytes_stored(const struct lazy_story *s)
{
        uint64_t bytes = 0;
        struct stat st;

        for (uint32_t i = 0; i < s->view->head->n_files; i++)
                if (fstatat(s->images_fd, s->view->files[i].name, &st, 0) == 0)
                        bytes += (uint64_t)st.st_blocks * 512;
        return bytes;
}

void check_pages(const struct lazy_story *s)
{
        for (uint64_t n = 0; n < s->n_pages; n++)
                if (!check_page(page_at(n), seed_of(n)))
                        _exit(1);
}

void be_lazy(const struct lazy_story *s, bool wait, int out)
{
        int connection = become_lazy(s);

        say(out, "+");
        finish_restore(connection);
        if (wait && !wait_for_end(s))
                _exit(2);
        check_pages(s);
}

uint64_t bytes_resident(pid_t pid)
{
        unsigned long all = 0, resident = 0;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
        AUTO_FILE FILE *f = fopen(path, "re");
        return f && fscanf(f, "%lu %lu", &all, &resident) == 2 ? resident * (uint64_t)PAGE_BYTES : 0;
}
