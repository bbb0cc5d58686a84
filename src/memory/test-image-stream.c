/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * State from a sender to a receiver through a link of our own making: the bundle_* functions below are it. It has
 * few slots, and forgets nothing, so that what was sent can also be falsified on the way.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "memory/image_stream.h"

/* ---- the link ---- */

#define FRAMES_MAX 256
#define SLOTS 2

struct bundle {
        struct bulk_frame frames[FRAMES_MAX];
        uint8_t *data[FRAMES_MAX];
        size_t n, delivered;
        uint8_t *reserved;
        bool down;
};

int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        if (bundle->down)
                return -ENOTCONN;
        if (bundle->n - bundle->delivered >= SLOTS)
                return -EAGAIN;
        assert_null(bundle->reserved);
        assert_true(bundle->n < FRAMES_MAX);
        bundle->reserved = malloc(BULK_MAX);
        assert_non_null(bundle->reserved);
        *ret_data = bundle->reserved;
        return 0;
}

int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame)
{
        if (bundle->down)
                return -ENOTCONN;
        assert_non_null(bundle->reserved);
        assert_true(frame->size <= BULK_MAX);
        bundle->frames[bundle->n] = *frame;
        bundle->data[bundle->n++] = TAKE_PTR(bundle->reserved);
        return 0;
}

bool bundle_idle(const struct bundle *bundle)
{
        return bundle->delivered == bundle->n;
}

/* ---- the story ---- */

struct story {
        struct bundle bundle;
        struct image_sender *sender;
        struct image_receiver *receiver;
        char from[32], to[32];
        int from_fd, to_fd;
        bool sent;
        int sent_result;
        struct error err;
};

#define TASK PAGE_IMAGE(PAGE_IMAGE_TASK, 42)
#define BIG_BYTES (3U * BULK_MAX + 17)

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        (void)snprintf(s->from, sizeof(s->from), "/tmp/stream-from-XXXXXX");
        (void)snprintf(s->to, sizeof(s->to), "/tmp/stream-to-XXXXXX");
        if (!mkdtemp(s->from) || !mkdtemp(s->to))
                return -1;
        s->from_fd = open(s->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        s->to_fd = open(s->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = s;
        if (image_sender_new(&s->bundle, true, &s->sender) < 0)
                return -1;
        return image_receiver_new(s->to_fd, 64U << 20, &s->receiver);
}

static int teardown(void **state)
{
        struct story *s = *state;

        image_sender_free(s->sender);
        image_receiver_free(s->receiver);
        for (size_t i = 0; i < s->bundle.n; i++)
                free(s->bundle.data[i]);
        free(s->bundle.reserved);
        (void)close(s->from_fd);
        (void)close(s->to_fd);
        (void)fd_remove_tree(AT_FDCWD, s->from, NULL);
        (void)fd_remove_tree(AT_FDCWD, s->to, NULL);
        free(s);
        return 0;
}

static void on_sent(int result, void *context)
{
        struct story *s = context;

        assert_false(s->sent);
        s->sent = true;
        s->sent_result = result;
        if (result == 0) /* allowed here */
                image_sender_free(TAKE_PTR(s->sender));
}

static int deliver(struct story *s, const struct bulk_frame *frame, const void *data)
{
        error_clear(&s->err);
        return image_receiver_frame(s->receiver, frame, data, &s->err);
}

/* Takes what waits in the link over to the receiver; returns the last result. */
static int deliver_all(struct story *s)
{
        int r = 0;

        while (s->bundle.delivered < s->bundle.n) {
                size_t i = s->bundle.delivered++;
                r = deliver(s, &s->bundle.frames[i], s->bundle.data[i]);
                if (r < 0)
                        return r;
        }
        return r;
}

static void write_file(struct story *s, const char *name, size_t size)
{
        AUTO_FREE uint8_t *data = malloc(size + 1);

        assert_non_null(data);
        for (size_t i = 0; i < size; i++)
                data[i] = (uint8_t)(i * 31 + i / 4096);
        assert_int_equal(fd_write_file(s->from_fd, name, data, size, 0600), 0);
}

static void send_pages(struct story *s, uint64_t vaddr, uint32_t n, uint32_t flags)
{
        const struct page_batch batch = {TASK, vaddr, n, flags};
        void *memory, *again;
        int r = image_sender_batch_reserve(&batch, &memory, s->sender);

        if (r == -EAGAIN) {
                assert_int_equal(deliver_all(s), 0);
                r = image_sender_batch_reserve(&batch, &memory, s->sender);
        }
        assert_int_equal(r, 0);
        /* Asked twice it gives the same memory. */
        assert_int_equal(image_sender_batch_reserve(&batch, &again, s->sender), 0);
        assert_ptr_equal(memory, again);
        memset(memory, 0x5a, (size_t)n * PAGE_BYTES);
        assert_int_equal(image_sender_batch_commit(&batch, s->sender), 0);
}

static void expect_same(const struct story *s, const char *name)
{
        AUTO_FREE char *a = NULL;
        AUTO_FREE char *b = NULL;
        size_t size_a, size_b;

        assert_int_equal(fd_read_file(s->from_fd, name, 64 << 20, &a, &size_a), 0);
        assert_int_equal(fd_read_file(s->to_fd, name, 64 << 20, &b, &size_b), 0);
        assert_int_equal(size_a, size_b);
        assert_memory_equal(a, b, size_a);
}

static void send_everything(struct story *s)
{
        int r = 0;

        write_file(s, "core-1.img", 700);
        write_file(s, "tmpfs-dev-57.tar.gz.img", BIG_BYTES);
        write_file(s, "fs-1.img", 0);
        write_file(s, "tty.info", 8);
        write_file(s, "dump.log", 100);   /* stays */
        write_file(s, "stats-dump", 100); /* stays */
        assert_int_equal(image_sender_open(TASK, s->sender), 0);
        for (unsigned i = 0; i < 5; i++)
                send_pages(s, 0x100000 * (i + 1), 100, PE_PRESENT);
        for (unsigned i = 0; i < 600; i++) /* far apart: as many as fit go together */
                send_pages(s, 0x10000000 + 0x10000 * i, 1, PE_PRESENT);
        assert_true(s->bundle.n < 20);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), 0);
        assert_false(s->sent);
        while (!s->sent) {
                r = deliver_all(s);
                assert_return_code(r, 0);
                image_sender_writable(s->sender);
        }
        assert_int_equal(s->sent_result, 0);
        assert_int_equal(r, 1);
}

static void test_everything_arrives(void **state)
{
        struct story *s = *state;
        struct stat st;

        send_everything(s);
        expect_same(s, "core-1.img");
        expect_same(s, "tmpfs-dev-57.tar.gz.img");
        expect_same(s, "fs-1.img");
        expect_same(s, "tty.info");
        assert_int_equal(fstatat(s->to_fd, "dump.log", &st, 0), -1);
        assert_int_equal(fstatat(s->to_fd, "stats-dump", &st, 0), -1);
        assert_int_equal(fstatat(s->to_fd, "pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, 1100 * PAGE_BYTES);
        assert_int_equal(image_receiver_pages(s->receiver), 1100);
        assert_true(image_receiver_bytes(s->receiver) > BIG_BYTES + 1100 * PAGE_BYTES);

        /* Nothing more is taken. */
        const struct bulk_frame open = {.type = BULK_PAGES_OPEN, .object = PAGE_IMAGE(PAGE_IMAGE_TASK, 43)};
        assert_int_equal(deliver(s, &open, NULL), -EBADMSG);
}

static void test_pages_wait_for_more_of_their_kind(void **state)
{
        struct story *s = *state;

        assert_int_equal(image_sender_open(TASK, s->sender), 0);
        send_pages(s, 0x100000, 1, PE_PRESENT);
        assert_int_equal(s->bundle.n, 1);
        assert_int_equal(image_sender_flush(s->sender), 0);
        assert_int_equal(s->bundle.n, 2);
        assert_int_equal(image_sender_flush(s->sender), 0);
        assert_int_equal(s->bundle.n, 2);
}

static void test_nothing_is_sent_without_a_link(void **state)
{
        struct story *s = *state;
        const struct page_batch batch = {TASK, 0x100000, 1, PE_PRESENT};
        uint8_t *slot;
        void *memory;

        /* Lost with a page half there, and with files on their way: the waits for them have to end some other way. */
        assert_int_equal(image_sender_open(TASK, s->sender), 0);
        assert_int_equal(image_sender_batch_reserve(&batch, &memory, s->sender), 0);
        const size_t before = s->bundle.n;
        image_sender_detach(s->sender);
        assert_int_equal(image_sender_batch_commit(&batch, s->sender), -ENOTCONN);
        assert_int_equal(image_sender_batch_reserve(&batch, &memory, s->sender), -ENOTCONN);
        assert_int_equal(image_sender_reserve(s->sender, &slot), -ENOTCONN);
        assert_int_equal(image_sender_pages(s->sender, TASK, 1, 1), -ENOTCONN);
        assert_int_equal(image_sender_kept(s->sender, TASK, 1), -ENOTCONN);
        assert_int_equal(image_sender_round(s->sender, 1), -ENOTCONN);
        assert_false(image_sender_idle(s->sender));
        write_file(s, "core-1.img", 700);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), -ENOTCONN);
        image_sender_writable(s->sender);
        assert_false(s->sent);
        assert_int_equal(s->bundle.n, before);
}

static void test_lost_while_files_are_sent(void **state)
{
        struct story *s = *state;

        write_file(s, "tmpfs-dev-57.tar.gz.img", BIG_BYTES);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), 0);
        const size_t before = s->bundle.n;
        image_sender_detach(s->sender);
        assert_int_equal(deliver_all(s), 0);
        image_sender_writable(s->sender);
        assert_false(s->sent);
        assert_int_equal(s->bundle.n, before);
}

/* ---- the whole way: a dump's pages, through the page server and a link that is always full ---- */

enum { OPEN2 = 4, ADD_F = 6, FORCE_CLOSE = 0x1024 };

static void say(int fd, uint32_t command, uint64_t pages, uint64_t vaddr)
{
        const struct {
                uint32_t command, padding;
                uint64_t pages, vaddr, image;
        } header = {command, 0, pages, vaddr, command == FORCE_CLOSE ? 0 : TASK};

        if (fd_write_all(fd, &header, sizeof(header)) < 0)
                _exit(10);
}

static void hear(int fd, size_t size)
{
        uint8_t answer[4];

        if (fd_read_full(fd, answer, size) != (ssize_t)size)
                _exit(11);
}

static void play_dump(int fd)
{
        static uint8_t page[PAGE_BYTES];

        say(fd, OPEN2, 0, 0);
        hear(fd, 1);
        for (unsigned area = 0; area < 20; area++) {
                say(fd, ADD_F | PE_PRESENT << 16, 1 + area * 30, 0x10000000ULL * (area + 1));
                for (unsigned i = 0; i < 1 + area * 30; i++) {
                        memset(page, (int)(area + i), sizeof(page));
                        if (fd_write_all(fd, page, sizeof(page)) < 0)
                                _exit(12);
                }
        }
        say(fd, FORCE_CLOSE, 0, 0);
        hear(fd, 4);
        _exit(0);
}

struct dump_end {
        struct image_sender *sender;
        bool over;
        uint64_t pages;
};

static int take(const struct page_batch *batch, void **ret_data, void *context)
{
        struct dump_end *end = context;

        return image_sender_batch_reserve(batch, ret_data, end->sender);
}

static int took(const struct page_batch *batch, void *context)
{
        struct dump_end *end = context;

        return image_sender_batch_commit(batch, end->sender);
}

static int opened(uint64_t image, void *context)
{
        struct dump_end *end = context;

        return image_sender_open(image, end->sender);
}

static void on_pages_over(const struct error *err, uint64_t pages, void *context)
{
        struct dump_end *end = context;

        assert_string_equal(err->text, "");
        end->over = true;
        end->pages = pages;
}

static const struct page_sink sink = {.reserve = take, .commit = took, .open = opened, .done = on_pages_over};

static void test_from_a_dump_to_page_images(void **state)
{
        struct story *s = *state;
        struct page_server *server = NULL;
        struct loop *loop = NULL;
        struct dump_end end = {.sender = s->sender};
        AUTO_FREE char *data = NULL;
        size_t size, at = 0;
        int pair[2], status;

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void)close(pair[0]);
                play_dump(pair[1]);
        }
        assert_true(pid > 0);
        (void)close(pair[1]);
        assert_int_equal(page_server_new(loop, pair[0], &sink, &end, &server), 0);
        while (!end.over) {
                assert_int_equal(loop_run_once(loop, 1), 0);
                assert_int_equal(deliver_all(s), 0);
                image_sender_writable(s->sender);
                if (!end.over)
                        page_server_resume(server);
        }
        page_server_free(server);
        loop_free(loop);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(end.pages, 20 + 30 * 190);

        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), 0);
        while (!s->sent) {
                assert_return_code(deliver_all(s), 0);
                image_sender_writable(s->sender);
        }
        assert_int_equal(image_receiver_pages(s->receiver), end.pages);
        assert_int_equal(fd_read_file(s->to_fd, "pages-1.img", 64 << 20, &data, &size), 0);
        assert_int_equal(size, end.pages * PAGE_BYTES);
        for (unsigned area = 0; area < 20; area++)
                for (unsigned i = 0; i < 1 + area * 30; i++, at += PAGE_BYTES)
                        assert_int_equal((uint8_t)data[at + 77], (area + i) & 0xff);
}

static void test_a_page_image_as_a_file_is_not_sent(void **state)
{
        struct story *s = *state;

        write_file(s, "pages-1.img", 4096);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), -EEXIST);
        assert_false(s->sent);
}

static void test_a_link_that_goes_down(void **state)
{
        struct story *s = *state;
        void *memory;

        write_file(s, "big.img", BIG_BYTES);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), 0);
        s->bundle.down = true;
        image_sender_writable(s->sender);
        assert_true(s->sent);
        assert_int_equal(s->sent_result, -ENOTCONN);
        /* Told once; later calls do nothing. */
        image_sender_writable(s->sender);
        const struct page_batch batch = {TASK, 0x1000, 1, PE_PRESENT};
        assert_int_equal(image_sender_batch_reserve(&batch, &memory, s->sender), -EINVAL);
}

static void test_a_file_that_shrinks(void **state)
{
        struct story *s = *state;

        write_file(s, "big.img", BIG_BYTES);
        assert_int_equal(image_sender_files(s->sender, s->from_fd, on_sent, s), 0);
        AUTO_FD int fd = openat(s->from_fd, "big.img", O_WRONLY | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, 100), 0);
        while (!s->sent) {
                assert_return_code(deliver_all(s), 0);
                image_sender_writable(s->sender);
        }
        assert_int_equal(s->sent_result, -EIO);
}

/* Each lie goes to a fresh receiver, after an open image and one file of 10 bytes of which 4 came. */
static int tell_lie(struct story *s, const struct bulk_frame *lie, const void *data)
{
        static const uint8_t ten[10];
        const struct bulk_frame open = {.type = BULK_PAGES_OPEN, .object = TASK};
        const struct bulk_frame name = {.type = BULK_FILE_NAME, .object = 1, .size = 5, .count = 10};
        const struct bulk_frame part = {.type = BULK_FILE_DATA, .object = 1, .size = 4};

        image_receiver_free(TAKE_PTR(s->receiver));
        (void)unlinkat(s->to_fd, "a.img", 0);
        (void)unlinkat(s->to_fd, "b.img", 0);
        (void)unlinkat(s->to_fd, "pagemap-42.img", 0);
        (void)unlinkat(s->to_fd, "pages-1.img", 0);
        assert_int_equal(image_receiver_new(s->to_fd, 8192, &s->receiver), 0);
        assert_int_equal(deliver(s, &open, NULL), 0);
        assert_int_equal(deliver(s, &name, "a.img"), 0);
        assert_int_equal(deliver(s, &part, ten), 0);
        int r = deliver(s, lie, data);
        if (r < 0) {
                /* From then on it believes nothing at all. */
                const struct bulk_frame rest = {.type = BULK_FILE_DATA, .object = 1, .offset = 4, .size = 6};
                assert_int_equal(deliver(s, &rest, ten), r);
        }
        return r;
}

static int lie(struct story *s, struct bulk_frame frame)
{
        static uint8_t data[BULK_MAX];

        return tell_lie(s, &frame, data);
}

static void test_lies_about_frames(void **state)
{
        struct story *s = *state;

        assert_int_equal(lie(s, (struct bulk_frame){.type = 0}), -EBADMSG);
        assert_int_equal(lie(s, (struct bulk_frame){.type = 9}), -EBADMSG);
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_FILE_DATA, .object = 1, .offset = 4, .size = 7}),
                         -EBADMSG); /* longer than announced */
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_FILE_DATA, .object = 1, .offset = 5, .size = 1}),
                         -EBADMSG); /* a gap */
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_FILE_DATA, .object = 2, .offset = 4, .size = 1}),
                         -EBADMSG); /* another file */
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_FILE_DATA, .object = 1, .offset = 4}), -EBADMSG);
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_FILE_NAME, .object = 2, .size = 5}),
                         -EBADMSG); /* the first is not complete */
        assert_int_equal(lie(s, (struct bulk_frame){.type = BULK_END, .offset = 3}), -EBADMSG); /* half a file */
}

/* One frame with pages: the runs say {vaddr, pages}, and the frame says its own. */
static int lie_about_pages(struct story *s, struct bulk_frame frame, const struct page_span *runs, size_t n)
{
        static uint8_t data[BULK_MAX];

        memset(data, 0, RUN_TABLE_BYTES);
        for (size_t i = 0; i < n; i++)
                page_span_put(data + i * RUN_BYTES, &runs[i]);
        frame.type = BULK_PAGES;
        if (!frame.object)
                frame.object = TASK;
        return tell_lie(s, &frame, data);
}

static void test_lies_about_pages(void **state)
{
        struct story *s = *state;
        const struct page_span one = {0x1000, 1}, two = {0x1000, 2}, back[] = {{0x2000, 1}, {0x1000, 1}};
        const struct page_span same[] = {{0x1000, 1}, {0x1000, 1}}, none = {0x1000, 0}, odd = {0x1001, 1};
        const uint32_t size = RUN_TABLE_BYTES + PAGE_BYTES;
        const struct bulk_frame right = {.flags = 4, .offset = 1, .count = 1, .size = size};
        struct bulk_frame f;

        f = right;
        f.size--;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.size = 0;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.count = 0;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.count += UINT64_C(1) << 52; /* times 4096 it wraps to the size */
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.offset = RUNS_PER_TABLE + 1;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.flags = PE_LAZY;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.flags = PE_PRESENT | PE_PARENT;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        f = right;
        f.object = TASK + 256; /* not opened */
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG);
        assert_int_equal(lie_about_pages(s, right, &two, 1), -EBADMSG); /* more than came */
        assert_int_equal(lie_about_pages(s, right, &none, 1), -EBADMSG);
        assert_int_equal(lie_about_pages(s, right, &odd, 1), -EBADMSG);
        f = right;
        f.offset = 2;
        assert_int_equal(lie_about_pages(s, f, &one, 1), -EBADMSG); /* the second run is empty */
        f.count = 2;
        f.size += PAGE_BYTES;
        assert_int_equal(lie_about_pages(s, f, back, 2), -EFBIG); /* 10 bytes are promised */
        assert_int_equal(lie_about_pages(s, right, &one, 1), 0);
        image_receiver_free(TAKE_PTR(s->receiver));
        assert_int_equal(image_receiver_new(s->to_fd, 65536, &s->receiver), 0);
        const struct bulk_frame open = {.type = BULK_PAGES_OPEN, .object = PAGE_IMAGE(PAGE_IMAGE_TASK, 7)};
        assert_int_equal(deliver(s, &open, NULL), 0);
        (void)unlinkat(s->to_fd, "pages-1.img", 0);
        uint8_t data[RUN_TABLE_BYTES + 2 * PAGE_BYTES] = {0};
        page_span_put(data, &same[0]);
        page_span_put(data + RUN_BYTES, &same[1]);
        f.type = BULK_PAGES;
        f.object = open.object;
        assert_int_equal(deliver(s, &f, data), -EBADMSG); /* the same page twice */
}

/* Of rounds: what is out of place, and what is kept without having come. */
static void test_lies_about_rounds(void **state)
{
        struct story *s = *state;
        const struct bulk_frame first = {.type = BULK_ROUND, .object = 1}, last = {.type = BULK_LAST};
        const struct bulk_frame kept = {.type = BULK_PAGES_KEPT, .object = TASK, .offset = 1, .size = RUN_BYTES};
        const struct bulk_frame open = {.type = BULK_PAGES_OPEN, .object = TASK};
        uint8_t run[RUN_BYTES];
        struct bulk_frame f;

        page_span_put(run, &(struct page_span){0x1000, 1});
        assert_int_equal(lie(s, first), -EBADMSG); /* after an image was opened */
        assert_int_equal(lie(s, last), -EBADMSG);
        assert_int_equal(tell_lie(s, &kept, run), -EBADMSG);
        for (int i = 0; i < 5; i++) {
                image_receiver_free(TAKE_PTR(s->receiver));
                assert_int_equal(image_receiver_new(s->to_fd, 65536, &s->receiver), 0);
                assert_int_equal(deliver(s, &first, NULL), 0);
                if (i == 0) {
                        assert_int_equal(deliver(s, &first, NULL), -EBADMSG);
                        continue;
                }
                if (i == 1) {
                        assert_int_equal(deliver(s, &open, NULL), -EBADMSG);
                        continue;
                }
                assert_int_equal(deliver(s, &last, NULL), 0);
                assert_int_equal(deliver(s, &open, NULL), 0);
                f = kept;
                f.size = i == 2 ? RUN_BYTES - 1 : RUN_BYTES;
                f.offset = i == 3 ? 2 : 1;
                assert_int_equal(deliver(s, &f, run), -EBADMSG); /* i == 4: it never came */
        }
}

static void test_lies_at_the_end(void **state)
{
        struct story *s = *state;
        static const uint8_t six[6];
        const struct bulk_frame rest = {.type = BULK_FILE_DATA, .object = 1, .offset = 4, .size = 6};
        const struct bulk_frame frames = {.type = BULK_END, .offset = 5},
                                pages = {.type = BULK_END, .offset = 4, .count = 1};
        const struct bulk_frame right = {.type = BULK_END, .offset = 4};

        assert_int_equal(tell_lie(s, &rest, six), 0);
        assert_int_equal(deliver(s, &frames, NULL), -EBADMSG);
        assert_int_equal(tell_lie(s, &rest, six), 0);
        assert_int_equal(deliver(s, &pages, NULL), -EBADMSG);
        assert_int_equal(tell_lie(s, &rest, six), 0);
        assert_int_equal(deliver(s, &right, NULL), 1);
}

static int second_name(struct story *s, const char *name, size_t size, uint64_t count)
{
        static const uint8_t six[6];
        const struct bulk_frame rest = {.type = BULK_FILE_DATA, .object = 1, .offset = 4, .size = 6};
        const struct bulk_frame frame = {.type = BULK_FILE_NAME, .object = 2, .size = (uint32_t)size, .count = count};

        assert_int_equal(tell_lie(s, &rest, six), 0);
        return deliver(s, &frame, name);
}

static void test_names(void **state)
{
        struct story *s = *state;
        static const char *const bad[] = {"../x.img",
                                          "/x.img",
                                          "x/y.img",
                                          ".img",
                                          ".x.img",
                                          "a..b.img",
                                          "x.IMG",
                                          "x.img ",
                                          "tty.info2",
                                          "pages-1.img",
                                          "-x.img",
                                          "pagemap-42.img",
                                          "pagemap-shmem-1.img",
                                          "x\n.img",
                                          "a.img"};
        char longest[IMAGE_NAME_MAX + 2];

        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                assert_int_equal(second_name(s, bad[i], strlen(bad[i]), 0), -EBADMSG);
        assert_int_equal(second_name(s, "b.img\0.img", 10, 0), -EBADMSG);
        assert_int_equal(second_name(s, "", 0, 0), -EBADMSG);
        assert_int_equal(second_name(s, "b.img", 5, 8193), -EFBIG);
        assert_int_equal(second_name(s, "b.img", 5, UINT64_MAX), -EFBIG);
        assert_int_equal(second_name(s, "b.img", 5, 1), 0);

        memset(longest, 'x', sizeof(longest));
        memcpy(longest + IMAGE_NAME_MAX - 4, ".img", 5);
        assert_true(image_name_is_valid(longest));
        memset(longest, 'x', sizeof(longest));
        memcpy(longest + IMAGE_NAME_MAX - 3, ".img", 5);
        assert_false(image_name_is_valid(longest));
        assert_true(image_name_is_valid("ghost-file-1f.img"));
        assert_true(image_name_is_valid("tty.info"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_everything_arrives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pages_wait_for_more_of_their_kind, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing_is_sent_without_a_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lost_while_files_are_sent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_from_a_dump_to_page_images, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_page_image_as_a_file_is_not_sent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_link_that_goes_down, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_file_that_shrinks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_about_frames, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_about_pages, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_about_rounds, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lies_at_the_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
