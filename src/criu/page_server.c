/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/page_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"

/* Commands, the low 16 bits of the first word; the high 16 are the flags of ADD_F. */
enum command {
        COMMAND_ADD = 1,
        COMMAND_HOLE = 2,
        COMMAND_OPEN = 3,   /* no answer */
        COMMAND_OPEN2 = 4,  /* answer: one byte, whether a parent image exists */
        COMMAND_PARENT = 5, /* answer: the same as an int */
        COMMAND_ADD_F = 6,
        COMMAND_CLOSE = 0x1023, /* answer: int32, 0 */
        COMMAND_FORCE_CLOSE = 0x1024,
};

/*
 * C structs of CRIU on the socket, in its own byte order and padding:
 *   up to 4.1.1   0 u32 cmd,  4 u32 nr_pages,  8 u64 vaddr,    16 u64 dst_id
 *   4.2           0 u32 cmd,  (4 padding)      8 u64 nr_pages, 16 u64 vaddr,  24 u64 dst_id
 * The first command is OPEN2 (or PARENT), with no pages, address 0, and a dst_id that is never 0: so bytes 16 to 23
 * hold it in the short form and are 0 in the long one.
 */
enum { HEADER_SHORT = 24, HEADER_LONG = 32 };

/* A sanity limit on one command: 2^36 pages are 256 TiB. */
#define COMMAND_PAGES_MAX (UINT64_C(1) << 36)
#define ADDRESS_MAX (UINT64_C(1) << 57)

/* Largest pid of Linux (PID_MAX_LIMIT). */
#define TASK_ID_MAX (UINT64_C(1) << 22)

/* Reads before the loop's other sources get their turn. */
#define READS_PER_TURN 32

struct command_header {
        uint32_t command, flags;
        uint64_t n_pages, vaddr, image;
};

enum state {
        STATE_HEADER,  /* reading a header */
        STATE_COMMAND, /* a whole one is there and wants to be executed (again: the sink had no room) */
        STATE_RESERVE, /* pages follow (or none, for a hole); memory is needed */
        STATE_DATA,    /* reading pages into it */
        STATE_OVER,
};

struct page_server {
        struct source *source;
        int fd;
        struct page_sink sink;
        void *context;
        enum state state;
        size_t header_size; /* 0: not known yet */
        uint8_t header[HEADER_LONG];
        size_t have; /* bytes of the header read */
        struct command_header command;
        bool opened;          /* an image is open: */
        uint64_t image;       /* this one */
        uint64_t left;        /* pages of the command that were not committed yet */
        uint8_t *data;        /* the sink's memory for the current batch */
        size_t filled, wants; /* bytes of it */
        uint64_t pages;       /* with data, so far */
};

bool page_image_is_valid(uint64_t image)
{
        uint64_t id = image >> 8;

        switch (image & 0xff) {
        case PAGE_IMAGE_TASK:
                return id > 0 && id <= TASK_ID_MAX;
        case PAGE_IMAGE_SHMEM:
                return true; /* the first SysV segment of an IPC namespace is 0 */
        default:
                return false;
        }
}

void page_server_free(struct page_server *server)
{
        if (!server)
                return;
        source_free(server->source);
        if (server->fd >= 0)
                (void)close(server->fd);
        free(server);
}

static uint32_t get32(const uint8_t *p)
{
        uint32_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}

static uint64_t get64(const uint8_t *p)
{
        uint64_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}

static void parse_header(struct page_server *s)
{
        const uint8_t *h = s->header;
        struct command_header *c = &s->command;
        uint32_t word = get32(h);

        c->command = word & 0xffff;
        c->flags = word >> 16;
        if (s->header_size == HEADER_LONG) {
                c->n_pages = get64(h + 8);
                c->vaddr = get64(h + 16);
                c->image = get64(h + 24);
        } else {
                c->n_pages = get32(h + 4);
                c->vaddr = get64(h + 8);
                c->image = get64(h + 16);
        }
        if (c->command == COMMAND_ADD)
                c->flags = PE_PRESENT;
        else if (c->command == COMMAND_HOLE)
                c->flags = PE_PARENT;
}

/* Called with 24 bytes of the first header. */
static void find_header_size(struct page_server *s)
{
        uint32_t command = get32(s->header) & 0xffff;

        /* A dump that failed before it had any pages: all else is zero, and what is left of a long one is too. */
        if (command == COMMAND_CLOSE || command == COMMAND_FORCE_CLOSE)
                s->header_size = HEADER_SHORT;
        else
                s->header_size = get64(s->header + 16) != 0 ? HEADER_SHORT : HEADER_LONG;
}

static int answer(struct page_server *s, const void *data, size_t size)
{
        ssize_t n = send(s->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0)
                return -errno;
        return (size_t)n == size ? 0 : -EIO;
}

/* Nothing may touch `s` after this. */
static void finish(struct page_server *s, const struct error *err)
{
        s->state = STATE_OVER;
        source_free(s->source);
        s->source = NULL;
        if (err->kind != ERROR_NONE)
                (void)shutdown(s->fd, SHUT_RDWR); /* CRIU must not take this for success */
        s->sink.done(err, s->pages, s->context);
}

static int check_add(const struct page_server *s, struct error *err)
{
        const struct command_header *c = &s->command;

        if (!s->opened || c->image != s->image)
                return error_set(err, EPROTO, "criu sent pages of an image it had not opened");
        if (c->n_pages == 0 || c->n_pages > COMMAND_PAGES_MAX)
                return error_set(err, EPROTO, "criu sent %llu pages at once", (unsigned long long)c->n_pages);
        if (c->vaddr % PAGE_BYTES || c->vaddr > ADDRESS_MAX - c->n_pages * PAGE_BYTES)
                return error_set(err, EPROTO, "criu sent pages of an impossible address 0x%llx",
                                 (unsigned long long)c->vaddr);
        if (c->flags == 0 || c->flags & ~(uint32_t)(PE_PARENT | PE_LAZY | PE_PRESENT))
                return error_set(err, EPROTO, "criu sent pages with flags 0x%x, which are not known", c->flags);
        return 0;
}

/* 0 and the next state set, 1 when the session is through, -EAGAIN, or another error (described). */
static int execute(struct page_server *s, struct error *err)
{
        const struct command_header *c = &s->command;
        static const int32_t zero = 0;
        int r;

        switch (c->command) {
        case COMMAND_OPEN:
        case COMMAND_OPEN2:
                if (!page_image_is_valid(c->image))
                        return error_set(err, EPROTO, "criu opened an image of an unknown type");
                r = s->sink.open(c->image, s->context);
                if (r == -EAGAIN)
                        return r;
                if (r < 0)
                        return error_errno(err, -r, "cannot take memory from criu");
                s->opened = true;
                s->image = c->image;
                r = c->command == COMMAND_OPEN2 ? answer(s, &zero, 1) : 0;
                break;
        case COMMAND_PARENT:
                r = answer(s, &zero, sizeof(zero));
                break;
        case COMMAND_ADD:
        case COMMAND_ADD_F:
        case COMMAND_HOLE:
                r = check_add(s, err);
                if (r < 0)
                        return r;
                s->left = c->n_pages;
                s->state = STATE_RESERVE;
                return 0;
        case COMMAND_CLOSE:
        case COMMAND_FORCE_CLOSE:
                r = answer(s, &zero, sizeof(zero));
                return r < 0 ? error_errno(err, -r, "cannot answer criu") : 1;
        default:
                return error_set(err, EPROTO, "criu sent page-server command 0x%x, which is not known", c->command);
        }
        if (r < 0)
                return error_errno(err, -r, "cannot answer criu");
        s->state = STATE_HEADER;
        return 0;
}

static uint32_t batch_pages(const struct page_server *s)
{
        return s->left < PAGE_BATCH_MAX ? (uint32_t)s->left : PAGE_BATCH_MAX;
}

static struct page_batch next_batch(const struct page_server *s)
{
        return (struct page_batch){
                .image = s->image,
                .vaddr = s->command.vaddr + (s->command.n_pages - s->left) * PAGE_BYTES,
                .n_pages = batch_pages(s),
                .flags = s->command.flags,
        };
}

static int commit(struct page_server *s, struct error *err)
{
        const struct page_batch batch = next_batch(s);

        int r = s->sink.commit(&batch, s->context);
        if (r < 0)
                return error_errno(err, -r, "cannot take memory from criu");
        if (batch.flags & PE_PRESENT)
                s->pages += batch.n_pages;
        s->data = NULL;
        s->left -= batch.n_pages;
        s->state = s->left > 0 ? STATE_RESERVE : STATE_HEADER;
        return 0;
}

static int reserve(struct page_server *s, struct error *err)
{
        const struct page_batch batch = next_batch(s);
        void *data;

        int r = s->sink.reserve(&batch, &data, s->context);
        if (r == -EAGAIN)
                return r;
        if (r < 0)
                return error_errno(err, -r, "cannot take memory from criu");
        s->data = data;
        s->filled = 0;
        s->wants = (size_t)batch.n_pages * PAGE_BYTES;
        if (!(batch.flags & PE_PRESENT))
                return commit(s, err);
        s->state = STATE_DATA;
        return 0;
}

static int header_is_whole(struct page_server *s)
{
        if (s->header_size == 0 && s->have >= HEADER_SHORT)
                find_header_size(s);
        if (s->header_size == 0 || s->have < s->header_size)
                return 0;
        parse_header(s);
        s->have = 0;
        s->state = STATE_COMMAND;
        return 1;
}

/* Reads what is wanted now: a header, or pages and the header behind them in one go. */
static int read_some(struct page_server *s, struct error *err)
{
        struct iovec iov[2];
        int n_iov = 0;
        bool data = s->state == STATE_DATA;

        if (data)
                iov[n_iov++] = (struct iovec){s->data + s->filled, s->wants - s->filled};
        if (!data || s->left <= PAGE_BATCH_MAX) {
                size_t until = s->header_size ? s->header_size : HEADER_SHORT;
                iov[n_iov++] = (struct iovec){s->header + s->have, until - s->have};
        }
        ssize_t n = readv(s->fd, iov, n_iov);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return -EAGAIN;
        if (n < 0)
                return error_errno(err, errno, "criu's page connection broke");
        if (n == 0)
                return error_set(err, ECONNRESET, "criu closed its page connection before the end");
        size_t got = (size_t)n;
        if (data) {
                size_t part = got < iov[0].iov_len ? got : iov[0].iov_len;
                s->filled += part;
                got -= part;
        }
        s->have += got;
        if (data && s->filled == s->wants)
                return commit(s, err);
        return 0;
}

/* One step. 0: go on, 1: through, -EAGAIN: the socket (`*ret_socket`) or the sink has to get ready. */
static int step(struct page_server *s, bool *ret_socket, struct error *err)
{
        *ret_socket = false;
        switch (s->state) {
        case STATE_HEADER:
                if (header_is_whole(s))
                        return 0;
                __attribute__((fallthrough));
        case STATE_DATA:
                *ret_socket = true;
                return read_some(s, err);
        case STATE_COMMAND:
                return execute(s, err);
        case STATE_RESERVE:
                return reserve(s, err);
        case STATE_OVER:
                break;
        }
        return error_set(err, EINVAL, "the page connection is over");
}

static bool wants_bytes(const struct page_server *s)
{
        return s->state == STATE_DATA ||
               (s->state == STATE_HEADER && s->have < (s->header_size ? s->header_size : HEADER_SHORT));
}

static void pump(struct page_server *s)
{
        struct error err = {};
        bool socket = true;
        int r = 0;

        /* A turn ends only where bytes are wanted: what was read already would not wake us again. */
        for (int reads = 0; r == 0 && !(reads >= READS_PER_TURN && wants_bytes(s)); reads += socket)
                r = step(s, &socket, &err);
        if (r == 0 || (r == -EAGAIN && socket)) {
                r = source_set_events(s->source, EPOLLIN);
                if (r < 0)
                        (void)error_errno(&err, -r, "cannot watch criu's page connection");
        } else if (r == -EAGAIN) {
                /* Without room there is no use in hearing that CRIU has more; its splice() waits. */
                r = source_set_events(s->source, 0);
                if (r < 0)
                        (void)error_errno(&err, -r, "cannot watch criu's page connection");
        }
        if (r != 0 || err.kind != ERROR_NONE)
                finish(s, &err);
}

static void on_readable(int fd, uint32_t events, void *context)
{
        struct page_server *s = context;

        (void)fd;
        /* A sink without room still wants to hear that CRIU is gone. */
        bool stuck = s->state == STATE_COMMAND || s->state == STATE_RESERVE;
        if (stuck && !(events & EPOLLIN) && events & (EPOLLHUP | EPOLLERR)) {
                struct error err = {};
                (void)error_set(&err, ECONNRESET, "criu closed its page connection before the end");
                finish(s, &err);
                return;
        }
        pump(s);
}

void page_server_resume(struct page_server *server)
{
        if (server->state == STATE_COMMAND || server->state == STATE_RESERVE)
                pump(server);
}

int page_server_new(struct loop *loop, int fd, const struct page_sink *sink, void *context, struct page_server **ret)
{
        AUTO_FD int owned = fd;
        int r = fd_nonblock(owned);

        if (r < 0)
                return r;
        CLEANUP(page_server_free_ptr) struct page_server *s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (struct page_server){.fd = TAKE_FD(owned), .sink = *sink, .context = context};
        r = loop_add_io(loop, s->fd, EPOLLIN, on_readable, s, &s->source);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}
