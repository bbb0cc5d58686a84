/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "memory/dedup.h"

_Static_assert(RUN_TABLE_BYTES + (uint64_t)PAGE_BATCH_MAX * PAGE_BYTES <= BULK_MAX,
               "a batch of pages fits into a slot");

/*
 * pages --image_sender_files()--> files (NAME, DATA…)* --> end mark --> draining --bundle idle--> on_sent
 * Each step needs a slot of a link; without one it waits for image_sender_writable().
 */
enum phase { PHASE_PAGES, PHASE_FILES, PHASE_END, PHASE_DRAINING, PHASE_OVER };

struct image_sender {
        struct bundle *bundle;
        bool checked;
        struct dedup *dedup; /* NULL: all pages are sent with their contents */
        void *slot;          /* reserved, not yet committed */
        struct {
                uint64_t image;
                uint32_t flags, n_runs, n_pages;
        } filling; /* pages in the slot that are not sent yet, as long as more of their kind come */
        uint64_t frames, pages;
        unsigned rounds;
        int failed; /* pages were: what is in the slot may be half of what it was to become */

        enum phase phase;
        int images_fd;
        char **names;
        size_t n_names, room, next;
        int file;                /* open one, or -1: names[next - 1] */
        uint64_t size, position; /* of it */
        void (*on_sent)(int result, void *context);
        void *on_sent_context;
};

int image_sender_new(struct bundle *bundle, bool checked, struct image_sender **ret)
{
        struct image_sender *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        *s = (struct image_sender){.bundle = bundle, .checked = checked, .images_fd = -1, .file = -1};
        *ret = s;
        return 0;
}

int image_sender_dedup(struct image_sender *sender, size_t places)
{
        return sender->checked && !sender->dedup && !sender->pages ? dedup_new(places, &sender->dedup) : -EINVAL;
}

void image_sender_saved(const struct image_sender *sender, uint64_t *ret_zero, uint64_t *ret_same)
{
        *ret_zero = sender->dedup ? dedup_zero_pages(sender->dedup) * PAGE_BYTES : 0;
        *ret_same = sender->dedup ? dedup_same_pages(sender->dedup) * PAGE_BYTES : 0;
}

void image_sender_free(struct image_sender *sender)
{
        if (!sender)
                return;
        dedup_free(sender->dedup);
        if (sender->file >= 0)
                (void)close(sender->file);
        for (size_t i = 0; i < sender->n_names; i++)
                free(sender->names[i]);
        free(sender->names);
        free(sender);
}

void image_sender_detach(struct image_sender *sender)
{
        sender->bundle = NULL;
        sender->slot = NULL;
        sender->filling.n_runs = sender->filling.n_pages = 0;
}

static int send_slot(struct image_sender *s, const struct bulk_frame *frame)
{
        int r = s->bundle ? bundle_commit(s->bundle, frame) : -ENOTCONN;

        if (r < 0)
                return r;
        s->slot = NULL;
        s->frames++;
        return 0;
}

static int send_pages(struct image_sender *s, uint64_t image, uint32_t flags, uint32_t n_runs, uint32_t n_pages)
{
        struct bulk_frame frame = {
                .type = BULK_PAGES,
                .flags = (uint16_t)(flags | (s->checked ? BULK_CHECKED : 0)),
                .size = RUN_TABLE_BYTES + n_pages * PAGE_BYTES,
                .object = image,
                .offset = n_runs,
                .count = n_pages,
        };

        if (!s->bundle)
                return -ENOTCONN;
        if (!s->slot || n_pages == 0 || n_pages > PAGE_BATCH_MAX || n_runs == 0 || n_runs > RUNS_PER_TABLE)
                return -EINVAL;
        memset((uint8_t *)s->slot + (size_t)n_runs * RUN_BYTES, 0, RUN_TABLE_BYTES - (size_t)n_runs * RUN_BYTES);
        int r = s->failed;
        if (r == 0 && s->dedup)
                r = dedup_frame(s->dedup, &frame, s->slot);
        else if (r == 0 && s->checked)
                page_digest(s->slot, n_pages, (uint8_t *)s->slot + DIGEST_AT);
        if (r == 0)
                r = send_slot(s, &frame);
        if (r == 0)
                s->pages += n_pages;
        else
                s->failed = r;
        return r;
}

int image_sender_flush(struct image_sender *s)
{
        if (!s->bundle)
                return -ENOTCONN;
        if (s->filling.n_runs == 0)
                return 0;
        int r = send_pages(s, s->filling.image, s->filling.flags, s->filling.n_runs, s->filling.n_pages);
        if (r == 0)
                s->filling.n_runs = s->filling.n_pages = 0;
        return r;
}

/* An empty one. One that was reserved and not used stays ours. */
static int get_slot(struct image_sender *s)
{
        int r = image_sender_flush(s);

        return r < 0 || s->slot ? r : bundle_reserve(s->bundle, &s->slot);
}

/* -- what CRIU dumps -------------------------------------------------------------------------------------------------
 */

/* Behind the pages that wait in the slot, if they are of the same kind and there is room. */
int image_sender_batch_reserve(const struct page_batch *batch, void **ret_data, void *sender)
{
        struct image_sender *s = sender;
        const bool joins = s->filling.n_runs && s->filling.n_runs < RUNS_PER_TABLE &&
                           s->filling.image == batch->image && s->filling.flags == batch->flags &&
                           batch->n_pages <= PAGE_BATCH_MAX - s->filling.n_pages;

        if (s->phase != PHASE_PAGES || !(batch->flags & PE_PRESENT) || batch->n_pages > PAGE_BATCH_MAX)
                return -EINVAL;
        int r = joins ? 0 : get_slot(s);
        if (r == 0)
                *ret_data = (uint8_t *)s->slot + RUN_TABLE_BYTES + (size_t)s->filling.n_pages * PAGE_BYTES;
        return r;
}

int image_sender_batch_commit(const struct page_batch *batch, void *sender)
{
        struct image_sender *s = sender;

        if (!s->bundle)
                return -ENOTCONN;
        if (!s->slot || batch->n_pages > PAGE_BATCH_MAX - s->filling.n_pages)
                return -EINVAL;
        page_span_put((uint8_t *)s->slot + (size_t)s->filling.n_runs * RUN_BYTES,
                      &(struct page_span){.vaddr = batch->vaddr, .n_pages = batch->n_pages});
        s->filling.image = batch->image;
        s->filling.flags = batch->flags;
        s->filling.n_runs++;
        s->filling.n_pages += batch->n_pages;
        return s->filling.n_pages == PAGE_BATCH_MAX ? image_sender_flush(s) : 0;
}

static int send_mark(struct image_sender *s, const struct bulk_frame *frame)
{
        if (s->phase != PHASE_PAGES)
                return -EINVAL;
        int r = get_slot(s);
        return r < 0 ? r : send_slot(s, frame);
}

int image_sender_open(uint64_t image, void *sender)
{
        return send_mark(sender, &(struct bulk_frame){.type = BULK_PAGES_OPEN, .object = image});
}

/* -- rounds ----------------------------------------------------------------------------------------------------------
 */

int image_sender_round(struct image_sender *sender, unsigned number)
{
        int r = send_mark(sender, &(struct bulk_frame){.type = BULK_ROUND, .object = number});

        sender->rounds += r == 0;
        return r;
}

unsigned image_sender_rounds(const struct image_sender *sender)
{
        return sender->rounds;
}

int image_sender_last(struct image_sender *sender)
{
        return send_mark(sender, &(struct bulk_frame){.type = BULK_LAST});
}

int image_sender_reserve(struct image_sender *sender, uint8_t **ret)
{
        int r = sender->phase == PHASE_PAGES ? get_slot(sender) : -EINVAL;

        if (r == 0)
                *ret = sender->slot;
        return r;
}

int image_sender_pages(struct image_sender *sender, uint64_t image, uint32_t n_runs, uint32_t n_pages)
{
        return sender->phase == PHASE_PAGES ? send_pages(sender, image, PE_PRESENT, n_runs, n_pages) : -EINVAL;
}

static int send_runs(struct image_sender *s, enum bulk_type type, uint64_t image, uint32_t n_runs)
{
        return send_mark(
                s, &(struct bulk_frame){
                           .type = (uint16_t)type, .size = n_runs * RUN_BYTES, .object = image, .offset = n_runs});
}

int image_sender_kept(struct image_sender *sender, uint64_t image, uint32_t n_runs)
{
        return send_runs(sender, BULK_PAGES_KEPT, image, n_runs);
}

int image_sender_left(struct image_sender *sender, uint64_t image, uint32_t n_runs)
{
        return send_runs(sender, BULK_PAGES_LEFT, image, n_runs);
}

bool image_sender_idle(const struct image_sender *sender)
{
        return sender->bundle && bundle_idle(sender->bundle);
}

/* -- image files -----------------------------------------------------------------------------------------------------
 */

static int add_name(struct image_sender *s, const char *name)
{
        if (s->n_names >= IMAGE_FILES_MAX)
                return -EFBIG;
        if (s->n_names == s->room) {
                size_t room = s->room ? s->room * 2 : 64;
                char **names = reallocarray(s->names, room, sizeof(*names));
                if (!names)
                        return -ENOMEM;
                s->names = names;
                s->room = room;
        }
        s->names[s->n_names] = strdup(name);
        if (!s->names[s->n_names])
                return -ENOMEM;
        s->n_names++;
        return 0;
}

static int list_files(struct image_sender *s)
{
        AUTO_FD int fd = openat(s->images_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir)
                return -errno;
        (void)TAKE_FD(fd);
        for (;;) {
                struct stat st;
                errno = 0;
                const struct dirent *entry = readdir(dir);
                if (!entry)
                        return -errno;
                if (!image_name_is_valid(entry->d_name))
                        continue; /* logs, statistics, and what else there is in a work directory */
                if (fstatat(s->images_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return -errno;
                if (!S_ISREG(st.st_mode))
                        continue;
                if (image_name_is_pages(entry->d_name))
                        return -EEXIST;
                int r = add_name(s, entry->d_name);
                if (r < 0)
                        return r;
        }
}

static int send_name(struct image_sender *s)
{
        const char *name = s->names[s->next];
        off_t size = 0;

        AUTO_FD int fd = fd_open_regular(s->images_fd, name, &size);
        if (fd < 0)
                return fd;
        const struct bulk_frame frame = {
                .type = BULK_FILE_NAME,
                .size = (uint32_t)strlen(name),
                .object = s->next + 1,
                .count = (uint64_t)size,
        };
        memcpy(s->slot, name, frame.size);
        int r = send_slot(s, &frame);
        if (r < 0)
                return r;
        s->next++;
        s->size = (uint64_t)size;
        s->position = 0;
        s->file = TAKE_FD(fd);
        return 0;
}

static int send_data(struct image_sender *s)
{
        uint64_t left = s->size - s->position;
        size_t wants = left < BULK_MAX ? (size_t)left : BULK_MAX;
        size_t got = 0;

        while (got < wants) {
                ssize_t n = pread(s->file, (uint8_t *)s->slot + got, wants - got, (off_t)(s->position + got));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO; /* it became shorter */
                got += (size_t)n;
        }
        const struct bulk_frame frame = {
                .type = BULK_FILE_DATA, .size = (uint32_t)got, .object = s->next, .offset = s->position};
        int r = send_slot(s, &frame);
        if (r == 0)
                s->position += got;
        return r;
}

static int send_end(struct image_sender *s)
{
        const struct bulk_frame frame = {.type = BULK_END, .offset = s->frames, .count = s->pages};
        int r = send_slot(s, &frame);

        if (r == 0)
                s->phase = PHASE_DRAINING;
        return r;
}

/* 0 when everything was handed over, -EAGAIN, or an error. */
static int send_more(struct image_sender *s)
{
        while (s->phase == PHASE_FILES || s->phase == PHASE_END) {
                if (s->file >= 0 && s->position == s->size)
                        (void)close(TAKE_FD(s->file));
                if (s->file < 0 && s->next == s->n_names)
                        s->phase = PHASE_END;
                int r = get_slot(s);
                if (r == 0)
                        r = s->phase == PHASE_END ? send_end(s) : s->file >= 0 ? send_data(s) : send_name(s);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void report(struct image_sender *s, int result)
{
        s->phase = PHASE_OVER;
        s->on_sent(result, s->on_sent_context); /* may free s */
}

void image_sender_writable(struct image_sender *sender)
{
        if (sender->phase == PHASE_PAGES || sender->phase == PHASE_OVER || !sender->bundle)
                return;
        int r = send_more(sender);
        if (r == -EAGAIN)
                return;
        if (r < 0)
                report(sender, r);
        else if (bundle_idle(sender->bundle))
                report(sender, 0);
}

int image_sender_files(struct image_sender *sender, int images_fd, void (*on_sent)(int result, void *context),
                       void *context)
{
        if (sender->phase != PHASE_PAGES)
                return -EALREADY;
        sender->images_fd = images_fd;
        sender->on_sent = on_sent;
        sender->on_sent_context = context;
        int r = list_files(sender);
        if (r < 0)
                return r;
        sender->phase = PHASE_FILES;
        r = send_more(sender);
        if (r == -EAGAIN)
                return 0;
        if (r < 0)
                sender->phase = PHASE_OVER;
        return r;
}
