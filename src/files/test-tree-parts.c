/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/test-tree-parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"

char *in(const char *dir, const char *name)
{
        static char buffers[4][PATH_MAX];
        static unsigned next;
        char *b = buffers[next++ % 4];

        assert_true(snprintf(b, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
        return b;
}

bool exists(const char *dir, const char *name)
{
        struct stat st;

        return lstat(in(dir, name), &st) == 0;
}

void put_file(const char *dir, const char *name, const void *data, size_t size)
{
        AUTO_FD int fd = open(in(dir, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, data, size), 0);
}

void put_text(const char *dir, const char *name, const char *text)
{
        put_file(dir, name, text, strlen(text));
}

void place_make(struct place *p)
{
        const char *base = getenv("PHAUL_TEST_DIR");

        (void)snprintf(p->dir, sizeof(p->dir), "%.40s/phaul-tree-XXXXXX", base ? base : "/var/tmp");
        assert_non_null(mkdtemp(p->dir));
        (void)snprintf(p->source, sizeof(p->source), "%s/source", p->dir);
        (void)snprintf(p->target, sizeof(p->target), "%s/target", p->dir);
        assert_int_equal(mkdir(p->source, 0751), 0);
        assert_int_equal(mkdir(p->target, 0700), 0);
}

void place_clear(struct place *p)
{
        struct error err = {0};

        assert_int_equal(fd_remove_tree(AT_FDCWD, p->dir, &err), 0);
}

struct side {
        bool over, failed;
        struct files_result result;
        struct error err;
};

static void on_done(struct files_job *job, const struct files_result *result, const struct error *err, void *context)
{
        struct side *s = context;

        (void)job;
        s->over = true;
        s->result = *result;
        s->failed = err != NULL;
        if (err)
                s->err = *err;
}

void run_round(const struct place *p, const struct files_send_options *options, struct ends *ret)
{
        CLEANUP(loop_free_ptr) struct loop *loop = NULL;
        CLEANUP(files_job_free_ptr) struct files_job *sender = NULL;
        CLEANUP(files_job_free_ptr) struct files_job *receiver = NULL;
        struct side sending = {0}, receiving = {0};
        struct error err = {0};
        int sockets[2];

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        if (files_send(loop, options, sockets[0], on_done, &sending, &sender, &err) < 0)
                fail_msg("send: %s", err.text);
        if (files_receive(loop, p->target, options->round, sockets[1], on_done, &receiving, &receiver, &err) < 0)
                fail_msg("receive: %s", err.text);

        if (options->round == FILES_FINAL) {
                /* Both ends get ready, as they do while a workload still runs. */
                for (uint64_t until = clock_ms() + 150; clock_ms() < until;)
                        assert_int_equal(loop_run_once(loop, 20), 0);
        }
        uint64_t start = clock_us();
        if (options->round == FILES_FINAL)
                assert_int_equal(files_send_go(sender), 0);
        uint64_t limit = clock_ms() + 240000;
        while ((!sending.over || !receiving.over) && clock_ms() < limit)
                assert_int_equal(loop_run_once(loop, 1000), 0);
        assert_true(sending.over && receiving.over);
        *ret = (struct ends){
                .sent = sending.result,
                .sender_failed = sending.failed,
                .receiver_failed = receiving.failed,
                .sender = sending.err,
                .receiver = receiving.err,
                .go_us = clock_us() - start,
        };
}

void good_round(const struct place *p, enum files_round round, const struct files_mark *since, const char *const *also,
                struct ends *ret)
{
        struct files_send_options options = {.path = p->source, .round = round, .also = also};
        struct ends ends;

        if (since)
                options.since = *since;
        run_round(p, &options, &ends);
        if (ends.sender_failed)
                fail_msg("sender: %s", ends.sender.text);
        if (ends.receiver_failed)
                fail_msg("receiver: %s", ends.receiver.text);
        if (ret)
                *ret = ends;
}

/* Names of directory `path`, sorted; the caller frees. */
static int list(const char *path, struct dirent ***ret)
{
        int n = scandir(path, ret, NULL, alphasort);

        assert_true(n >= 0);
        return n;
}

static void assert_same_xattrs(const char *a, const char *b)
{
        static char names_a[65536], names_b[65536], value_a[65536], value_b[65536];
        ssize_t n = llistxattr(a, names_a, sizeof(names_a)), m = llistxattr(b, names_b, sizeof(names_b));

        if (n != m)
                fail_msg("extended attributes of %s: %zd and %zd bytes of names", a, n, m);
        for (const char *p = names_a; p < names_a + n; p += strlen(p) + 1) {
                ssize_t i = lgetxattr(a, p, value_a, sizeof(value_a)), j = lgetxattr(b, p, value_b, sizeof(value_b));
                if (i < 0 || i != j || memcmp(value_a, value_b, (size_t)i) != 0)
                        fail_msg("extended attribute %s of %s", p, a);
        }
}

static void assert_same_data(const char *a, const char *b)
{
        static char data_a[1 << 16], data_b[1 << 16];
        AUTO_FD int fd_a = open(a, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        AUTO_FD int fd_b = open(b, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        assert_true(fd_a >= 0 && fd_b >= 0);
        for (;;) {
                ssize_t n = fd_read_full(fd_a, data_a, sizeof(data_a)), m = fd_read_full(fd_b, data_b, sizeof(data_b));
                if (n != m || n < 0 || memcmp(data_a, data_b, (size_t)n) != 0)
                        fail_msg("data of %s", a);
                if (n == 0)
                        return;
        }
}

/* Inode of the source to inode of the target: hard links hold when this is one to one. */
struct pairs {
        ino_t from[4096], to[4096];
        size_t n;
};

static void assert_same_links(struct pairs *p, const struct stat *a, const struct stat *b, const char *path)
{
        if (a->st_nlink != b->st_nlink)
                fail_msg("%s has %lu names, and %lu at the target", path, (unsigned long)a->st_nlink,
                         (unsigned long)b->st_nlink);
        if (a->st_nlink < 2)
                return;
        for (size_t i = 0; i < p->n; i++)
                if ((p->from[i] == a->st_ino) != (p->to[i] == b->st_ino))
                        fail_msg("%s is linked to other names", path);
        assert_true(p->n < 4096);
        p->from[p->n] = a->st_ino;
        p->to[p->n++] = b->st_ino;
}

static void compare(struct pairs *pairs, const char *a, const char *b)
{
        struct stat x, y;

        assert_int_equal(lstat(a, &x), 0);
        if (lstat(b, &y) < 0)
                fail_msg("%s is missing", b);
        if (x.st_mode != y.st_mode || x.st_uid != y.st_uid || x.st_gid != y.st_gid || x.st_rdev != y.st_rdev)
                fail_msg("%s: mode %o owner %u:%u device %lx, and %o %u:%u %lx", a, x.st_mode, x.st_uid, x.st_gid,
                         (unsigned long)x.st_rdev, y.st_mode, y.st_uid, y.st_gid, (unsigned long)y.st_rdev);
        if (x.st_mtim.tv_sec != y.st_mtim.tv_sec || x.st_mtim.tv_nsec != y.st_mtim.tv_nsec)
                fail_msg("%s: time of modification %ld.%09ld and %ld.%09ld", a, (long)x.st_mtim.tv_sec,
                         x.st_mtim.tv_nsec, (long)y.st_mtim.tv_sec, y.st_mtim.tv_nsec);
        assert_same_xattrs(a, b);
        if (S_ISREG(x.st_mode)) {
                assert_same_data(a, b);
                /* Holes stay holes: at most what the blocks at the ends of runs add. */
                if ((uint64_t)y.st_blocks > (uint64_t)x.st_blocks + 256)
                        fail_msg("%s: %ld blocks became %ld", a, (long)x.st_blocks, (long)y.st_blocks);
        }
        if (S_ISLNK(x.st_mode)) {
                char s[PATH_MAX] = {0}, t[PATH_MAX] = {0};
                assert_true(readlink(a, s, sizeof(s) - 1) > 0 && readlink(b, t, sizeof(t) - 1) > 0);
                assert_string_equal(s, t);
        }
        if (!S_ISDIR(x.st_mode)) {
                assert_same_links(pairs, &x, &y, a);
                return;
        }

        struct dirent **s, **t;
        int n = list(a, &s), m = list(b, &t);
        for (int i = 0; i < n && i < m; i++)
                if (strcmp(s[i]->d_name, t[i]->d_name) != 0)
                        fail_msg("in %s: '%s' here, '%s' there", a, s[i]->d_name, t[i]->d_name);
        if (n != m)
                fail_msg("%s has %d entries, and %d at the target", a, n, m);
        for (int i = 0; i < n; i++) {
                if (strcmp(s[i]->d_name, ".") != 0 && strcmp(s[i]->d_name, "..") != 0) {
                        char c[PATH_MAX], d[PATH_MAX];
                        assert_true(snprintf(c, sizeof(c), "%s/%s", a, s[i]->d_name) < PATH_MAX);
                        assert_true(snprintf(d, sizeof(d), "%s/%s", b, s[i]->d_name) < PATH_MAX);
                        compare(pairs, c, d);
                }
                free(s[i]);
                free(t[i]);
        }
        free(s);
        free(t);
}

void assert_same_trees(const char *a, const char *b)
{
        struct pairs *pairs = calloc(1, sizeof(*pairs));

        assert_non_null(pairs);
        compare(pairs, a, b);
        free(pairs);
}
