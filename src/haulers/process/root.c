/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/root.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "haulers/process/copy.h"

#define NAMED_MAX 10
#define MOUNTS_MAX (16U << 20)

/* -------------------------------------------------------------------------------------------------------- the path */

bool process_is_within(const char *path, const char *root)
{
        const size_t n = strlen(root);

        return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

bool process_is_in_the_hosts(const char *path)
{
        static const char *const whole[] = {"/usr", "/lib",  "/lib32", "/lib64", "/libx32", "/bin", "/sbin",
                                            "/etc", "/boot", "/proc",  "/sys",   "/dev",    "/run"};

        if (process_is_within(path, "/usr/local") && path[strlen("/usr/local")])
                return false;
        for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++)
                if (process_is_within(path, whole[i]))
                        return true;
        return false;
}

/* Directories whose disappearance would be the end of the host, whoever is chrooted into them. */
static bool is_the_hosts(const char *path)
{
        static const char *const itself[] = {"/", "/var", "/home", "/root", "/tmp", "/var/lib", "/var/tmp"};

        for (size_t i = 0; i < sizeof(itself) / sizeof(itself[0]); i++)
                if (strcmp(path, itself[i]) == 0)
                        return true;
        return process_is_in_the_hosts(path);
}

/* -errno when it cannot be looked at; 0 a plain directory; 1 something else, or reached by way of a link. */
static int look(const char *path, struct stat *ret)
{
        char real[PATH_MAX];

        if (lstat(path, ret) < 0)
                return -errno;
        if (!S_ISDIR(ret->st_mode))
                return 1;
        return realpath(path, real) ? strcmp(path, real) != 0 : -errno;
}

static int refuse(const char *path, const char *why, struct error *err)
{
        return error_set_kind(err, ERROR_REFUSED, EINVAL, "%s cannot be the root directory of the tree: %s", path, why);
}

static int check_path(const char *path, struct stat *ret, struct error *err)
{
        if (is_the_hosts(path))
                return refuse(path, "it belongs to the host", err);
        int r = look(path, ret);
        if (r < 0)
                return refuse(path, strerror(-r), err);
        if (r > 0 && !S_ISDIR(ret->st_mode))
                return refuse(path, "it is not a directory", err);
        return r > 0 ? refuse(path, "it is reached by way of a symbolic link, or not written plainly", err) : 0;
}

static int make_tree(struct workload *w, const char *source, const char *target, struct error *err)
{
        w->trees = calloc(1, sizeof(*w->trees));
        if (!w->trees)
                return error_set(err, ENOMEM, "out of memory");
        w->n_trees = 1;
        w->trees[0] = (struct hauler_tree){.label = strdup("root"),
                                           .source = source ? strdup(source) : NULL,
                                           .target = target ? strdup(target) : NULL};
        return w->trees[0].label && (!source || w->trees[0].source) && (!target || w->trees[0].target)
                       ? 0
                       : error_set(err, ENOMEM, "out of memory");
}

/* Shared storage is a question of directories, and a tree without one of its own has none. */
static int check_mover(const struct workload *w, struct error *err)
{
        return w->options->files == MOVE_SHARED
                       ? error_set_kind(err, ERROR_REFUSED, EINVAL,
                                        "--files shared is about a root directory of the tree's own: --pid-root")
                       : 0;
}

/* -------------------------------------------------------------------------------------------------- on the source */

static ssize_t root_of(pid_t pid, char *ret, size_t size)
{
        char link[64];

        (void)snprintf(link, sizeof(link), "/proc/%d/root", (int)pid);
        ssize_t n = readlink(link, ret, size - 1);
        if (n >= 0)
                ret[n] = '\0';
        return n;
}

/*
 * By name and by identity: another mount may have the same name, another name the same directory. In mounts of its own
 * it is called "/".
 */
static void examine_roots(const char *root, const struct stat *directory, struct look *l)
{
        const char *name = l->own_mounts ? "/" : root;
        const struct process_set *pids = &l->pids;
        char link[64], path[PATH_MAX];
        struct stat st;

        for (size_t i = 0; i < pids->n; i++) {
                (void)snprintf(link, sizeof(link), "/proc/%d/root", (int)pids->pids[i]);
                if (root_of(pids->pids[i], path, sizeof(path)) < 0 || stat(link, &st) < 0)
                        continue; /* it has just ended */
                const bool same = st.st_ino == directory->st_ino && st.st_dev == directory->st_dev;
                if (strcmp(path, name) != 0 || !same)
                        process_say(&l->findings, "root", GRADE_ERROR,
                                    "the root directory of process %d is %.400s%s, not %.400s", (int)pids->pids[i],
                                    path, l->own_mounts ? " of a mount namespace" : "", root);
        }
}

/* It is moved away afterwards, and others would be left without their files. */
static void examine_others(const char *root, const struct process_set *pids, struct process_findings *f)
{
        char path[PATH_MAX];
        unsigned named = 0;

        AUTO_DIR DIR *proc = opendir("/proc");
        for (struct dirent *e; proc && (e = readdir(proc));) {
                pid_t pid = process_id(e->d_name);
                if (pid == 0 || process_set_has(pids, pid) || root_of(pid, path, sizeof(path)) < 0 ||
                    !process_is_within(path, root) || named++ >= NAMED_MAX)
                        continue;
                process_say(
                        f, "root", GRADE_JUDGED,
                        "process %d, which does not belong to the tree, has its root directory in %.400s too, which "
                        "is moved away from here",
                        (int)pid, root);
        }
}

/* "36 35 98:0 / /mnt\040point rw …": the fifth word. */
static bool mount_point(const char *line, char *ret, size_t size)
{
        size_t n = 0;

        for (int word = 0; word < 4; word++) {
                line += strcspn(line, " \n");
                if (*line != ' ')
                        return false;
                line++;
        }
        while (*line && *line != ' ' && *line != '\n' && n + 1 < size) {
                if (line[0] == '\\' && isdigit((unsigned char)line[1]) && isdigit((unsigned char)line[2]) &&
                    isdigit((unsigned char)line[3])) {
                        ret[n++] = (char)((line[1] - '0') * 64 + (line[2] - '0') * 8 + (line[3] - '0'));
                        line += 4;
                } else {
                        ret[n++] = *line++;
                }
        }
        ret[n] = '\0';
        return true;
}

static void examine_mounts(const char *root, struct process_findings *f)
{
        AUTO_FREE char *text = NULL;
        char point[PATH_MAX];
        unsigned named = 0;

        if (fd_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTS_MAX, &text, NULL) < 0)
                return;
        for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL)
                if (mount_point(line, point, sizeof(point)) && process_is_within(point, root) &&
                    strcmp(point, root) != 0 && named++ < NAMED_MAX)
                        process_say(
                                f, "root", GRADE_WARNING,
                                "%.400s is a mount: what is in it does not move along, and it is unmounted here after "
                                "the move. A hook that is told 'arriving' can make it there",
                                point);
}

int process_root_examine(struct workload *w, struct look *l, struct error *err)
{
        const char *root = w->options->pid_root;
        struct process_findings *f = &l->findings;
        const unsigned before = f->errors;
        struct stat st;

        if (!root[0])
                return check_mover(w, err);
        int r = check_path(root, &st, err);
        if (r < 0)
                return r;
        examine_roots(root, &st, l);
        if (w->options->files != MOVE_SHARED)
                examine_others(root, &l->pids, f);
        if (!l->own_mounts)
                examine_mounts(root, f);
        if (f->errors == before)
                process_say(f, "root", GRADE_OK, "all that is in %.400s %s", root,
                            w->options->files == MOVE_SHARED ? "is shared" : "moves along");
        return make_tree(w, root, NULL, err);
}

static bool on_mount(const char *path, uint64_t mount)
{
        struct statx st;

        return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &st) == 0 && st.stx_mnt_id == mount;
}

void process_root_take(const char *root, struct process_files *files)
{
        struct statx st;
        size_t kept = 0;

        if (statx(AT_FDCWD, root, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &st) < 0)
                return;
        for (size_t i = 0; i < files->n; i++) {
                if (process_is_within(files->files[i].path, root) && on_mount(files->files[i].path, st.stx_mnt_id))
                        free(files->files[i].path);
                else
                        files->files[kept++] = files->files[i];
        }
        files->n = kept;
}

/* On another file system, or a mount: it stays there under a hidden name, or its own, and `released` gets a link. */
static int put_aside(const char *root, const char *released, const char *link, struct error *err)
{
        AUTO_FREE char *directory = strdup(root);
        AUTO_FREE char *id = strdup(released);

        if (!directory || !id)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_FREE char *aside = format_new("%s/.phaul-released-%s", dirname(directory), basename(id));
        if (!aside)
                return error_set(err, ENOMEM, "out of memory");
        const char *where = aside;
        if (access(aside, F_OK) < 0 && rename(root, aside) < 0) {
                if (errno != EBUSY && errno != ENOENT)
                        return error_errno(err, errno, "cannot put %s aside", root);
                where = root;
        }
        if (symlink(where, link) < 0 && errno != EEXIST)
                return error_errno(err, errno, "cannot make %s", link);
        return 0;
}

/* The directory goes where it will be removed; what is mounted in it belongs to others. */
static void detach_mounts(const char *root)
{
        AUTO_FREE char *text = NULL;
        char point[PATH_MAX];

        if (fd_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTS_MAX, &text, NULL) < 0)
                return;
        for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL)
                if (mount_point(line, point, sizeof(point)) && process_is_within(point, root) &&
                    strcmp(point, root) != 0)
                        (void)umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW); /* one in another is gone with that */
}

int process_root_release(const char *root, const char *released, struct error *err)
{
        AUTO_FREE char *to = format_new("%s/root", released);
        struct stat st;

        if (!to)
                return error_set(err, ENOMEM, "out of memory");
        /* Done before; what bears the name now may be a tree that has come since. */
        if (lstat(to, &st) == 0)
                return 0;
        int r = fd_mkdir_p(released, 0700);
        if (r < 0)
                return error_errno(err, -r, "cannot make %s", released);
        detach_mounts(root);
        if (rename(root, to) == 0)
                return 0;
        if (errno == EXDEV || errno == EBUSY || errno == ENOENT)
                return put_aside(root, released, to, err);
        return error_errno(err, errno, "cannot move %s to %s", root, to);
}

/* -------------------------------------------------------------------------------------------------- on the target */

/* 1 when nothing is in it. */
static int is_empty(const char *path)
{
        AUTO_DIR DIR *dir = opendir(path);

        if (!dir)
                return -errno;
        for (const struct dirent *e; (e = readdir(dir));)
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        return 0;
        return 1;
}

/* The nearest directory above it that exists must be a plain one: what is made below it then is, too. */
static int check_parents(const char *path)
{
        AUTO_FREE char *parent = strdup(path);
        struct stat st;
        int r = -ENOENT;

        if (!parent)
                return -ENOMEM;
        while (r == -ENOENT && strcmp(parent, "/") != 0)
                r = look(dirname(parent), &st);
        return r;
}

static void verify_place(const char *root, struct process_findings *f)
{
        struct stat st;

        int r = look(root, &st);
        if (r == 0 && is_empty(root) == 1)
                process_say(f, "root", GRADE_OK, "%.400s is here and empty", root);
        else if (r >= 0)
                process_say(f, "root", GRADE_ERROR, "%.400s exists here already%s", root,
                            r > 0 ? ", and is no plain directory" : " and is not empty. Move it away");
        else if (r != -ENOENT || check_parents(root) != 0)
                process_say(f, "root", GRADE_ERROR,
                            "%.400s cannot be made here: what is above it is no plain directory", root);
        else
                process_say(f, "root", GRADE_OK, "%.400s will be made here", root);
}

int process_root_verify(struct workload *w, struct process_findings *f, struct error *err)
{
        const char *root = w->options->pid_root;
        struct stat st;

        if (!root[0])
                return check_mover(w, err);
        if (w->options->files == MOVE_SHARED) {
                int r = check_path(root, &st, err);
                return r < 0 ? r : make_tree(w, NULL, root, err);
        }
        if (is_the_hosts(root))
                return refuse(root, "it belongs to the host", err);
        verify_place(root, f);
        return make_tree(w, NULL, root, err);
}

static char *marker_of(const char *root, const char *token)
{
        AUTO_FREE char *copy = strdup(root);

        return copy ? format_new("%s/.phaul-%s", dirname(copy), token) : NULL;
}

static int mark(const char *root, const char *token, struct error *err)
{
        AUTO_FREE char *marker = marker_of(root, token);

        int r = marker ? fd_write_file(AT_FDCWD, marker, "", 0, 0600) : -ENOMEM;
        return r < 0 ? error_errno(err, -r, "cannot mark %s", root) : 0;
}

int process_root_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err)
{
        const struct process_private *p = w->private_data;
        const char *root = w->options->pid_root;
        AUTO_FREE char *name = NULL;
        struct stat st;

        if (!root[0] || w->options->files == MOVE_SHARED)
                return 0;
        const bool there = look(root, &st) == 0;
        int r = process_directories_announce(root, 0, p->token, leftover, context, err);
        if (r < 0)
                return r;
        name = there ? format_new("%s#%o:%u:%u#%s", p->token, st.st_mode & 07777, st.st_uid, st.st_gid, root)
                     : format_new("%s##%s", p->token, root);
        if (!name)
                return error_set(err, ENOMEM, "out of memory");
        r = leftover("root", name, context, err);
        if (r < 0)
                return r;
        r = process_directories_make(root);
        if (r < 0)
                return error_errno(err, -r, "cannot make the directory of %s", root);
        if (!there && mkdir(root, 0700) < 0)
                return error_errno(err, errno, "cannot make %s", root);
        /* Looked at once more: the verdict may be hours old. */
        if (look(root, &st) != 0 || is_empty(root) != 1)
                return refuse(root, "it is not empty, or no plain directory", err);
        return mark(root, p->token, err);
}

struct leftover {
        char token[ID_LENGTH + 1];
        bool was_there;
        unsigned mode, uid, gid;
        const char *root;
        char *marker;
};

static void leftover_done(struct leftover *l)
{
        free(l->marker);
}

static int take_apart(const char *name, struct leftover *ret, struct error *err)
{
        const char *was = strchr(name, '#'), *root = was ? strchr(was + 1, '#') : NULL;

        if (root && was - name == ID_LENGTH && root[1] == '/') {
                memcpy(ret->token, name, ID_LENGTH);
                ret->was_there = root != was + 1;
                ret->root = root + 1;
                if (id_is_valid(ret->token) && !is_the_hosts(ret->root) &&
                    (!ret->was_there || sscanf(was + 1, "%o:%u:%u#", &ret->mode, &ret->uid, &ret->gid) == 3)) {
                        ret->marker = marker_of(ret->root, ret->token);
                        return ret->marker ? 0 : error_set(err, ENOMEM, "out of memory");
                }
        }
        return error_set(err, EINVAL, "'%.256s' is not a leftover of ours", name);
}

static int empty(const char *path, struct error *err)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot open %s", path);
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir) {
                (void)close(fd);
                return error_set(err, ENOMEM, "out of memory");
        }
        for (const struct dirent *e; (e = readdir(dir));) {
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                int r = fd_remove_tree(dirfd(dir), e->d_name, err);
                if (r < 0)
                        return error_wrap(err, "emptying %s", path);
        }
        return 0;
}

int process_root_discard(const char *name, struct error *err)
{
        CLEANUP(leftover_done) struct leftover l = {0};

        int r = take_apart(name, &l, err);
        if (r < 0)
                return r;
        const bool ours = access(l.marker, F_OK) == 0;
        if (ours && (r = empty(l.root, err)) < 0)
                return r;
        if (ours && l.was_there) {
                if (chown(l.root, l.uid, l.gid) < 0 || chmod(l.root, l.mode) < 0)
                        return error_errno(err, errno, "cannot give %s back", l.root);
        } else if (!l.was_there && rmdir(l.root) < 0 && ours && errno != ENOENT) {
                return error_errno(err, errno, "cannot remove %s", l.root);
        }
        return unlink(l.marker) < 0 && errno != ENOENT && errno != ENOTDIR
                       ? error_errno(err, errno, "cannot remove %s", l.marker)
                       : 0;
}

int process_root_keep(const char *name, struct error *err)
{
        CLEANUP(leftover_done) struct leftover l = {0};

        int r = take_apart(name, &l, err);
        if (r == 0 && unlink(l.marker) < 0 && errno != ENOENT)
                r = error_errno(err, errno, "cannot remove %s", l.marker);
        return r;
}
