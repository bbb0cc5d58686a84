/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's half of catalogue.h: deletes what is gone, removes what changed its type, asks for what is missing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"
#include "files/catalogue.h"
#include "files/walk.h"

struct have {
        char *name;
        unsigned type; /* st_mode >> 12 */
        bool seen;
};

struct adjust {
        int root_fd;
        struct catalogue_stream *in;
        struct error *err;
        char path[PATH_MAX];
        int dir_fd; /* -1: the directory is not there */
        struct have *have;
        size_t n_have, room_have;
        uint32_t *wanted;
        size_t n_wanted, room_wanted;
        uint32_t asked;
        uint64_t deleted;
};

static int fail(struct adjust *a, int code, const char *what)
{
        char quoted[256];

        return error_errno(a->err, code, "cannot %s in /%s", what, name_quote(a->path, quoted, sizeof(quoted)));
}

static int malformed(struct adjust *a)
{
        if (a->in->error < 0)
                return error_errno(a->err, -a->in->error, "the list of changes ended early");
        return error_set(a->err, EPROTO, "the list of changes is malformed");
}

static void leave_dir(struct adjust *a)
{
        if (a->dir_fd >= 0)
                (void)close(TAKE_FD(a->dir_fd));
        for (size_t i = 0; i < a->n_have; i++)
                free(a->have[i].name);
        a->n_have = 0;
}

static int compare(const void *x, const void *y)
{
        return strcmp(((const struct have *)x)->name, ((const struct have *)y)->name);
}

static int add_have(struct adjust *a, const struct dirent *d)
{
        unsigned type = d->d_type; /* DT_* is st_mode >> 12 */

        if (type == DT_UNKNOWN) {
                struct stat st;
                if (fstatat(a->dir_fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return fail(a, errno, "look at a file");
                type = catalogue_type(st.st_mode);
        }
        if (a->n_have == a->room_have) {
                size_t room = a->room_have ? a->room_have * 2 : 256;
                struct have *grown = reallocarray(a->have, room, sizeof(*grown));
                if (!grown)
                        return fail(a, ENOMEM, "list");
                a->have = grown;
                a->room_have = room;
        }
        char *name = strdup(d->d_name);
        if (!name)
                return fail(a, ENOMEM, "list");
        a->have[a->n_have++] = (struct have){.name = name, .type = type};
        return 0;
}

static int list_dir(struct adjust *a)
{
        AUTO_FD int copy = openat(a->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        AUTO_DIR DIR *handle = copy < 0 ? NULL : fdopendir(copy);
        if (!handle)
                return fail(a, errno, "list");
        (void)TAKE_FD(copy);

        for (;;) {
                errno = 0;
                const struct dirent *d = readdir(handle);
                if (!d && errno)
                        return fail(a, errno, "list");
                if (!d)
                        break;
                if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
                        continue;
                int r = add_have(a, d);
                if (r < 0)
                        return r;
        }
        if (a->n_have)
                qsort(a->have, a->n_have, sizeof(*a->have), compare);
        return 0;
}

static bool path_is_valid(const char *path, size_t length)
{
        if (memchr(path, '\0', length))
                return false;
        while (*path) {
                size_t n = strcspn(path, "/");
                if (n == 0 || n > NAME_MAX || (n == 1 && path[0] == '.') || (n == 2 && memcmp(path, "..", 2) == 0))
                        return false;
                path += n;
                if (*path && !*++path)
                        return false;
        }
        return true;
}

static int enter_dir(struct adjust *a)
{
        size_t length = (size_t)catalogue_get_number(a->in, 2);

        if (length >= sizeof(a->path))
                return malformed(a);
        if (catalogue_get(a->in, a->path, length) < 0)
                return malformed(a);
        a->path[length] = '\0';
        if (!path_is_valid(a->path, length)) {
                a->path[0] = '\0';
                return malformed(a);
        }
        /* The kernel refuses links and ".." here once more; what cannot be reached counts as missing. */
        a->dir_fd = walk_open_dir(a->root_fd, a->path);
        if (a->dir_fd >= 0)
                return list_dir(a);
        if (a->dir_fd != -ENOENT && a->dir_fd != -ENOTDIR && a->dir_fd != -ELOOP)
                return fail(a, -a->dir_fd, "open a directory");
        a->dir_fd = -1;
        return 0;
}

static int remove_name(struct adjust *a, struct have *h)
{
        struct error inner = {0};

        int r = h->type == DT_DIR ? fd_remove_tree(a->dir_fd, h->name, &inner)
                                  : (unlinkat(a->dir_fd, h->name, 0) < 0 && errno != ENOENT ? -errno : 0);
        return r < 0 ? fail(a, -r, "delete") : 0;
}

static int want(struct adjust *a, uint32_t index)
{
        if (a->n_wanted == a->room_wanted) {
                size_t room = a->room_wanted ? a->room_wanted * 2 : 1024;
                uint32_t *grown = reallocarray(a->wanted, room, sizeof(*grown));
                if (!grown)
                        return fail(a, ENOMEM, "list");
                a->wanted = grown;
                a->room_wanted = room;
        }
        a->wanted[a->n_wanted++] = index;
        return 0;
}

static int get_entry(struct adjust *a, char name[static NAME_MAX + 1], unsigned *ret_type)
{
        *ret_type = (unsigned)catalogue_get_number(a->in, 1);
        size_t length = (size_t)catalogue_get_number(a->in, 1);

        if (length == 0 || length > NAME_MAX || catalogue_get(a->in, name, length) < 0)
                return malformed(a);
        name[length] = '\0';
        if (strlen(name) != length || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
                return malformed(a);
        return 0;
}

static struct have *find(struct adjust *a, char *name)
{
        struct have key = {.name = name};

        return a->n_have ? bsearch(&key, a->have, a->n_have, sizeof(key), compare) : NULL;
}

static int on_fresh(struct adjust *a)
{
        char name[NAME_MAX + 1];
        unsigned type;

        int r = get_entry(a, name, &type);
        if (r < 0)
                return r;
        struct have *h = find(a, name);
        if (!h)
                return 0;
        h->seen = true;
        /* Links, devices and the like are made anew: cheap, and it takes names apart that were one inode here. */
        return h->type != type || (type != DT_REG && type != DT_DIR) ? remove_name(a, h) : 0;
}

static bool is_same(struct adjust *a, const char *name, const struct catalogue_attributes *theirs)
{
        struct catalogue_attributes ours;
        struct statx st;

        return statx(a->dir_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0 &&
               catalogue_attributes(a->dir_fd, name, &st, &ours) == 0 && catalogue_same(&ours, theirs);
}

static int on_asked(struct adjust *a, bool with_attributes)
{
        struct catalogue_attributes theirs = {0};
        char name[NAME_MAX + 1];
        unsigned type;

        int r = get_entry(a, name, &type);
        if (r < 0)
                return r;
        if (with_attributes) {
                theirs.mode = (uint32_t)catalogue_get_number(a->in, 4);
                theirs.uid = (uint32_t)catalogue_get_number(a->in, 4);
                theirs.gid = (uint32_t)catalogue_get_number(a->in, 4);
                theirs.size = catalogue_get_number(a->in, 8);
                theirs.mtime = (int64_t)catalogue_get_number(a->in, 8);
                theirs.mtime_ns = (uint32_t)catalogue_get_number(a->in, 4);
                theirs.fingerprint = catalogue_get_number(a->in, 8);
        }
        if (a->in->error < 0 || a->asked >= CATALOGUE_ASKED_MAX)
                return malformed(a);

        uint32_t index = a->asked++;
        struct have *h = find(a, name);
        if (h) {
                h->seen = true;
                if (h->type == type && (!with_attributes || is_same(a, name, &theirs)))
                        return 0;
                if (h->type != type || type != DT_REG)
                        r = remove_name(a, h);
        }
        return r < 0 ? r : want(a, index);
}

static int on_dir_end(struct adjust *a)
{
        for (size_t i = 0; i < a->n_have; i++) {
                if (a->have[i].seen)
                        continue;
                int r = remove_name(a, &a->have[i]);
                if (r < 0)
                        return r;
                a->deleted++;
        }
        leave_dir(a);
        return 0;
}

static int read_changes(struct adjust *a)
{
        bool inside = false;

        for (;;) {
                unsigned kind = (unsigned)catalogue_get_number(a->in, 1);
                int r = 0;

                if (a->in->error < 0 || (kind == CATALOGUE_DIR || kind == CATALOGUE_END) == inside)
                        return malformed(a);
                switch (kind) {
                case CATALOGUE_DIR:
                        r = enter_dir(a);
                        inside = true;
                        break;
                case CATALOGUE_FRESH:
                        r = on_fresh(a);
                        break;
                case CATALOGUE_KEPT:
                case CATALOGUE_ASKED:
                        r = on_asked(a, kind == CATALOGUE_ASKED);
                        break;
                case CATALOGUE_DIR_END:
                        r = on_dir_end(a);
                        inside = false;
                        break;
                case CATALOGUE_END:
                        return 0;
                default:
                        return malformed(a);
                }
                if (r < 0)
                        return r;
        }
}

static int reply(struct adjust *a)
{
        struct catalogue_stream *out = a->in; /* nothing more to read with it */

        out->start = out->end = 0;
        catalogue_put(out, CATALOGUE_REPLY, CATALOGUE_MAGIC);
        catalogue_put_number(out, a->deleted, 8);
        catalogue_put_number(out, a->n_wanted, 4);
        for (size_t i = 0; i < a->n_wanted; i++)
                catalogue_put_number(out, a->wanted[i], 4);
        if (catalogue_flush(out) < 0)
                return error_errno(a->err, -out->error, "cannot answer the list of changes");
        return 0;
}

int catalogue_receive(int stream, int root_fd, struct error *err)
{
        struct adjust a = {.root_fd = root_fd, .err = err, .dir_fd = -1};
        char hello[CATALOGUE_MAGIC];
        int r;

        AUTO_FREE struct catalogue_stream *in = calloc(1, sizeof(*in));
        if (!in)
                return error_set(err, ENOMEM, "cannot read the list of changes: out of memory");
        in->fd = stream;
        a.in = in;
        char mode = 0;
        if (catalogue_get(in, hello, sizeof(hello)) < 0) {
                r = malformed(&a);
        } else {
                mode = hello[CATALOGUE_MAGIC - 1];
                r = memcmp(hello, CATALOGUE_HELLO, CATALOGUE_MAGIC - 1) == 0 && (mode == 'L' || mode == 'C')
                            ? read_changes(&a)
                            : malformed(&a);
        }
        /* rsync reads from the stream next: nothing of it may be in our buffer. */
        if (r == 0 && in->start != in->end)
                r = malformed(&a);
        if (r == 0)
                r = reply(&a);
        leave_dir(&a);
        free(a.have);
        free(a.wanted);
        return r < 0 ? r : mode;
}
