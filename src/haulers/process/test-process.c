/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What of the hauler of process trees needs no migration: sets of pids, trees, files, and files that are taken back. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "haulers/process/copy.h"
#include "haulers/process/files.h"
#include "haulers/process/test-parts.h"

/* ------------------------------------------------------------------------------------------------------------- sets */

static void sets_are_short_as_text_and_come_back(void **state)
{
        static const pid_t numbers[] = {20, 17, 21, 22, 22, 30};
        CLEANUP(process_set_done) struct process_set set = {0}, back = {0};
        AUTO_FREE char *text = NULL;

        (void)state;
        pid_t *pids = malloc(sizeof(numbers));
        assert_non_null(pids);
        memcpy(pids, numbers, sizeof(numbers));
        process_set_make(pids, sizeof(numbers) / sizeof(numbers[0]), &set);
        assert_int_equal(set.n, 5);
        assert_int_equal(process_set_print(&set, &text), 0);
        assert_string_equal(text, "17,20-22,30");
        assert_int_equal(process_set_parse(text, &back), 0);
        assert_int_equal(back.n, 5);
        assert_true(process_set_has(&back, 21));
        assert_false(process_set_has(&back, 23));
}

static void sets_of_a_peer_are_not_trusted(void **state)
{
        static const char *const bad[] = {"0",    "-1",   "5-",        "5-4",        "x",  "1,,2",
                                          "1,2,", "1 ,2", "1-9999999", "2147483648", ",1", "1-2-3"};

        (void)state;
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                struct process_set set = {0};
                if (process_set_parse(bad[i], &set) == 0)
                        fail_msg("'%s' was taken for a set", bad[i]);
        }
        struct process_set empty = {0};
        assert_int_equal(process_set_parse("", &empty), 0);
        assert_int_equal(empty.n, 0);
        process_set_done(&empty);
}

static void only_numbers_are_process_ids(void **state)
{
        (void)state;
        assert_int_equal(process_id("1234"), 1234);
        assert_int_equal(process_id("0"), 0);
        assert_int_equal(process_id("01"), 0);
        assert_int_equal(process_id("12a"), 0);
        assert_int_equal(process_id("99999999999"), 0);
        assert_int_equal(process_id("3000000000"), 0);
}

/* ------------------------------------------------------------------------------------------------------------- tree */

static void a_tree_is_found_with_its_children(void **state)
{
        CLEANUP(process_set_done) struct process_set tree = {0}, tids = {0};
        struct process_task task;
        int ends[2];

        (void)state;
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid_t child = fork();
        if (child == 0) {
                char c;
                (void)close(ends[1]);
                (void)!read(ends[0], &c, 1);
                _exit(0);
        }
        (void)close(ends[0]);
        assert_int_equal(process_tree(getpid(), &tree, &tids, NULL), 0);
        assert_true(process_set_has(&tree, getpid()) && process_set_has(&tree, child));
        assert_false(process_set_has(&tree, getppid()));
        assert_true(process_set_has(&tids, child));
        assert_int_equal(process_task_read(child, &task), 0);
        assert_int_equal(task.parent, getpid());
        assert_false(task.kernel);
        (void)close(ends[1]);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(process_task_read(child, &task), -ESRCH);
}

static void wait_for_the_end(const int *ends)
{
        char c;

        (void)close(ends[1]);
        (void)!read(ends[0], &c, 1);
        _exit(0);
}

/* The child of a child; `orphan`: which has ended. It lives until the other end of `ends` is closed. */
static pid_t grandchild(const int *ends, bool orphan)
{
        int told[2];
        pid_t pid = 0;

        if (pipe2(told, O_CLOEXEC) < 0)
                return -1;
        const pid_t child = fork();
        if (child == 0) {
                pid = fork();
                if (pid == 0)
                        wait_for_the_end(ends);
                (void)!write(told[1], &pid, sizeof(pid));
                if (!orphan)
                        wait_for_the_end(ends);
                _exit(0);
        }
        (void)!read(told[0], &pid, sizeof(pid));
        if (orphan)
                (void)waitpid(child, NULL, 0);
        return pid;
}

/* Who was forked twice and lost its parent is no descendant any more, though it is in their cgroup. */
static void orphans_are_no_descendants(void **state)
{
        struct {
                pid_t root, orphan, grandchild;
        } all = {0};
        struct process_task task;
        int ends[2], told[2];

        (void)state;
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        assert_int_equal(pipe2(told, O_CLOEXEC), 0);
        const pid_t root = fork();
        if (root == 0) {
                all.root = getpid();
                all.orphan = grandchild(ends, true);
                all.grandchild = grandchild(ends, false);
                (void)!write(told[1], &all, sizeof(all));
                wait_for_the_end(ends);
        }
        assert_int_equal(read(told[0], &all, sizeof(all)), sizeof(all));
        assert_int_equal(process_task_read(all.grandchild, &task), 0);

        pid_t pids[] = {all.orphan, all.grandchild, getpid(), task.parent, root};
        const pid_t expected[] = {root, task.parent, all.grandchild};
        size_t n = sizeof(pids) / sizeof(pids[0]);
        assert_int_equal(process_keep_descendants(pids, &n, root), 0);
        assert_int_equal(n, 3);
        for (size_t i = 0; i < 3; i++) {
                bool found = false;
                for (size_t k = 0; k < n; k++)
                        found |= pids[k] == expected[i];
                assert_true(found);
        }
        n = 0;
        assert_int_equal(process_keep_descendants(pids, &n, root), 0);
        assert_int_equal(n, 0);

        (void)close(ends[1]);
        (void)close(ends[0]);
        (void)close(told[0]);
        (void)close(told[1]);
        assert_int_equal(waitpid(root, NULL, 0), root);
}

/* ------------------------------------------------------------------------------------------------------------ files */

struct heard {
        char text[8192];
        unsigned errors, copies;
};

static void hear(const char *item, enum grade grade, const char *reason, void *context)
{
        struct heard *h = context;
        size_t n = strlen(h->text);

        h->errors += grade == GRADE_ERROR;
        h->copies += strcmp(item, "copy") == 0;
        (void)snprintf(h->text + n, sizeof(h->text) - n, "%s: %s\n", item, reason);
}

struct scene {
        char directory[64], kept[PATH_MAX], other[PATH_MAX], missing[PATH_MAX];
};

static void write_text(const char *path, const char *text)
{
        assert_int_equal(fd_write_file(AT_FDCWD, path, text, strlen(text), 0644), 0);
}

static int set_up(void **state)
{
        struct scene *s = calloc(1, sizeof(*s));

        assert_non_null(s);
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/phaul-process-XXXXXX");
        assert_non_null(mkdtemp(s->directory));
        (void)snprintf(s->kept, sizeof(s->kept), "%s/kept", s->directory);
        (void)snprintf(s->other, sizeof(s->other), "%s/other", s->directory);
        (void)snprintf(s->missing, sizeof(s->missing), "%s/new/missing", s->directory);
        write_text(s->kept, "kept");
        write_text(s->other, "theirs");
        *state = s;
        return 0;
}

static int tear_down(void **state)
{
        struct scene *s = *state;

        int r = fd_remove_tree(AT_FDCWD, s->directory, NULL);
        free(s);
        return r;
}

/* A description as the other host would send it. */
static json_t *description_of(const struct scene *s)
{
        uint64_t size;
        char digest[33];

        assert_int_equal(process_file_digest(s->kept, &size, digest), 0);
        return json_pack("{s:[[s,s,I,s],[s,s,I,s],[s,s,I,s],[s,s,i]]}", "files", s->kept, "c", (json_int_t)size, digest,
                         s->other, "r", (json_int_t)4, "", s->missing, "r", (json_int_t)4, "", s->directory, "d",
                         S_IFDIR);
}

static void files_are_compared_and_named(void **state)
{
        const struct scene *s = *state;
        CLEANUP(process_files_done) struct process_files files = {0};
        const struct process_file *copies[PROCESS_COPIES_MAX];
        struct heard all = {0}, copied = {0};
        struct process_findings f = {.report = hear, .context = &all};
        char expected[PATH_MAX + 64];

        json_t *description = description_of(s);
        assert_int_equal(process_files_parse(description, &files, NULL), 0);
        json_decref(description);
        assert_int_equal(process_files_verify(&files, false, copies, &f), 0);
        assert_int_equal(all.errors, 2);
        (void)snprintf(expected, sizeof(expected), "files: %s is missing here; --copy-files brings it\n", s->missing);
        assert_non_null(strstr(all.text, expected));
        (void)snprintf(expected, sizeof(expected), "files: %s is different here", s->other);
        assert_non_null(strstr(all.text, expected));
        assert_null(strstr(all.text, s->kept));

        f = (struct process_findings){.report = hear, .context = &copied};
        assert_int_equal(process_files_verify(&files, true, copies, &f), 2);
        assert_int_equal(copied.errors, 0);
        assert_int_equal(copied.copies, 2);
}

/* A server of files would have nothing to serve. */
static void a_directory_comes_empty(void **state)
{
        const struct scene *s = *state;
        CLEANUP(process_files_done) struct process_files files = {0};
        const struct process_file *copies[PROCESS_COPIES_MAX];
        struct heard all = {0}, copied = {0};
        struct process_findings f = {.report = hear, .context = &all};

        json_t *description = json_pack("{s:[[s,s,i]]}", "files", s->missing, "d", S_IFDIR);
        assert_int_equal(process_files_parse(description, &files, NULL), 0);
        json_decref(description);
        assert_int_equal(process_files_verify(&files, false, copies, &f), 0);
        assert_int_equal(all.errors, 1);
        assert_non_null(strstr(all.text, "--copy-files brings it, but not what is in it"));
        f = (struct process_findings){.report = hear, .context = &copied};
        assert_int_equal(process_files_verify(&files, true, copies, &f), 1);
        assert_int_equal(copied.errors, 0);
        assert_non_null(strstr(copied.text, "is a directory: what is in it"));
}

/* What lies in a directory called "nfs" is on NFS. */
int statfs(const char *path, struct statfs *ret)
{
        int r = (int)syscall(SYS_statfs, path, ret);

        if (r == 0 && strstr(path, "/nfs/"))
                ret->f_type = 0x6969;
        return r;
}

/* A log on shared storage grows between the looks of the two hosts, and is the same file all the same. */
static void what_is_written_on_shared_storage_is_the_same(void **state)
{
        const struct scene *s = *state;
        CLEANUP(process_files_done) struct process_files files = {0};
        const struct process_file *copies[PROCESS_COPIES_MAX];
        char log[PATH_MAX + 16], lost[PATH_MAX + 16];

        (void)snprintf(log, sizeof(log), "%s/nfs", s->directory);
        assert_int_equal(mkdir(log, 0755), 0);
        (void)snprintf(log, sizeof(log), "%s/nfs/log", s->directory);
        (void)snprintf(lost, sizeof(lost), "%s/nfs/lost", s->directory);
        write_text(log, "one line\nand one more\n");
        json_t *description = json_pack("{s:[[s,s,i,s],[s,s,i,s],[s,s,i,s]]}", "files", log, "w", 9,
                                        "0123456789abcdef0123456789abcdef", lost, "w", 4, "", s->other, "w", 9, "");
        assert_int_equal(process_files_parse(description, &files, NULL), 0);
        json_decref(description);
        for (int copy = 0; copy < 2; copy++) {
                struct heard heard = {0};
                struct process_findings f = {.report = hear, .context = &heard};
                assert_int_equal(process_files_verify(&files, copy, copies, &f), copy ? 2 : 0);
                assert_int_equal(heard.errors, copy ? 0 : 2);
                assert_null(strstr(heard.text, log));
        }
}

static void files_of_a_peer_are_not_trusted(void **state)
{
        static const char *const bad[] = {
                "{\"files\":[[\"relative\",\"r\",1,\"\"]]}",    "{\"files\":[[\"/a/../etc\",\"r\",1,\"\"]]}",
                "{\"files\":[[\"/a\",\"z\",1,\"\"]]}",          "{\"files\":[[\"/a\",\"r\",-1,\"\"]]}",
                "{\"files\":[[\"/a\",\"r\",1,\"no digest\"]]}", "{\"files\":[7]}",
        };

        (void)state;
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                CLEANUP(process_files_done) struct process_files files = {0};
                json_t *description = json_loads(bad[i], 0, NULL);
                assert_non_null(description);
                assert_true(process_files_parse(description, &files, NULL) < 0);
                json_decref(description);
        }
}

/* However many files there are, the description stays within what the wire takes. */
static void a_description_is_bounded(void **state)
{
        CLEANUP(process_files_done) struct process_files files = {0};
        struct heard heard = {0};
        struct process_findings f = {.report = hear, .context = &heard};
        const size_t n = 5000, room = 20000;

        (void)state;
        files.files = calloc(n, sizeof(*files.files));
        assert_non_null(files.files);
        for (; files.n < n; files.n++) {
                struct process_file *file = &files.files[files.n];
                file->use = FILE_CODE;
                file->path = format_new("/usr/lib/some/where/file-%zu", files.n);
                (void)memset(file->digest, 'a', 32);
        }
        json_t *description = json_object();
        assert_int_equal(process_files_describe(&files, description, room, &f, NULL), 0);
        AUTO_FREE char *text = json_dumps(description, JSON_COMPACT);
        assert_non_null(text);
        assert_true(strlen(text) < room + 16);
        assert_true(json_array_size(json_object_get(description, "files")) > 300);
        assert_non_null(strstr(heard.text, "by size only"));
        assert_non_null(strstr(heard.text, "not compared"));
        json_decref(description);
}

static void own_files_are_found(void **state)
{
        const struct scene *s = *state;
        CLEANUP(process_files_done) struct process_files files = {0};
        pid_t self = getpid();
        const struct process_set set = {.pids = &self, .n = 1};
        enum process_file_use kept = 0, other = 0;

        AUTO_FD int reads = open(s->kept, O_RDONLY | O_CLOEXEC);
        AUTO_FD int writes = open(s->other, O_WRONLY | O_CLOEXEC);
        AUTO_FD int gone = open(s->directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        assert_true(reads >= 0 && writes >= 0);
        (void)gone;
        assert_int_equal(process_files_collect(&set, &files, NULL), 0);
        for (size_t i = 0; i < files.n; i++) {
                assert_null(strstr(files.files[i].path, "(deleted)"));
                if (strcmp(files.files[i].path, s->kept) == 0)
                        kept = files.files[i].use;
                if (strcmp(files.files[i].path, s->other) == 0)
                        other = files.files[i].use;
        }
        assert_int_equal(kept, FILE_READ);
        assert_int_equal(other, FILE_WRITTEN);
}

/* ----------------------------------------------------------------------------------------------------------- copies */

static int note(const char *what, const char *name, void *context, struct error *err)
{
        json_t *list = context;

        (void)err;
        return json_array_append_new(list, json_pack("[s, s]", what, name)) < 0 ? -ENOMEM : 0;
}

static char *text_of(const char *path)
{
        char *text = NULL;

        return fd_read_file(AT_FDCWD, path, 100, &text, NULL) < 0 ? NULL : text;
}

/* Bring two files, one of them over another, and then either keep or take back everything. */
static void bring(const struct scene *s, bool keep)
{
        struct process_file files[] = {{.path = (char *)s->other, .use = FILE_READ, .mode = S_IFREG},
                                       {.path = (char *)s->missing, .use = FILE_READ, .mode = S_IFREG}};
        struct process_private p = {.copies = {&files[0], &files[1]}, .n_copies = 2};
        struct workload w = {.id = (char *)"4711", .init_pid = 4711, .private_data = &p};
        char path[PATH_MAX + 32];
        json_t *made = json_array();

        assert_int_equal(id_new(p.token), 0);
        assert_int_equal(process_copies_announce(&w, note, made, NULL), 0);
        json_t *manifest = json_pack("[[s,i,i,i,i,i],[s,i,i,i,i,i]]", s->other, 0100600, (int)getuid(), (int)getgid(),
                                     1, 0, s->missing, 0100640, (int)getuid(), (int)getgid(), 2, 0);
        AUTO_FREE char *text = json_dumps(manifest, 0);
        json_decref(manifest);
        static const char *const names[] = {"phaul-copies.img", "phaul-copy-0.img", "phaul-copy-1.img"};
        const char *const contents[] = {text, "ours", "new"};
        for (size_t i = 0; i < 3; i++) {
                (void)snprintf(path, sizeof(path), "%s/%s", s->directory, names[i]);
                write_text(path, contents[i]);
        }
        assert_int_equal(process_copies_install(&w, s->directory, NULL), 0);
        AUTO_FREE char *there = text_of(s->other), *fresh = text_of(s->missing);
        assert_string_equal(there, "ours");
        assert_string_equal(fresh, "new");

        for (size_t i = json_array_size(made); i > 0; i--) {
                const char *what = json_string_value(json_array_get(json_array_get(made, i - 1), 0));
                const char *name = json_string_value(json_array_get(json_array_get(made, i - 1), 1));
                for (int twice = 0; twice < 2; twice++) { /* a crash may be in between */
                        if (!keep)
                                assert_int_equal(process_copies_discard(what, name, NULL), 0);
                        else if (strcmp(what, "file") == 0)
                                assert_int_equal(process_copies_keep(name, NULL), 0);
                }
        }
        json_decref(made);
}

/* A hundred files in one new directory are a hundred files and one directory. */
static void a_directory_is_announced_once(void **state)
{
        static const char *const paths[] = {"/nowhere/a/b/one", "/nowhere/a/b/two", "/nowhere/a/c", "/nowhere/abc/one"};
        static const char *const expected[] = {"/nowhere",         "/nowhere/a",   "/nowhere/a/b", "/nowhere/a/b/one",
                                               "/nowhere/a/b/two", "/nowhere/a/c", "/nowhere/abc", "/nowhere/abc/one"};
        struct process_file files[4] = {0};
        struct process_private p = {.n_copies = 4};
        struct workload w = {.private_data = &p};
        json_t *made = json_array();

        (void)state;
        assert_int_equal(id_new(p.token), 0);
        for (size_t i = 0; i < 4; i++) {
                files[i] = (struct process_file){.path = (char *)paths[i], .use = FILE_READ, .mode = S_IFREG};
                p.copies[i] = &files[i];
        }
        assert_int_equal(process_copies_announce(&w, note, made, NULL), 0);
        assert_int_equal(json_array_size(made), sizeof(expected) / sizeof(expected[0]));
        for (size_t i = 0; i < json_array_size(made); i++) {
                const char *name = json_string_value(json_array_get(json_array_get(made, i), 1));
                assert_non_null(name);
                assert_string_equal(strrchr(name, '#') + 1, expected[i]);
        }
        json_decref(made);
}

static void what_was_brought_is_taken_back(void **state)
{
        const struct scene *s = *state;

        bring(s, false);
        AUTO_FREE char *there = text_of(s->other);
        assert_string_equal(there, "theirs");
        assert_int_equal(access(s->missing, F_OK), -1);
        assert_int_equal(entries(s->directory), 5); /* kept, other, three images: not even the new directory */
}

static void what_was_brought_stays(void **state)
{
        const struct scene *s = *state;

        bring(s, true);
        AUTO_FREE char *there = text_of(s->other), *fresh = text_of(s->missing);
        assert_string_equal(there, "ours");
        assert_string_equal(fresh, "new");
        assert_int_equal(entries(s->directory), 6);
}

/* ---------------------------------------------------------------------------------------------------------- pid file
 */

/* It comes from another host: only what is a pid file already is replaced, and only where they may be. */
static void a_pid_file_replaces_nothing_else(void **state)
{
        static const char *const bad[] = {"/etc/cron.d/x", "/usr/lib/x.pid", "/run/systemd/x.pid",
                                          "/proc/x.pid",   "/nowhere/x.pid", "x.pid"};
        const struct scene *s = *state;
        char path[PATH_MAX], link[PATH_MAX];

        (void)snprintf(path, sizeof(path), "%s/x.pid", s->directory);
        (void)snprintf(link, sizeof(link), "%s/link", s->directory);
        for (int i = 1; i <= 2; i++) {
                AUTO_FREE char *text = NULL;
                assert_int_equal(process_pidfile_write(path, 4710 + i, NULL), 0);
                text = text_of(path);
                assert_string_equal(text, i == 1 ? "4711\n" : "4712\n");
        }
        assert_true(process_pidfile_write(s->kept, 4711, NULL) < 0);
        AUTO_FREE char *kept = text_of(s->kept);
        assert_string_equal(kept, "kept");
        assert_int_equal(symlink(s->kept, link), 0);
        assert_true(process_pidfile_check(link, NULL) < 0);
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                if (process_pidfile_check(bad[i], NULL) == 0)
                        fail_msg("%s was allowed", bad[i]);
        assert_int_equal(unlink(link), 0);
        assert_int_equal(symlink("/etc", link), 0);
        (void)snprintf(path, sizeof(path), "%s/link/x.pid", s->directory);
        assert_true(process_pidfile_check(path, NULL) < 0);
        assert_int_equal(unlink(link), 0);
        struct heard heard = {0};
        struct process_findings f = {.report = hear, .context = &heard};
        process_pidfile_verify("/run/x.pid", &f);
        process_pidfile_verify("", &f);
        assert_int_equal(heard.errors, 0);
        process_pidfile_verify(s->kept, &f);
        assert_int_equal(heard.errors, 1);
        assert_non_null(strstr(heard.text, "pidfile: "));
}

static void leftovers_of_others_are_refused(void **state)
{
        (void)state;
        assert_true(process_discard("cgroup", "12#nonsense", NULL) < 0);
        assert_true(process_discard("cgroup", "1#0123456789abcdef0123456789abcdef", NULL) < 0);
        assert_true(process_discard("lock", "x#0123456789abcdef0123456789abcdef", NULL) < 0);
        assert_true(process_discard("file", "/etc/passwd", NULL) < 0);
        assert_true(process_discard("directory", "12#0123456789abcdef0123456789abcdef", NULL) < 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sets_are_short_as_text_and_come_back),
                cmocka_unit_test(sets_of_a_peer_are_not_trusted),
                cmocka_unit_test(only_numbers_are_process_ids),
                cmocka_unit_test(a_tree_is_found_with_its_children),
                cmocka_unit_test(orphans_are_no_descendants),
                cmocka_unit_test_setup_teardown(files_are_compared_and_named, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_directory_comes_empty, set_up, tear_down),
                cmocka_unit_test_setup_teardown(what_is_written_on_shared_storage_is_the_same, set_up, tear_down),
                cmocka_unit_test(files_of_a_peer_are_not_trusted),
                cmocka_unit_test(a_description_is_bounded),
                cmocka_unit_test_setup_teardown(own_files_are_found, set_up, tear_down),
                cmocka_unit_test(a_directory_is_announced_once),
                cmocka_unit_test_setup_teardown(what_was_brought_is_taken_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(what_was_brought_stays, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_pid_file_replaces_nothing_else, set_up, tear_down),
                cmocka_unit_test(leftovers_of_others_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
