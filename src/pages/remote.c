/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "criu/page_server.h"
#include "pages/ledger.h"
#include "pages/service.h"

#define WORD_BITS 64U

/* The open file that pages go to: they come in order, but for those that somebody waits for. */
#define OPEN_MAX 8

struct open_file {
        uint32_t file;
        int fd; /* -1: none */
};

struct page_remote {
        struct page_ledger *ledger;
        int images_fd, wanted_bell, here_bell;
        struct ledger_away *by_address; /* a copy, by image and address */
        struct ledger_away *by_place;   /* another, by file and position */
        uint64_t n;
        uint64_t **asked;             /* by file: a bit for each page; NULL: none of it was */
        uint64_t cursor, cursor_page; /* of by_address, and in it: those before were all asked for */
        /* Around a page that a task waits for: where in by_address, and up to which address. */
        uint64_t near, near_end; /* the second 0: nothing */
        struct remote_run told;
        struct open_file files[OPEN_MAX];
        size_t next_file;
};

void page_remote_free(struct page_remote *remote)
{
        if (!remote)
                return;
        for (uint32_t i = 0; remote->asked && i < remote->ledger->head->n_files; i++)
                free(remote->asked[i]);
        for (size_t i = 0; i < OPEN_MAX; i++)
                if (remote->files[i].fd >= 0)
                        (void)close(remote->files[i].fd);
        if (remote->wanted_bell >= 0)
                (void)close(remote->wanted_bell);
        if (remote->here_bell >= 0)
                (void)close(remote->here_bell);
        if (remote->images_fd >= 0)
                (void)close(remote->images_fd);
        free(remote->asked);
        free(remote->by_address);
        free(remote->by_place);
        page_ledger_free(remote->ledger);
        free(remote);
}

static int compare_addresses(const void *a, const void *b)
{
        const struct ledger_away *x = a, *y = b;

        return x->image != y->image ? (x->image > y->image) - (x->image < y->image)
                                    : (x->vaddr > y->vaddr) - (x->vaddr < y->vaddr);
}

static int compare_places(const void *a, const void *b)
{
        const struct ledger_away *x = a, *y = b;

        return x->file != y->file ? (x->file > y->file) - (x->file < y->file)
                                  : (x->position > y->position) - (x->position < y->position);
}

static int copy_lists(struct page_remote *r)
{
        const struct ledger_away *list = page_ledger_away(r->ledger);

        r->n = r->ledger->head->n_away;
        r->by_address = calloc(r->n, sizeof(*r->by_address));
        r->by_place = calloc(r->n, sizeof(*r->by_place));
        r->asked = calloc((size_t)r->ledger->head->n_files + 1, sizeof(*r->asked));
        if (!r->by_address || !r->by_place || !r->asked)
                return -ENOMEM;
        memcpy(r->by_address, list, r->n * sizeof(*list));
        memcpy(r->by_place, list, r->n * sizeof(*list));
        qsort(r->by_address, r->n, sizeof(*list), compare_addresses);
        qsort(r->by_place, r->n, sizeof(*list), compare_places);
        return 0;
}

static int open_all(struct page_remote *r, int images_fd)
{
        r->images_fd = fcntl(images_fd, F_DUPFD_CLOEXEC, 3);
        if (r->images_fd < 0)
                return -errno;
        r->wanted_bell = openat(images_fd, PAGE_SERVICE_WANTED, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
        r->here_bell = openat(images_fd, PAGE_SERVICE_HERE, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
        return r->wanted_bell < 0 || r->here_bell < 0 ? -errno : 0;
}

int page_remote_open(const char *ledger_path, int images_fd, struct page_remote **ret, struct error *err)
{
        AUTO_FD int fd = open(ledger_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return error_errno(err, errno, "cannot open %s", ledger_path);
        CLEANUP(page_remote_free_ptr) struct page_remote *r = calloc(1, sizeof(*r));
        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        r->images_fd = r->wanted_bell = r->here_bell = -1;
        for (size_t i = 0; i < OPEN_MAX; i++)
                r->files[i].fd = -1;
        int result = page_ledger_open(fd, &r->ledger, err);
        if (result < 0)
                return result;
        if (r->ledger->head->n_away == 0)
                return 1;
        result = copy_lists(r);
        if (result == 0)
                result = open_all(r, images_fd);
        if (result < 0)
                return error_errno(err, -result, "cannot bring pages from another host");
        *ret = TAKE_PTR(r);
        return 0;
}

int page_remote_bell(const struct page_remote *remote)
{
        return remote->wanted_bell;
}

uint64_t page_remote_missing_bytes(const struct page_remote *remote)
{
        const struct ledger_head *h = remote->ledger->head;

        return (h->total_away - __atomic_load_n(&h->arrived, __ATOMIC_ACQUIRE)) * PAGE_BYTES;
}

uint64_t page_remote_total_bytes(const struct page_remote *remote)
{
        return remote->ledger->head->total_away * PAGE_BYTES;
}

uint64_t page_remote_faults(const struct page_remote *remote)
{
        return remote->ledger->head->faulted;
}

/* -- asking ------------------------------------------------------------------------------------------------------- */

static bool is_asked(const struct page_remote *r, uint32_t file, uint64_t position)
{
        return r->asked[file] && r->asked[file][position / WORD_BITS] >> position % WORD_BITS & 1;
}

/* Without memory to note it a page may be asked for twice. */
static void note_asked(struct page_remote *r, uint32_t file, uint64_t position, uint64_t n)
{
        if (!r->asked[file])
                r->asked[file] = calloc(r->ledger->files[file].n_pages / WORD_BITS + 1, sizeof(**r->asked));
        for (uint64_t i = position; r->asked[file] && i < position + n; i++)
                r->asked[file][i / WORD_BITS] |= UINT64_C(1) << i % WORD_BITS;
}

static bool is_due(const struct page_remote *r, const struct ledger_away *a, uint64_t i)
{
        return !page_ledger_here(r->ledger, a->file, a->position + i, 1) && !is_asked(r, a->file, a->position + i);
}

/* The pages of one run from `first` on that are due, as long as they are. */
static void ask(struct page_remote *r, const struct ledger_away *a, uint64_t first, uint64_t max,
                struct remote_run *ret)
{
        uint64_t n = 1;

        while (n < max && first + n < a->n_pages && is_due(r, a, first + n))
                n++;
        note_asked(r, a->file, a->position + first, n);
        *ret = (struct remote_run){.image = a->image, .vaddr = a->vaddr + first * PAGE_BYTES, .n_pages = n};
}

/* The last that begins at or before it. */
static const struct ledger_away *find_place(const struct page_remote *r, uint32_t file, uint64_t position)
{
        const struct ledger_away key = {.file = file, .position = position};
        uint64_t low = 0, high = r->n;

        while (low < high) {
                const uint64_t middle = low + (high - low) / 2;
                if (compare_places(&r->by_place[middle], &key) <= 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        const struct ledger_away *a = low ? &r->by_place[low - 1] : NULL;
        return a && a->file == file && position - a->position < a->n_pages ? a : NULL;
}

static const struct ledger_away *find_address(const struct page_remote *r, uint64_t image, uint64_t vaddr)
{
        const struct ledger_away key = {.image = image, .vaddr = vaddr};
        uint64_t low = 0, high = r->n;

        while (low < high) {
                const uint64_t middle = low + (high - low) / 2;
                if (compare_addresses(&r->by_address[middle], &key) <= 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        const struct ledger_away *a = low ? &r->by_address[low - 1] : NULL;
        return a && a->image == image && (vaddr - a->vaddr) / PAGE_BYTES < a->n_pages ? a : NULL;
}

/* What follows the page that was told last, in runs of their own where others lie between, or in another file. */
static bool ask_near(struct page_remote *r, uint64_t image, struct remote_run *ret)
{
        for (; r->near_end && r->near < r->n; r->near++) {
                const struct ledger_away *a = &r->by_address[r->near];
                if (a->image != image || a->vaddr >= r->near_end)
                        break;
                for (uint64_t i = 0; i < a->n_pages && a->vaddr + i * PAGE_BYTES < r->near_end; i++)
                        if (a->vaddr + i * PAGE_BYTES > ret->vaddr && is_due(r, a, i)) {
                                ask(r, a, i, (r->near_end - a->vaddr) / PAGE_BYTES - i, ret);
                                return true;
                        }
        }
        r->near_end = 0;
        return false;
}

bool page_remote_wanted(struct page_remote *remote, uint64_t max, struct remote_run *ret)
{
        uint64_t position;
        char bytes[256];
        size_t cursor = 0;
        uint32_t file;

        if (remote->near_end && ask_near(remote, remote->told.image, &remote->told)) {
                *ret = remote->told;
                return true;
        }
        while (read(remote->wanted_bell, bytes, sizeof(bytes)) > 0)
                ;
        while (page_ledger_wanted(remote->ledger, &cursor, &file, &position)) {
                const struct ledger_away *a = find_place(remote, file, position);
                if (!a || !is_due(remote, a, position - a->position))
                        continue;
                ask(remote, a, position - a->position, max, ret);
                remote->told = *ret;
                remote->near = (uint64_t)(find_address(remote, ret->image, ret->vaddr) - remote->by_address);
                remote->near_end = ret->vaddr + max * PAGE_BYTES;
                return true;
        }
        return false;
}

bool page_remote_next(struct page_remote *remote, uint64_t max, struct remote_run *ret)
{
        for (; remote->cursor < remote->n; remote->cursor++, remote->cursor_page = 0) {
                const struct ledger_away *a = &remote->by_address[remote->cursor];
                for (; remote->cursor_page < a->n_pages; remote->cursor_page++)
                        if (is_due(remote, a, remote->cursor_page)) {
                                ask(remote, a, remote->cursor_page, max, ret);
                                return true;
                        }
        }
        return false;
}

void page_remote_again(struct page_remote *remote)
{
        for (uint32_t i = 0; i < remote->ledger->head->n_files; i++)
                free(TAKE_PTR(remote->asked[i]));
        remote->cursor = remote->cursor_page = remote->near_end = 0;
}

/* -- what comes --------------------------------------------------------------------------------------------------- */

static int file_of(struct page_remote *r, uint32_t file)
{
        struct open_file *f = NULL;

        for (size_t i = 0; i < OPEN_MAX; i++)
                if (r->files[i].fd >= 0 && r->files[i].file == file)
                        return r->files[i].fd;
        f = &r->files[r->next_file++ % OPEN_MAX];
        if (f->fd >= 0)
                (void)close(TAKE_FD(f->fd));
        f->file = file;
        f->fd = openat(r->images_fd, r->ledger->files[file].name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        return f->fd < 0 ? -errno : f->fd;
}

static int write_pages(int fd, const uint8_t *data, uint64_t n_pages, uint64_t position)
{
        const size_t size = (size_t)n_pages * PAGE_BYTES;

        for (size_t done = 0; done < size;) {
                ssize_t n = pwrite(fd, data + done, size - done, (off_t)(position * PAGE_BYTES + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t)n;
        }
        return 0;
}

/* A page that is here may be in use, or its place given back: it is not written again. */
static int take_some(struct page_remote *r, uint32_t file, uint64_t position, uint64_t n_pages, const uint8_t *pages)
{
        for (uint64_t done = 0, n; done < n_pages; done += n) {
                n = page_ledger_here(r->ledger, file, position + done, n_pages - done);
                if (n)
                        continue;
                n = page_ledger_missing(r->ledger, file, position + done, n_pages - done);
                const int fd = file_of(r, file);
                if (fd < 0)
                        return fd;
                int result = write_pages(fd, pages + done * PAGE_BYTES, n, position + done);
                if (result < 0)
                        return result;
                (void)page_ledger_arrived(r->ledger, file, position + done, n);
        }
        return 0;
}

int page_remote_take(struct page_remote *remote, const struct remote_run *run, const void *pages, struct error *err)
{
        const uint8_t *from = pages;

        for (uint64_t done = 0, n; done < run->n_pages; done += n) {
                const uint64_t vaddr = run->vaddr + done * PAGE_BYTES;
                const struct ledger_away *a = vaddr % PAGE_BYTES ? NULL : find_address(remote, run->image, vaddr);
                if (!a)
                        return error_set(err, EBADMSG, "a page at 0x%" PRIx64 " that was not left there", vaddr);
                const uint64_t first = (vaddr - a->vaddr) / PAGE_BYTES;
                n = a->n_pages - first < run->n_pages - done ? a->n_pages - first : run->n_pages - done;
                int r = take_some(remote, a->file, a->position + first, n, from + done * PAGE_BYTES);
                if (r < 0)
                        return error_errno(err, -r, "cannot keep pages of the source");
        }
        return 0;
}

void page_remote_ring(struct page_remote *remote)
{
        (void)!write(remote->here_bell, "", 1);
}
