/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/changes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "files/catalogue.h"
#include "files/inode-set.h"
#include "files/mark.h"
#include "files/room.h"
#include "files/walk.h"

/* Flags of directories in the walk. */
enum {
        DIR_CHANGED = 1, /* names may have come or gone */
        DIR_MOVED = 2,   /* it, or one above it, may have been renamed */
};

/* An entry the receiver was asked about. */
struct asked {
        size_t dir, name; /* in names */
        bool is_dir, moved;
        struct inode_key linked; /* inode 0: it has one name only */
};

/* A name of an unchanged file that has several. */
struct linked {
        size_t path; /* in names */
        struct inode_key key;
};

struct strings {
        char *data;
        size_t used, room;
};

struct search {
        struct files_mark since;
        bool everything;
        struct strings list, names;
        size_t dir; /* the current directory in names; SIZE_MAX: not there yet */
        struct asked *asked;
        size_t n_asked, room_asked;
        struct linked *linked;
        size_t n_linked, room_linked;
        struct inode_set wanted; /* files with several names of which one is wanted */
        struct catalogue_stream *out;
        struct error *err;
};

static int no_memory(struct search *s)
{
        return error_set(s->err, ENOMEM, "cannot list what changed: out of memory");
}

static int strings_add(struct strings *s, const char *dir, const char *name, size_t *ret)
{
        size_t n_dir = strlen(dir), n_name = strlen(name), need = n_dir + n_name + 2;

        if (s->room - s->used < need) {
                size_t room = s->room ? s->room * 2 : 65536;
                char *grown = realloc(s->data, room);
                if (!grown)
                        return -ENOMEM;
                s->data = grown;
                s->room = room;
                if (room - s->used < need)
                        return -ENOMEM;
        }
        if (ret)
                *ret = s->used;
        memcpy(s->data + s->used, dir, n_dir);
        s->used += n_dir;
        if (n_dir && n_name)
                s->data[s->used++] = '/';
        memcpy(s->data + s->used, name, n_name + 1);
        s->used += n_name + 1;
        return 0;
}

/* Room for one more element; arrays double. */
static int grow(void **array, size_t used, size_t *room, size_t element)
{
        if (used < *room)
                return 0;
        size_t next = *room ? *room * 2 : 1024;
        void *grown = reallocarray(*array, next, element);
        if (!grown)
                return -ENOMEM;
        *array = grown;
        *room = next;
        return 0;
}

/*
 * The list is relative to the root of the room, not to the tree: rsync takes "." for a directory and all in it, but the
 * tree's own name for just the directory.
 */
static int list_add(struct search *s, const char *dir, const char *name)
{
        char path[PATH_MAX];

        int n = snprintf(path, sizeof(path), "%s%s%s%s%s", ROOM_TREE_NAME, *dir || *name ? "/" : "", dir,
                         *dir && *name ? "/" : "", name);
        if (n < 0 || (size_t)n >= sizeof(path))
                return error_set(s->err, ENAMETOOLONG, "a path is longer than rsync can handle (%d bytes)",
                                 PATH_MAX - (int)sizeof(ROOM_TREE));
        return strings_add(&s->list, path, "", NULL) < 0 ? no_memory(s) : 0;
}

static void put_name(struct search *s, char kind, uint32_t mode, const char *name)
{
        size_t length = strlen(name);

        catalogue_put_number(s->out, (unsigned char)kind, 1);
        catalogue_put_number(s->out, catalogue_type(mode), 1);
        catalogue_put_number(s->out, length, 1);
        catalogue_put(s->out, name, length);
}

static int put_attributes(struct search *s, const struct walk_dir *dir, const char *name, const struct statx *st)
{
        struct catalogue_attributes a;

        int r = catalogue_attributes(dir->fd, name, st, &a);
        if (r < 0)
                return error_errno(s->err, -r, "cannot read the attributes of a file that may have moved");
        catalogue_put_number(s->out, a.mode, 4);
        catalogue_put_number(s->out, a.uid, 4);
        catalogue_put_number(s->out, a.gid, 4);
        catalogue_put_number(s->out, a.size, 8);
        catalogue_put_number(s->out, (uint64_t)a.mtime, 8);
        catalogue_put_number(s->out, a.mtime_ns, 4);
        catalogue_put_number(s->out, a.fingerprint, 8);
        return 0;
}

static int ask(struct search *s, const struct walk_dir *dir, const char *name, const struct statx *st)
{
        struct asked a = {.is_dir = S_ISDIR(st->stx_mode), .moved = dir->flags & DIR_MOVED};

        if (s->n_asked >= CATALOGUE_ASKED_MAX)
                return error_set(s->err, E2BIG, "too many files in directories that changed");
        if (grow((void **)&s->asked, s->n_asked, &s->room_asked, sizeof(*s->asked)) < 0)
                return no_memory(s);
        if (s->dir == SIZE_MAX && strings_add(&s->names, dir->path, "", &s->dir) < 0)
                return no_memory(s);
        if (strings_add(&s->names, "", name, &a.name) < 0)
                return no_memory(s);
        a.dir = s->dir;
        if (!a.is_dir && st->stx_nlink > 1)
                a.linked = inode_key_of(st);
        s->asked[s->n_asked++] = a;

        put_name(s, a.moved ? CATALOGUE_ASKED : CATALOGUE_KEPT, st->stx_mode, name);
        return a.moved ? put_attributes(s, dir, name, st) : 0;
}

/*
 * All names of a file must be in rsync's list for it to link them. A change of the inode shows at every name; but an
 * unchanged file of which one name is wanted needs the others, too.
 */
static int note_linked(struct search *s, const struct walk_dir *dir, const char *name, const struct statx *st)
{
        struct linked l = {.key = inode_key_of(st)};

        if (grow((void **)&s->linked, s->n_linked, &s->room_linked, sizeof(*s->linked)) < 0 ||
            strings_add(&s->names, dir->path, name, &l.path) < 0)
                return no_memory(s);
        s->linked[s->n_linked++] = l;
        return 0;
}

static int on_enter(const struct walk_dir *dir, void *context)
{
        struct search *s = context;
        size_t length = strlen(dir->path);

        s->dir = SIZE_MAX;
        if (dir->flags) {
                catalogue_put_number(s->out, CATALOGUE_DIR, 1);
                catalogue_put_number(s->out, length, 2);
                catalogue_put(s->out, dir->path, length);
        }
        return 0;
}

static int on_entry(const struct walk_dir *dir, const char *name, const struct statx *st, unsigned *ret_flags,
                    void *context)
{
        struct search *s = context;
        bool is_dir = S_ISDIR(st->stx_mode), listed = dir->flags != 0;
        bool fresh = s->everything || mark_is_older(&s->since, st);
        int r = 0;

        if (is_dir) {
                if (fresh)
                        *ret_flags |= DIR_CHANGED;
                /* When all is sent anyway, nothing needs to be asked. */
                if (!s->everything && (dir->flags & DIR_MOVED || (fresh && dir->flags & DIR_CHANGED)))
                        *ret_flags |= DIR_MOVED;
        }
        if (fresh || (is_dir && dir->flags & DIR_MOVED)) {
                if (listed)
                        put_name(s, CATALOGUE_FRESH, st->stx_mode, name);
                r = list_add(s, dir->path, name);
        } else {
                if (listed)
                        r = ask(s, dir, name, st);
                if (r == 0 && !is_dir && st->stx_nlink > 1)
                        r = note_linked(s, dir, name, st);
        }
        if (r == 0 && s->out->error < 0)
                r = s->out->error;
        return r < 0 ? r : is_dir;
}

static int on_leave(const struct walk_dir *dir, void *context)
{
        struct search *s = context;

        if (dir->flags)
                catalogue_put_number(s->out, CATALOGUE_DIR_END, 1);
        return s->out->error;
}

/* A directory that stood still, yet the receiver lacks it. */
static int on_lacking(const struct walk_dir *dir, const char *name, const struct statx *st, unsigned *ret_flags,
                      void *context)
{
        struct search *s = context;

        (void)ret_flags;
        int r = list_add(s, dir->path, name);
        if (r == 0 && !S_ISDIR(st->stx_mode) && st->stx_nlink > 1 && inode_set_add(&s->wanted, inode_key_of(st)) < 0)
                r = no_memory(s);
        return r < 0 ? r : S_ISDIR(st->stx_mode);
}

static int grant(struct search *s, int root_fd, const struct asked *a)
{
        static const struct walk_ops lacking = {.entry = on_lacking};
        const char *dir = s->names.data + a->dir, *name = s->names.data + a->name;

        int r = list_add(s, dir, name);
        if (r == 0 && a->linked.inode && inode_set_add(&s->wanted, a->linked) < 0)
                r = no_memory(s);
        if (r < 0 || !a->is_dir)
                return r;

        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%s%s%s", dir, *dir ? "/" : "", name);
        return walk_tree(root_fd, path, 0, &lacking, s, s->err);
}

static int read_reply(struct search *s, int root_fd, struct catalogue_stream *in, uint64_t *ret_deleted)
{
        char magic[CATALOGUE_MAGIC];

        /* The receiver's rsync greets right behind the answer. */
        in->bounded = true;
        in->left = sizeof(magic) + 8 + 4;
        (void)catalogue_get(in, magic, sizeof(magic));
        uint64_t deleted = catalogue_get_number(in, 8);
        uint64_t n = catalogue_get_number(in, 4), next = 0;
        if (in->error == 0 && (memcmp(magic, CATALOGUE_REPLY, sizeof(magic)) != 0 || n > s->n_asked))
                in->error = -EPROTO;
        in->left = n * 4;
        for (; in->error == 0 && n > 0; n--) {
                uint64_t index = catalogue_get_number(in, 4);
                if (in->error < 0)
                        break;
                if (index < next || index >= s->n_asked) {
                        in->error = -EPROTO;
                        break;
                }
                next = index + 1;
                int r = grant(s, root_fd, &s->asked[index]);
                if (r < 0)
                        return r;
        }
        if (in->error < 0)
                return error_errno(s->err, -in->error, "no answer to the list of changes");
        *ret_deleted = deleted;
        return 0;
}

/* Relative, without "..": they come from the process tree's own mappings, and are checked all the same. */
static int add_also(struct search *s, const char *also, size_t size)
{
        const char *end = also + size;

        while (also < end) {
                size_t n = strnlen(also, (size_t)(end - also));
                if (also + n == end)
                        break;
                if (n > 0 && *also != '/' && strncmp(also, "../", 3) != 0 && !strstr(also, "/../")) {
                        int r = list_add(s, "", also);
                        if (r < 0)
                                return r;
                }
                also += n + 1;
        }
        return 0;
}

static int exchange(struct search *s, int stream, int root_fd, uint64_t *ret_deleted)
{
        static const struct walk_ops ops = {.enter = on_enter, .entry = on_entry, .leave = on_leave};
        AUTO_FD int root = walk_open_dir(root_fd, "");
        struct statx st;

        if (root < 0 || statx(root, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) < 0)
                return error_errno(s->err, errno, "cannot open the tree");
        catalogue_put(s->out, CATALOGUE_HELLO, CATALOGUE_MAGIC - 1);
        catalogue_put(s->out, s->everything ? "C" : "L", 1);
        bool changed = s->everything || mark_is_older(&s->since, &st);
        int r = walk_tree(root_fd, "", changed ? DIR_CHANGED : 0, &ops, s, s->err);
        if (s->out->error == 0) {
                if (r < 0)
                        return r;
                catalogue_put_number(s->out, CATALOGUE_END, 1);
        }
        if (catalogue_flush(s->out) < 0)
                return error_errno(s->err, -s->out->error, "cannot send the list of changes");

        AUTO_FREE struct catalogue_stream *in = calloc(1, sizeof(*in));
        if (!in)
                return no_memory(s);
        in->fd = stream;
        r = read_reply(s, root_fd, in, ret_deleted);
        for (size_t i = 0; r == 0 && i < s->n_linked; i++)
                if (inode_set_has(&s->wanted, s->linked[i].key))
                        r = list_add(s, "", s->names.data + s->linked[i].path);
        return r;
}

int changes_exchange(int stream, int root_fd, const struct files_mark *since, bool everything, const char *also,
                     size_t also_size, struct changes *ret, struct error *err)
{
        struct search s = {.since = *since, .everything = everything, .err = err};
        uint64_t deleted = 0;

        AUTO_FREE struct catalogue_stream *out = calloc(1, sizeof(*out));
        if (!out)
                return no_memory(&s);
        out->fd = stream;
        s.out = out;
        int r = list_add(&s, "", "");
        if (r == 0)
                r = exchange(&s, stream, root_fd, &deleted);
        if (r == 0)
                r = add_also(&s, also, also_size);
        if (r == 0)
                *ret = (struct changes){
                        .list = TAKE_PTR(s.list.data),
                        .size = s.list.used,
                        .deleted = deleted,
                        .written = out->written,
                };
        free(s.list.data);
        free(s.names.data);
        free(s.asked);
        free(s.linked);
        inode_set_clear(&s.wanted);
        return r;
}

void changes_clear(struct changes *c)
{
        free(c->list);
        *c = (struct changes){0};
}
