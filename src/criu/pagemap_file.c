/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/pagemap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "criu/page_server.h"

/* criu/include/magic.h: every image but the inventory begins with the first, then its own. Little-endian words. */
#define MAGIC_COMMON 0x54564319U
#define MAGIC_PAGEMAP 0x56084025U

/*
 * images/pagemap.proto. nr_pages was field 2 as u32 until 4.1.1; 4.2 writes 64 bits as field 5 and still reads field 2,
 * so field 2 alone suits both, as long as an entry is kept below ENTRY_PAGES_MAX (4 TiB).
 */
enum { HEAD_PAGES_ID = 1 };
enum { ENTRY_VADDR = 1, ENTRY_NR_PAGES = 2, ENTRY_FLAGS = 4 };
#define ENTRY_PAGES_MAX (UINT64_C(1) << 30)

/* One entry: size word, three fields of one byte tag and varints of at most 10, 5 and 5 bytes. */
#define ENTRY_BYTES_MAX (4 + 3 + 10 + 5 + 5)
#define BUFFER_BYTES (64U * 1024)

struct pagemap_file {
        int fd;
        uint64_t vaddr, n_pages; /* the entry that still grows; no pages: none */
        uint32_t flags;
        size_t used;
        uint8_t buffer[BUFFER_BYTES];
};

static void put_word(struct pagemap_file *f, uint32_t v)
{
        for (int shift = 0; shift < 32; shift += 8)
                f->buffer[f->used++] = (uint8_t)(v >> shift);
}

/* A protobuf field of wire type 0. */
static size_t put_field(uint8_t *to, unsigned number, uint64_t value)
{
        size_t n = 0;

        to[n++] = (uint8_t)(number << 3);
        for (; value >= 0x80; value >>= 7)
                to[n++] = (uint8_t)(value | 0x80);
        to[n++] = (uint8_t)value;
        return n;
}

static void put_part(struct pagemap_file *f, const uint8_t *body, size_t size)
{
        put_word(f, (uint32_t)size);
        memcpy(f->buffer + f->used, body, size);
        f->used += size;
}

static int flush(struct pagemap_file *f)
{
        int r = f->used ? fd_write_all(f->fd, f->buffer, f->used) : 0;

        f->used = 0;
        return r;
}

static int put_entry(struct pagemap_file *f)
{
        uint8_t body[ENTRY_BYTES_MAX];
        size_t n = 0;

        if (f->n_pages == 0)
                return 0;
        if (f->used + ENTRY_BYTES_MAX > BUFFER_BYTES) {
                int r = flush(f);
                if (r < 0)
                        return r;
        }
        n += put_field(body + n, ENTRY_VADDR, f->vaddr);
        n += put_field(body + n, ENTRY_NR_PAGES, f->n_pages);
        n += put_field(body + n, ENTRY_FLAGS, f->flags);
        put_part(f, body, n);
        f->n_pages = 0;
        return 0;
}

int pagemap_file_new(int dir_fd, const char *name, uint32_t pages_id, struct pagemap_file **ret)
{
        uint8_t head[16];
        struct pagemap_file *f = malloc(sizeof(*f));

        if (!f)
                return -ENOMEM;
        f->fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (f->fd < 0) {
                int r = -errno;
                free(f);
                return r;
        }
        f->n_pages = 0;
        f->used = 0;
        put_word(f, MAGIC_COMMON);
        put_word(f, MAGIC_PAGEMAP);
        put_part(f, head, put_field(head, HEAD_PAGES_ID, pages_id));
        *ret = f;
        return 0;
}

int pagemap_file_add(struct pagemap_file *file, uint64_t vaddr, uint64_t n_pages, uint32_t flags)
{
        while (n_pages) {
                const bool continues = file->n_pages && file->flags == flags &&
                                       file->vaddr + file->n_pages * PAGE_BYTES == vaddr &&
                                       file->n_pages < ENTRY_PAGES_MAX;
                if (!continues) {
                        int r = put_entry(file);
                        if (r < 0)
                                return r;
                        file->vaddr = vaddr;
                        file->flags = flags;
                }
                const uint64_t room = ENTRY_PAGES_MAX - file->n_pages, n = n_pages < room ? n_pages : room;
                file->n_pages += n;
                vaddr += n * PAGE_BYTES;
                n_pages -= n;
        }
        return 0;
}

int pagemap_file_close(struct pagemap_file *file)
{
        int r = put_entry(file);

        if (r == 0)
                r = flush(file);
        (void)close(file->fd);
        free(file);
        return r;
}
