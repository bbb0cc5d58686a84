/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What `criu dump` says to a page server, said here by a child process in both of its dialects, and what the sink gets
 * to see of it.
 */

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "criu/page_server.h"

enum { ADD = 1, HOLE = 2, OPEN = 3, OPEN2 = 4, PARENT = 5, ADD_F = 6, GET = 7, FORCE_CLOSE = 0x1024 };

/* ---- CRIU's side ---- */

struct client {
        int fd;
        bool long_header;
};

/* The two structs as the compiler lays them out for CRIU. */
struct header_short {
        uint32_t cmd, nr_pages;
        uint64_t vaddr, dst_id;
};
struct header_long {
        uint32_t cmd, padding;
        uint64_t nr_pages, vaddr, dst_id;
};

static void put(const struct client *c, uint32_t cmd, uint64_t pages, uint64_t vaddr, uint64_t image)
{
        const struct header_short s = {cmd, (uint32_t)pages, vaddr, image};
        const struct header_long l = {cmd, 0xdeadbeef, pages, vaddr, image}; /* nobody clears the padding */

        int r = c->long_header ? fd_write_all(c->fd, &l, sizeof(l)) : fd_write_all(c->fd, &s, sizeof(s));
        if (r < 0)
                _exit(10);
}

static void put_pages(const struct client *c, uint64_t vaddr, unsigned n)
{
        static uint8_t page[PAGE_BYTES];

        for (unsigned i = 0; i < n; i++) {
                memset(page, (int)((vaddr / PAGE_BYTES + i) & 0xff), sizeof(page));
                if (fd_write_all(c->fd, page, sizeof(page)) < 0)
                        _exit(11);
        }
}

static void expect_answer(const struct client *c, size_t size)
{
        static const uint8_t zero[4];
        uint8_t answer[4];

        if (fd_read_full(c->fd, answer, size) != (ssize_t)size || memcmp(answer, zero, size) != 0)
                _exit(12);
}

static void whole_dump(const struct client *c)
{
        put(c, OPEN2, 0, 0, PAGE_IMAGE(PAGE_IMAGE_SHMEM, 4711));
        expect_answer(c, 1);
        put(c, ADD_F | PE_PRESENT << 16, 3, 0, PAGE_IMAGE(PAGE_IMAGE_SHMEM, 4711));
        put_pages(c, 0, 3);
        put(c, OPEN2, 0, 0, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        expect_answer(c, 1);
        put(c, PARENT, 0, 0, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        expect_answer(c, 4);
        put(c, ADD_F | (PE_PRESENT | PE_LAZY) << 16, 600, 0x10000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        put_pages(c, 0x10000, 600);
        put(c, ADD_F | PE_LAZY << 16, 300, 0x7f0000000000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        for (unsigned i = 0; i < 200; i++) {
                put(c, ADD, 1, 0x7f1000000000 + 2 * i * PAGE_BYTES, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
                put_pages(c, 0x7f1000000000 + 2 * i * PAGE_BYTES, 1);
        }
        put(c, HOLE, 1, 0x7f2000000000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        put(c, FORCE_CLOSE, 0, 0, 0);
        expect_answer(c, 4);
}

static void nothing_but_the_end(const struct client *c)
{
        put(c, FORCE_CLOSE, 0, 0, 0);
        expect_answer(c, 4);
}

static void early_death(const struct client *c)
{
        put(c, OPEN2, 0, 0, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        expect_answer(c, 1);
        put(c, ADD_F | PE_PRESENT << 16, 2, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        put_pages(c, 0x1000, 1);
}

/* Stays until the server hangs up: it must, or CRIU would think all is well. */
static void after_opening(const struct client *c, uint32_t cmd, uint64_t pages, uint64_t vaddr, uint64_t image)
{
        char byte;

        put(c, OPEN2, 0, 0, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        expect_answer(c, 1);
        put(c, cmd, pages, vaddr, image);
        if (fd_read_full(c->fd, &byte, 1) != 0)
                _exit(13);
}

static void one_page(const struct client *c)
{
        char byte;

        put(c, OPEN2, 0, 0, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        expect_answer(c, 1);
        put(c, ADD, 1, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
        put_pages(c, 0x1000, 1);
        if (fd_read_full(c->fd, &byte, 1) != 0)
                _exit(14);
}

static void odd_address(const struct client *c)
{
        after_opening(c, ADD, 1, 0x1001, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
}

static void address_that_wraps(const struct client *c)
{
        after_opening(c, ADD, 2, UINT64_MAX - 4095, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
}

static void no_pages(const struct client *c)
{
        after_opening(c, ADD, 0, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
}

static void unopened_image(const struct client *c)
{
        after_opening(c, ADD, 1, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 43));
}

static void unknown_flags(const struct client *c)
{
        after_opening(c, ADD_F | 8 << 16, 1, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
}

static void unknown_command(const struct client *c)
{
        after_opening(c, GET, 1, 0x1000, PAGE_IMAGE(PAGE_IMAGE_TASK, 42));
}

static void unknown_image_type(const struct client *c)
{
        after_opening(c, OPEN2, 0, 0, 42 << 8 | 3);
}

/* ---- the sink ---- */

struct story {
        struct loop *loop;
        struct page_server *server;
        uint8_t *memory;
        unsigned refuse_every; /* each so many-th call has no room */
        unsigned calls, opened, batches, empty;
        uint64_t last_image, sum_pages;
        int commit_result;
        bool over, wants_resume;
        uint64_t pages;
        struct error err;
};

static bool no_room(struct story *s)
{
        s->wants_resume = s->refuse_every && ++s->calls % s->refuse_every == 0;
        return s->wants_resume;
}

static int sink_reserve(const struct page_batch *batch, void **ret, void *context)
{
        (void)batch;
        struct story *s = context;

        if (no_room(s))
                return -EAGAIN;
        *ret = s->memory;
        return 0;
}

static int sink_commit(const struct page_batch *b, void *context)
{
        struct story *s = context;

        assert_in_range(b->n_pages, 1, PAGE_BATCH_MAX);
        assert_int_equal(b->image, s->last_image);
        s->batches++;
        s->sum_pages += b->n_pages;
        if (!(b->flags & PE_PRESENT))
                s->empty++;
        else
                for (uint32_t i = 0; i < b->n_pages; i++)
                        for (unsigned k = 0; k < PAGE_BYTES; k += 4095)
                                assert_int_equal(s->memory[i * PAGE_BYTES + k], (b->vaddr / PAGE_BYTES + i) & 0xff);
        return s->commit_result;
}

static int sink_open(uint64_t image, void *context)
{
        struct story *s = context;

        if (no_room(s))
                return -EAGAIN;
        s->opened++;
        s->last_image = image;
        return 0;
}

static void sink_done(const struct error *err, uint64_t pages, void *context)
{
        struct story *s = context;

        assert_false(s->over);
        s->over = true;
        s->err = *err;
        s->pages = pages;
        page_server_free(s->server); /* allowed here */
        s->server = NULL;
}

static const struct page_sink sink = {sink_reserve, sink_commit, sink_open, sink_done};

static void tell(struct story *s, void (*part)(const struct client *), bool long_header)
{
        int pair[2], status;

        assert_int_equal(loop_new(&s->loop), 0);
        s->memory = malloc((size_t)PAGE_BATCH_MAX * PAGE_BYTES);
        assert_non_null(s->memory);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        pid_t pid = fork();
        if (pid == 0) {
                const struct client client = {pair[1], long_header};
                (void)signal(SIGPIPE, SIG_IGN);
                (void)close(pair[0]);
                part(&client);
                _exit(0);
        }
        assert_true(pid > 0);
        (void)close(pair[1]);
        assert_int_equal(page_server_new(s->loop, pair[0], &sink, s, &s->server), 0);
        while (!s->over) {
                assert_int_equal(loop_run_once(s->loop, s->wants_resume ? 1 : 10000), 0);
                if (s->server && s->wants_resume) {
                        s->wants_resume = false;
                        page_server_resume(s->server);
                }
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        free(s->memory);
        loop_free(s->loop);
}

static void check_whole_dump(const struct story *s)
{
        assert_string_equal(s->err.text, "");
        assert_int_equal(s->opened, 2);
        assert_int_equal(s->pages, 3 + 600 + 200);
        assert_int_equal(s->sum_pages, 3 + 600 + 300 + 200 + 1);
        assert_int_equal(s->empty, 2 + 1);
        assert_int_equal(s->batches, 1 + 3 + 2 + 200 + 1);
}

static void test_long_headers(void **state)
{
        struct story s = {};

        (void)state;
        tell(&s, whole_dump, true);
        check_whole_dump(&s);
}

static void test_short_headers(void **state)
{
        struct story s = {};

        (void)state;
        tell(&s, whole_dump, false);
        check_whole_dump(&s);
}

static void test_a_sink_without_room_holds_criu_back(void **state)
{
        (void)state;
        for (unsigned every = 2; every < 5; every++) {
                struct story s = {.refuse_every = every};
                tell(&s, whole_dump, every % 2);
                check_whole_dump(&s);
        }
}

static void test_a_dump_without_memory(void **state)
{
        (void)state;
        for (int dialect = 0; dialect < 2; dialect++) {
                struct story s = {};
                tell(&s, nothing_but_the_end, dialect);
                assert_int_equal(s.err.kind, ERROR_NONE);
                assert_int_equal(s.pages, 0);
        }
}

static void test_death_of_criu(void **state)
{
        struct story s = {};

        (void)state;
        tell(&s, early_death, true);
        assert_string_equal(s.err.text, "criu closed its page connection before the end");
        assert_int_equal(s.pages, 0);
}

static void test_failure_of_the_sink(void **state)
{
        struct story s = {.commit_result = -ENOSPC};

        (void)state;
        tell(&s, one_page, false);
        assert_string_equal(s.err.text, "cannot take memory from criu: No space left on device");
        assert_int_equal(s.pages, 0);
}

static void test_nonsense_is_refused(void **state)
{
        static const struct {
                void (*part)(const struct client *);
                const char *text;
        } parts[] = {
                {odd_address, "criu sent pages of an impossible address 0x1001"},
                {address_that_wraps, "criu sent pages of an impossible address 0xfffffffffffff000"},
                {no_pages, "criu sent 0 pages at once"},
                {unopened_image, "criu sent pages of an image it had not opened"},
                {unknown_flags, "criu sent pages with flags 0x8, which are not known"},
                {unknown_command, "criu sent page-server command 0x7, which is not known"},
                {unknown_image_type, "criu opened an image of an unknown type"},
        };

        (void)state;
        for (size_t i = 0; i < 2 * sizeof(parts) / sizeof(parts[0]); i++) {
                struct story s = {};
                tell(&s, parts[i / 2].part, i % 2);
                assert_string_equal(s.err.text, parts[i / 2].text);
                assert_int_equal(s.batches, 0);
        }
}

static void test_image_numbers(void **state)
{
        (void)state;
        /* PostgreSQL's, say: the first SysV segment of an IPC namespace. */
        assert_true(page_image_is_valid(PAGE_IMAGE(PAGE_IMAGE_SHMEM, 0)));
        assert_false(page_image_is_valid(PAGE_IMAGE(PAGE_IMAGE_TASK, 0)));
        assert_false(page_image_is_valid(PAGE_IMAGE(3, 1)));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_image_numbers),
                cmocka_unit_test(test_long_headers),
                cmocka_unit_test(test_short_headers),
                cmocka_unit_test(test_a_sink_without_room_holds_criu_back),
                cmocka_unit_test(test_a_dump_without_memory),
                cmocka_unit_test(test_death_of_criu),
                cmocka_unit_test(test_failure_of_the_sink),
                cmocka_unit_test(test_nonsense_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
