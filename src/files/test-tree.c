/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trees between two directories of this host, as they go between two hosts: first everything an inode can be, then what
 * a workload may do to it between the rounds. After FINAL both trees are compared field by field. Needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/spawn.h"
#include "files/test-tree-parts.h"

static void run(const char *const *argv)
{
        const struct spawn_options options = {.argv = argv};
        char *output = NULL;
        struct error err = {0};

        int r = spawn_capture(&options, 10000, 4096, &output, &err);
        if (r != 0)
                fail_msg("%s: %d %s", argv[0], r, err.text);
        free(output);
}

static void set_xattr(const char *dir, const char *name, const char *key, const char *value)
{
        assert_int_equal(lsetxattr(in(dir, name), key, value, strlen(value), 0), 0);
}

/* mtime to the past and to a fraction, so that nothing equals by chance. */
static void set_time(const char *dir, const char *name, time_t seconds, long nanoseconds)
{
        const struct timespec times[2] = {{seconds, 1}, {seconds, nanoseconds}};

        assert_int_equal(utimensat(AT_FDCWD, in(dir, name), times, AT_SYMLINK_NOFOLLOW), 0);
}

static void furnish_odd_names(const char *s)
{
        static const char *const names[] = {"-rf",         "--delete", "two\nlines", " blank ",
                                            "#comment",    ";comment", "\xff\xfe",   "back\\slash\\#012",
                                            "*?[a]",       "...",      ".hidden",    "quote'\"",
                                            "percent%s%n", "tab\t",    "a:b",        "~root"};
        char longest[NAME_MAX + 1];

        assert_int_equal(mkdir(in(s, "odd"), 0700), 0);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                put_text(in(s, "odd"), names[i], names[i]);
                set_time(in(s, "odd"), names[i], 1000000000 + (time_t)i, 999999999);
        }
        memset(longest, 'l', NAME_MAX);
        longest[NAME_MAX] = '\0';
        put_text(in(s, "odd"), longest, "long");
        assert_int_equal(mkdir(in(s, "odd/dir\n-x"), 0700), 0);
        put_text(s, "odd/dir\n-x/\xff", "deep odd");
}

static void furnish_specials(const char *s)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        assert_int_equal(mkdir(in(s, "special"), 0755), 0);
        assert_int_equal(mknod(in(s, "special/null"), S_IFCHR | 0666, makedev(1, 3)), 0);
        assert_int_equal(mknod(in(s, "special/disk"), S_IFBLK | 0660, makedev(259, 70000)), 0);
        assert_int_equal(mknod(in(s, "special/whiteout"), S_IFCHR, 0), 0);
        assert_int_equal(mkfifo(in(s, "special/fifo"), 0640), 0);
        assert_int_equal(chown(in(s, "special/fifo"), 1000, 2000), 0);
        AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.90s", in(s, "special/socket"));
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(symlink("/nowhere/at/all", in(s, "special/dangling")), 0);
        assert_int_equal(lchown(in(s, "special/dangling"), 4000000000U, 77), 0);
        set_time(s, "special/dangling", 1111111111, 222222222);
        assert_int_equal(symlink("../odd", in(s, "special/to-dir")), 0);
        assert_int_equal(link(in(s, "special/null"), in(s, "special/null2")), 0);
        assert_int_equal(link(in(s, "special/dangling"), in(s, "special/dangling2")), 0);
}

static void furnish_attributes(const char *s)
{
        /* VFS_CAP_REVISION_2, effective, CAP_NET_RAW */
        static const unsigned char capability[20] = {1, 0, 0, 2, 0, 0x20};

        assert_int_equal(mkdir(in(s, "attr"), 02775), 0);
        put_text(s, "attr/user", "x");
        set_xattr(s, "attr/user", "user.color", "blue");
        set_xattr(s, "attr/user", "trusted.secret", "t");
        put_text(s, "attr/suid", "x");
        assert_int_equal(chown(in(s, "attr/suid"), 100, 200), 0);
        assert_int_equal(chmod(in(s, "attr/suid"), 06755), 0);
        put_text(s, "attr/ping", "x");
        assert_int_equal(setxattr(in(s, "attr/ping"), "security.capability", capability, sizeof(capability), 0), 0);
        assert_int_equal(mkdir(in(s, "attr/opaque"), 01777), 0);
        set_xattr(s, "attr/opaque", "trusted.overlay.opaque", "y");
        set_xattr(s, "attr/opaque", "trusted.overlay.redirect", "/was/here");
        put_text(s, "attr/acl", "x");
        run((const char *const[]){"setfacl", "-m", "u:1234:rw,g:55:r,m:rw", in(s, "attr/acl"), NULL});
        run((const char *const[]){"setfacl", "-m", "u:9:rwx", in(s, "attr/opaque"), NULL});
        run((const char *const[]){"setfacl", "-d", "-m", "g:9:rx", in(s, "attr/opaque"), NULL});
        put_text(s, "attr/none", "");
        assert_int_equal(chmod(in(s, "attr/none"), 0), 0);
}

static void furnish_data(const char *s)
{
        static char noise[300000];
        char path[PATH_MAX];
        int n = 0;

        for (size_t i = 0; i < sizeof(noise); i++)
                noise[i] = (char)(i * 2654435761U >> 13);
        put_file(s, "data", noise, sizeof(noise));
        put_file(s, "database", noise, sizeof(noise));
        assert_int_equal(link(in(s, "data"), in(s, "data-link")), 0);
        assert_int_equal(link(in(s, "data"), in(s, "special/data-link")), 0);
        AUTO_FD int fd = open(in(s, "sparse"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(pwrite(fd, "middle", 6, 50 << 20), 6);
        assert_int_equal(ftruncate(fd, 200 << 20), 0);
        /* Deep, though within what one path may be. */
        for (int i = 0; i < 150; i++) {
                n += snprintf(path + n, sizeof(path) - (size_t)n, "%slevel-%d", i ? "/" : "", i);
                assert_int_equal(mkdir(in(s, path), 0755), 0);
        }
        put_text(in(s, path), "bottom", "b");
}

static void furnish(const char *s)
{
        furnish_odd_names(s);
        furnish_specials(s);
        furnish_attributes(s);
        furnish_data(s);
        for (int i = 0; i < 3; i++) {
                char name[32];
                (void)snprintf(name, sizeof(name), "dir-%d", i);
                assert_int_equal(mkdir(in(s, name), 0755), 0);
                assert_int_equal(mkdir(in(in(s, name), "sub"), 0755), 0);
                /* The same size and time everywhere, as from an archive with normalised times. */
                put_text(in(s, name), "sub/file", i == 0 ? "zero" : i == 1 ? "one!" : "two!");
                set_time(s, in(name, "sub/file"), 1 + i, 0);
                put_text(in(s, name), "own", "own");
        }
        set_time(s, "dir-2", 1234567890, 123456789);
}

/* A full round carries everything; an empty final one after it transfers nothing and breaks nothing. */
static void test_everything(void **state)
{
        struct files_mark mark;
        struct place p;
        struct ends ends;

        (void)state;
        place_make(&p);
        furnish(p.source);
        put_text(p.target, "stale", "from an earlier attempt");
        good_round(&p, FILES_FULL, NULL, NULL, &ends);
        assert_same_trees(p.source, p.target);
        assert_true(ends.sent.files > 20);
        assert_int_equal(ends.sent.deleted, 1);
        assert_true(ends.sent.bytes_sent > 600000);

        usleep(40000);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        good_round(&p, FILES_FINAL, &mark, NULL, &ends);
        assert_same_trees(p.source, p.target);
        assert_int_equal(ends.sent.files, 0);
        assert_int_equal(ends.sent.deleted, 0);
        assert_false(ends.sent.mark_was_void);
        place_clear(&p);
}

static void change_contents(const char *s)
{
        struct stat before;

        /* Same size, same mtime. */
        assert_int_equal(stat(in(s, "database"), &before), 0);
        AUTO_FD int fd = open(in(s, "database"), O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "CHANGED", 7, 123456), 7);
        assert_int_equal(futimens(fd, (struct timespec[2]){before.st_atim, before.st_mtim}), 0);
        put_text(s, "odd/-rf", "other");
        put_text(s, "odd/#comment", "other");
        put_text(s, "odd/;comment", "other");
        put_text(s, "odd/\xff\xfe", "other");
        put_text(s, "odd/two\nlines", "other");
        put_text(s, "odd/ blank ", "other");
        put_text(s, "new\nfile", "new");
}

static void change_attributes(const char *s)
{
        assert_int_equal(chmod(in(s, "odd/--delete"), 0600), 0);
        assert_int_equal(lchown(in(s, "special/to-dir"), 5, 6), 0);
        assert_int_equal(chown(in(s, "attr/suid"), 101, 201), 0);
        assert_int_equal(chmod(in(s, "attr/suid"), 04711), 0);
        set_xattr(s, "attr/user", "user.color", "red");
        assert_int_equal(removexattr(in(s, "attr/user"), "trusted.secret"), 0);
        run((const char *const[]){"setfacl", "-b", in(s, "attr/acl"), NULL});
        run((const char *const[]){"setfacl", "-k", in(s, "attr/opaque"), NULL});
        assert_int_equal(chmod(in(s, "special/fifo"), 0600), 0);
        assert_int_equal(chmod(in(s, "level-0/level-1/level-2"), 0711), 0);
        set_time(s, "odd/...", 5, 5);
}

static void change_links(const char *s)
{
        assert_int_equal(unlink(in(s, "special/data-link")), 0);
        assert_int_equal(link(in(s, "sparse"), in(s, "special/sparse-link")), 0);
        assert_int_equal(unlink(in(s, "special/dangling2")), 0);
        assert_int_equal(symlink("/nowhere/at/all", in(s, "special/dangling2")), 0);
        assert_int_equal(unlink(in(s, "special/null2")), 0);
        assert_int_equal(mknod(in(s, "special/null2"), S_IFCHR | 0600, makedev(1, 3)), 0);
        /* One name of a file becomes a file of its own with the same data. */
        assert_int_equal(rename(in(s, "data-link"), in(s, "kept")), 0);
}

static void change_names(const char *s)
{
        /* The swap of a deployment: nothing below has a new ctime, and size and time of the files say nothing. */
        assert_int_equal(rename(in(s, "dir-0"), in(s, "dir-x")), 0);
        assert_int_equal(rename(in(s, "dir-1"), in(s, "dir-0")), 0);
        assert_int_equal(rename(in(s, "dir-x"), in(s, "dir-1")), 0);
        assert_int_equal(rename(in(s, "dir-2"), in(s, "attr/moved")), 0);
        assert_int_equal(rename(in(s, "level-0/level-1/level-2/level-3"), in(s, "level-0/shallow")), 0);
        assert_int_equal(unlink(in(s, "odd/*?[a]")), 0);
        assert_int_equal(unlink(in(s, "odd/dir\n-x/\xff")), 0);
        assert_int_equal(rmdir(in(s, "odd/dir\n-x")), 0);
}

static void change_types(const char *s)
{
        assert_int_equal(unlink(in(s, "odd/.hidden")), 0);
        assert_int_equal(mkdir(in(s, "odd/.hidden"), 0700), 0);
        put_text(s, "odd/.hidden/inside", "x");
        assert_int_equal(unlink(in(s, "special/to-dir")), 0);
        assert_int_equal(mkdir(in(s, "special/to-dir"), 0700), 0);
        assert_int_equal(unlink(in(s, "attr/ping")), 0);
        assert_int_equal(symlink("user", in(s, "attr/ping")), 0);
        assert_int_equal(unlink(in(s, "special/socket")), 0);
        put_text(s, "special/socket", "a file now");
        assert_int_equal(unlink(in(s, "special/null")), 0);
        assert_int_equal(symlink("disk", in(s, "special/null")), 0);
        assert_int_equal(mkdir(in(s, "tmp"), 0700), 0);
        assert_int_equal(rename(in(s, "odd/tab\t"), in(s, "tmp/file")), 0);
        assert_int_equal(mkdir(in(s, "odd/tab\t"), 0700), 0);
        assert_int_equal(rename(in(s, "tmp/file"), in(s, "odd/tab\t/file")), 0);
}

/* Everything a workload may do between two rounds arrives, whatever size and mtime say; the rest is left alone. */
static void test_changes(void **state)
{
        struct files_mark mark;
        struct stat before, after;
        struct place p;
        struct ends ends;

        (void)state;
        place_make(&p);
        furnish(p.source);
        usleep(40000);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        assert_int_equal(stat(in(p.target, "odd/~root"), &before), 0);

        change_contents(p.source);
        change_attributes(p.source);
        change_links(p.source);
        change_names(p.source);
        change_types(p.source);
        good_round(&p, FILES_FINAL, &mark, NULL, &ends);
        assert_same_trees(p.source, p.target);
        assert_true(ends.sent.deleted >= 5);

        /* Not even rewritten: its directory changed, it did not. */
        assert_int_equal(stat(in(p.target, "odd/~root"), &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_true(ends.sent.bytes_changed < 100000);
        place_clear(&p);
}

/* A second round while the workload runs, from mark to mark; then a directory becomes a file and back again. */
static void test_round_after_round(void **state)
{
        struct files_mark first, second, third;
        struct place p;

        (void)state;
        place_make(&p);
        furnish(p.source);
        assert_int_equal(files_mark_take(p.source, &first, NULL), 0);
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        change_names(p.source);
        assert_int_equal(files_mark_take(p.source, &second, NULL), 0);
        good_round(&p, FILES_CHANGED, &first, NULL, NULL);
        assert_same_trees(p.source, p.target);
        change_contents(p.source);
        change_types(p.source);
        assert_int_equal(files_mark_take(p.source, &third, NULL), 0);
        good_round(&p, FILES_CHANGED, &second, NULL, NULL);
        assert_same_trees(p.source, p.target);
        change_attributes(p.source);
        change_links(p.source);
        good_round(&p, FILES_FINAL, &third, NULL, NULL);
        assert_same_trees(p.source, p.target);
        place_clear(&p);
}

static void assert_file_holds(const char *path, const char *data, size_t size)
{
        AUTO_FREE char *held = NULL;
        size_t n = 0;

        assert_int_equal(fd_read_file(AT_FDCWD, path, 1 << 20, &held, &n), 0);
        assert_int_equal(n, size);
        assert_memory_equal(held, data, size);
}

/*
 * A page that was mapped and dirty long before: stores through it after the mark and after the full round must arrive,
 * though nobody calls write() and the fault happened long ago.
 */
static void test_mapped_writer(void **state)
{
        struct files_mark mark;
        struct place p;
        struct ends ends;

        (void)state;
        place_make(&p);
        put_file(p.source, "mapped", (char[8192]){0}, 8192);
        AUTO_FD int fd = open(in(p.source, "mapped"), O_RDWR | O_CLOEXEC);
        char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        map[0] = 'a';
        usleep(50000);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        map[1] = 'b';
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        usleep(20000);
        map[1] = 'c';
        map[4097] = 'd';
        good_round(&p, FILES_FINAL, &mark, NULL, &ends);
        assert_file_holds(in(p.target, "mapped"), map, 8192);
        (void)munmap(map, 8192);
        place_clear(&p);
}

static void test_mapped_on_tmpfs(void **state)
{
        struct files_mark mark;
        struct place p;
        struct error err = {0};
        CLEANUP(files_paths_free_ptr) char **paths = NULL;
        int self = getpid();

        (void)state;
        place_make(&p);
        assert_int_equal(mount("test", p.source, "tmpfs", 0, "size=1m"), 0);
        assert_int_equal(mkdir(in(p.source, "d"), 0755), 0);
        put_file(p.source, "d/mapped", (char[4096]){0}, 4096);
        put_file(p.source, "d/other", "x", 1);
        AUTO_FD int fd = open(in(p.source, "d/mapped"), O_RDWR | O_CLOEXEC);
        char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        char *twice = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED && twice != MAP_FAILED);
        map[0] = 'a';
        usleep(50000);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        map[0] = 'b';
        int r = files_mapped_shared(&self, 1, p.source, &paths, &err);
        if (r < 0)
                fail_msg("%s", err.text);
        assert_string_equal(paths[0], "d/mapped");
        assert_null(paths[1]);
        good_round(&p, FILES_FINAL, &mark, (const char *const *)paths, NULL);
        assert_file_holds(in(p.target, "d/mapped"), map, 4096);
        (void)munmap(map, 4096);
        (void)munmap(twice, 4096);
        (void)close(TAKE_FD(fd));
        assert_int_equal(umount2(p.source, MNT_DETACH), 0);
        place_clear(&p);
}

/* With a clock that was stepped back, ctimes say nothing: all is compared by checksum, and the result says so. */
static void test_clock_stepped_back(void **state)
{
        struct files_mark mark;
        struct place p;
        struct ends ends;

        (void)state;
        place_make(&p);
        furnish(p.source);
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        change_contents(p.source);
        change_attributes(p.source);
        change_links(p.source);
        change_names(p.source);
        change_types(p.source);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        mark.wall_minus_monotonic_ns += INT64_C(60000000000);
        mark.change.tv_sec += 60;
        good_round(&p, FILES_FINAL, &mark, NULL, &ends);
        assert_true(ends.sent.mark_was_void);
        assert_same_trees(p.source, p.target);
        assert_true(ends.sent.bytes_changed < 700000);
        place_clear(&p);
}

/* What the receiver lacks of a directory that changed is asked for, although it did not change itself. */
static void test_receiver_lacks(void **state)
{
        struct files_mark mark;
        struct place p;
        struct error err = {0};

        (void)state;
        place_make(&p);
        furnish(p.source);
        good_round(&p, FILES_FULL, NULL, NULL, NULL);
        usleep(50000);
        assert_int_equal(files_mark_take(p.source, &mark, NULL), 0);
        assert_int_equal(fd_remove_tree(AT_FDCWD, in(p.target, "level-0"), &err), 0);
        assert_int_equal(unlink(in(p.target, "data-link")), 0);
        put_text(p.source, "touch", "root changed");
        good_round(&p, FILES_FINAL, &mark, NULL, NULL);
        assert_same_trees(p.source, p.target);
        place_clear(&p);
}

static void test_measure(void **state)
{
        uint64_t bytes, inodes, room, room_inodes;
        struct place p;

        (void)state;
        place_make(&p);
        put_file(p.source, "a", (char[100000]){1}, 100000);
        assert_int_equal(link(in(p.source, "a"), in(p.source, "b")), 0);
        assert_int_equal(mkdir(in(p.source, "other"), 0755), 0);
        assert_int_equal(mount("test", in(p.source, "other"), "tmpfs", 0, "size=1m"), 0);
        put_file(p.source, "other/file", (char[200000]){1}, 200000);
        assert_int_equal(files_sync(p.source, NULL), 0);
        assert_int_equal(files_measure(p.source, &bytes, &inodes, NULL), 0);
        assert_int_equal(umount2(in(p.source, "other"), MNT_DETACH), 0);
        assert_int_equal(inodes, 3);
        assert_in_range(bytes, 100000, 150000);
        assert_int_equal(files_room(p.source, &room, &room_inodes, NULL), 0);
        assert_true(room > 0 && room_inodes > 0);
        place_clear(&p);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_everything),        cmocka_unit_test(test_changes),
                cmocka_unit_test(test_round_after_round), cmocka_unit_test(test_mapped_writer),
                cmocka_unit_test(test_mapped_on_tmpfs),   cmocka_unit_test(test_clock_stepped_back),
                cmocka_unit_test(test_receiver_lacks),    cmocka_unit_test(test_measure),
        };

        if (geteuid() != 0)
                return 77;
        return cmocka_run_group_tests_name("files: tree", tests, NULL, NULL);
}
