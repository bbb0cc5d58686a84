/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "haulers/process/copy.h"

#define MANIFEST "phaul-copies.img"
#define MANIFEST_MAX (1U << 20)
#define COPIES_BYTES_MAX (768ULL << 20)
#define PIECE (1U << 20)

static void image_name(size_t number, char ret[static 48])
{
        (void)snprintf(ret, 48, "phaul-copy-%zu.img", number);
}

/* --------------------------------------------------------------------------------------------------------- on the
 * source */

static const struct process_file *find(const struct process_files *files, const char *path)
{
        for (size_t i = 0; path && i < files->n; i++)
                if (strcmp(files->files[i].path, path) == 0)
                        return &files->files[i];
        return NULL;
}

int process_agreed(struct workload *w, const json_t *items, struct error *err)
{
        struct process_private *p = w->private_data;
        const json_t *item;
        uint64_t bytes = 0;
        size_t i;

        if (!w->options->copy_files)
                return 0;
        json_array_foreach(items, i, item)
        {
                if (strcmp(json_text(item, "id"), "copy") != 0)
                        continue;
                /* Of our own list only: the other host does not choose what it gets to read. */
                const struct process_file *file = find(&p->files, json_text(item, "reason"));
                if (!file || p->n_copies == PROCESS_COPIES_MAX)
                        return error_set_kind(err, ERROR_REFUSED, EINVAL,
                                              "the target asks for a file that was not offered");
                bytes += S_ISREG(file->mode) ? file->size : 0;
                p->copies[p->n_copies++] = file;
        }
        if (bytes > COPIES_BYTES_MAX)
                return error_set_kind(
                        err, ERROR_REFUSED, EFBIG,
                        "%llu MB of files would have to be copied while it stands still, %llu MB are allowed: "
                        "copy them first",
                        (unsigned long long)bytes / 1000000, COPIES_BYTES_MAX / 1000000);
        return 0;
}

static int copy_bytes(int from, int to)
{
        AUTO_FREE char *buffer = malloc(PIECE);

        while (buffer) {
                ssize_t n = fd_read_full(from, buffer, PIECE);
                if (n <= 0)
                        return (int)n;
                int r = fd_write_all(to, buffer, (size_t)n);
                if (r < 0)
                        return r;
        }
        return -ENOMEM;
}

static int save(const struct process_file *file, size_t number, int images_fd, struct error *err)
{
        char name[48];
        off_t size;

        image_name(number, name);
        AUTO_FD int from = fd_open_regular(AT_FDCWD, file->path, &size);
        AUTO_FD int to = openat(images_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (from < 0 || to < 0)
                return error_errno(err, from < 0 ? -from : errno, "cannot copy %s", file->path);
        int r = copy_bytes(from, to);
        return r < 0 ? error_errno(err, -r, "cannot copy %s", file->path) : 0;
}

static int write_manifest(const struct process_private *p, int images_fd, struct error *err)
{
        json_t *list = json_array();

        for (size_t i = 0; i < p->n_copies; i++) {
                struct stat st;
                if (stat(p->copies[i]->path, &st) < 0)
                        st = (struct stat){.st_mode = p->copies[i]->mode};
                (void)json_array_append_new(list,
                                            json_pack("[s, I, I, I, I, I]", p->copies[i]->path, (json_int_t)st.st_mode,
                                                      (json_int_t)st.st_uid, (json_int_t)st.st_gid,
                                                      (json_int_t)st.st_mtim.tv_sec, (json_int_t)st.st_mtim.tv_nsec));
        }
        AUTO_FREE char *text = list ? json_dumps(list, JSON_COMPACT) : NULL;
        json_decref(list);
        if (!text)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_FD int fd = openat(images_fd, MANIFEST, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int r = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
        return r < 0 ? error_errno(err, -r, "cannot write the list of files") : 0;
}

int process_copies_save(struct workload *w, int images_fd, bool frozen, struct error *err)
{
        const struct process_private *p = w->private_data;

        for (size_t i = 0; i < p->n_copies; i++) {
                if (!S_ISREG(p->copies[i]->mode) || (p->copies[i]->use == FILE_WRITTEN) != frozen)
                        continue;
                int r = save(p->copies[i], i, images_fd, err);
                if (r < 0)
                        return r;
        }
        return frozen && p->n_copies ? write_manifest(p, images_fd, err) : 0;
}

/* --------------------------------------------------------------------------------------------------------- on the
 * target */

/*
 * A file that is brought has a second name beside it from before it appears until the tree runs, and what it replaces
 * one as well. By that a discard knows whether what bears the name is ours, also after a crash, and has the old one.
 */
struct names {
        char *path, *ours, *old, *spare;
};

static void names_done(struct names *n)
{
        free(n->path);
        free(n->ours);
        free(n->old);
        free(n->spare);
}

static int names_make(const char *path, const char *token, size_t number, struct names *ret)
{
        AUTO_FREE char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        const char *directory = dirname(copy);
        ret->path = strdup(path);
        ret->ours = format_new("%s/.phaul-%s-%zu.new", directory, token, number);
        ret->old = format_new("%s/.phaul-%s-%zu.old", directory, token, number);
        ret->spare = format_new("%s/.phaul-%s-%zu.tmp", directory, token, number);
        return ret->path && ret->ours && ret->old && ret->spare ? 0 : -ENOMEM;
}

int process_directories_announce(const char *path, size_t known, const char *token, hauler_leftover_fn leftover,
                                 void *context, struct error *err)
{
        for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
                if ((size_t)(slash - path) < known)
                        continue;
                AUTO_FREE char *directory = strndup(path, (size_t)(slash - path));
                AUTO_FREE char *name = directory ? format_new("0#%s#%s", token, directory) : NULL;
                if (!name)
                        return error_set(err, ENOMEM, "out of memory");
                int r = access(directory, F_OK) < 0 ? leftover("path", name, context, err) : 0;
                if (r < 0)
                        return r;
        }
        return 0;
}

/* How much of the path of a copy is directories that an earlier one lies in as well; each is announced once. */
static size_t shared_part(const struct process_private *p, size_t number)
{
        const char *path = p->copies[number]->path;
        size_t most = 0;

        for (size_t i = 0; i < number; i++) {
                const char *earlier = p->copies[i]->path;
                for (size_t n = 0; path[n] && path[n] == earlier[n]; n++)
                        if (path[n] == '/' && n + 1 > most)
                                most = n + 1;
        }
        return most;
}

int process_copies_announce(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err)
{
        const struct process_private *p = w->private_data;
        int r = 0;

        for (size_t i = 0; r == 0 && i < p->n_copies; i++) {
                AUTO_FREE char *name = format_new("%zu#%s#%s", i, p->token, p->copies[i]->path);
                if (!name)
                        return error_set(err, ENOMEM, "out of memory");
                r = process_directories_announce(p->copies[i]->path, shared_part(p, i), p->token, leftover, context,
                                                 err);
                if (r == 0)
                        r = leftover(p->copies[i]->use == FILE_DIRECTORY ? "path" : "file", name, context, err);
        }
        return r;
}

int process_directories_make(const char *path)
{
        for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
                AUTO_FREE char *directory = strndup(path, (size_t)(slash - path));
                if (!directory)
                        return -ENOMEM;
                if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                        return -errno;
        }
        return 0;
}

static int sync_directory(const char *file)
{
        AUTO_FREE char *copy = strdup(file);
        AUTO_FD int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int write_ours(const struct names *n, const json_t *entry, int images_fd, const char *image)
{
        const struct timespec times[2] = {
                {.tv_nsec = UTIME_NOW},
                {.tv_sec = (time_t)json_integer_value(json_array_get(entry, 4)),
                 .tv_nsec = (long)json_integer_value(json_array_get(entry, 5))},
        };

        AUTO_FD int from = fd_open_regular(images_fd, image, NULL);
        AUTO_FD int to = open(n->ours, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (from < 0 || to < 0)
                return from < 0 ? from : -errno;
        int r = copy_bytes(from, to);
        if (r < 0)
                return r;
        if (fchown(to, (uid_t)json_integer_value(json_array_get(entry, 2)),
                   (gid_t)json_integer_value(json_array_get(entry, 3))) < 0 ||
            fchmod(to, (mode_t)json_integer_value(json_array_get(entry, 1)) & 07777) < 0 || futimens(to, times) < 0 ||
            fsync(to) < 0)
                return -errno;
        return 0;
}

static int install_file(const struct names *n, const json_t *entry, int images_fd, const char *image)
{
        int r = write_ours(n, entry, images_fd, image);

        if (r < 0)
                return r;
        if (link(n->path, n->old) < 0 && errno != ENOENT)
                return -errno;
        if (link(n->ours, n->spare) < 0 || rename(n->spare, n->path) < 0)
                return -errno;
        return sync_directory(n->path);
}

static int install_directory(const char *path, const json_t *entry)
{
        if (mkdir(path, 0700) < 0)
                return errno == EEXIST ? 0 : -errno;
        if (chown(path, (uid_t)json_integer_value(json_array_get(entry, 2)),
                  (gid_t)json_integer_value(json_array_get(entry, 3))) < 0 ||
            chmod(path, (mode_t)json_integer_value(json_array_get(entry, 1)) & 07777) < 0)
                return -errno;
        return 0;
}

static int install(const struct process_private *p, const json_t *entry, size_t number, int images_fd,
                   struct error *err)
{
        CLEANUP(names_done) struct names n = {0};
        const char *path = json_string_value(json_array_get(entry, 0));
        char image[48];
        size_t i = 0;

        while (i < p->n_copies && (!path || strcmp(p->copies[i]->path, path) != 0))
                i++;
        if (i == p->n_copies)
                return error_set(err, EBADMSG, "a file came that was not asked for");
        image_name(number, image);
        int r = names_make(path, p->token, i, &n);
        if (r == 0)
                r = process_directories_make(path);
        if (r == 0)
                r = p->copies[i]->use == FILE_DIRECTORY ? install_directory(path, entry)
                                                        : install_file(&n, entry, images_fd, image);
        return r < 0 ? error_errno(err, -r, "cannot bring %s", path) : 0;
}

int process_copies_install(struct workload *w, const char *images, struct error *err)
{
        const struct process_private *p = w->private_data;
        AUTO_FREE char *text = NULL;
        size_t i;
        json_t *entry;
        int r = 0;

        if (p->n_copies == 0)
                return 0;
        AUTO_FD int images_fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (images_fd < 0)
                return error_errno(err, errno, "cannot open %s", images);
        if (fd_read_file(images_fd, MANIFEST, MANIFEST_MAX, &text, NULL) < 0)
                return error_set(err, EBADMSG, "the files that were asked for did not come");
        json_t *list = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        if (json_array_size(list) != p->n_copies)
                r = error_set(err, EBADMSG, "%zu of %zu files came", json_array_size(list), p->n_copies);
        json_array_foreach(list, i, entry)
        {
                if (r == 0)
                        r = install(p, entry, i, images_fd, err);
        }
        json_decref(list);
        return r;
}

/* ------------------------------------------------------------------------------------------------------ and afterwards
 */

/* "NUMBER#TOKEN#PATH" */
static int take_apart(const char *text, struct names *ret, struct error *err)
{
        char token[ID_LENGTH + 1], *end;
        unsigned long number = strtoul(text, &end, 10);

        if (*end != '#' || strlen(end) < ID_LENGTH + 3 || end[ID_LENGTH + 1] != '#' || end[ID_LENGTH + 2] != '/')
                return error_set(err, EINVAL, "'%.256s' is not a leftover of ours", text);
        memcpy(token, end + 1, ID_LENGTH);
        token[ID_LENGTH] = '\0';
        if (!id_is_valid(token) || names_make(end + ID_LENGTH + 2, token, number, ret) < 0)
                return error_set(err, EINVAL, "'%.256s' is not a leftover of ours", text);
        return 0;
}

static int forget(const struct names *n, struct error *err)
{
        const char *const paths[] = {n->spare, n->old, n->ours};

        for (size_t i = 0; i < 3; i++)
                if (unlink(paths[i]) < 0 && errno != ENOENT && errno != ENOTDIR)
                        return error_errno(err, errno, "cannot remove %s", paths[i]);
        return 0;
}

int process_copies_keep(const char *name, struct error *err)
{
        CLEANUP(names_done) struct names n = {0};

        int r = take_apart(name, &n, err);
        return r < 0 ? r : forget(&n, err);
}

int process_copies_discard(const char *what, const char *name, struct error *err)
{
        CLEANUP(names_done) struct names n = {0};
        struct stat there, ours;

        int r = take_apart(name, &n, err);
        if (r < 0)
                return r;
        if (strcmp(what, "path") == 0) /* one that somebody uses by now stays */
                return rmdir(n.path) < 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST &&
                                       errno != EBUSY && errno != ENOTDIR
                               ? error_errno(err, errno, "cannot remove %s", n.path)
                               : 0;
        if (lstat(n.path, &there) == 0 && lstat(n.ours, &ours) == 0 && there.st_ino == ours.st_ino &&
            there.st_dev == ours.st_dev) {
                if (rename(n.old, n.path) < 0 && (errno != ENOENT || unlink(n.path) < 0))
                        return error_errno(err, errno, "cannot take %s back", n.path);
        }
        return forget(&n, err);
}
