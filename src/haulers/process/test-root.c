/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A root directory of the tree's own: which ones are taken, how one is made on the target and taken back. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "haulers/process/copy.h"
#include "haulers/process/root.h"
#include "haulers/process/test-parts.h"

struct scene {
        char directory[64];
        struct migration_options options;
        struct process_private private_data;
        struct workload workload;
        json_t *made; /* leftovers, as prepare() told them */
        char said[1024];
        unsigned errors;
};

static int set_up(void **state)
{
        struct scene *s = calloc(1, sizeof(*s));

        assert_non_null(s);
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/phaul-root-XXXXXX");
        assert_non_null(mkdtemp(s->directory));
        (void)snprintf(s->options.pid_root, sizeof(s->options.pid_root), "%s/new/jail", s->directory);
        assert_int_equal(id_new(s->private_data.token), 0);
        s->workload = (struct workload){.options = &s->options, .private_data = &s->private_data};
        s->made = json_array();
        *state = s;
        return 0;
}

static int tear_down(void **state)
{
        struct scene *s = *state;

        int r = fd_remove_tree(AT_FDCWD, s->directory, NULL);
        json_decref(s->made);
        workload_done(&s->workload);
        free(s);
        return r;
}

static int note(const char *what, const char *name, void *context, struct error *err)
{
        struct scene *s = context;

        (void)err;
        return json_array_append_new(s->made, json_pack("[s, s]", what, name)) < 0 ? -ENOMEM : 0;
}

static void hear(const char *item, enum grade grade, const char *reason, void *context)
{
        struct scene *s = context;

        assert_string_equal(item, "root");
        s->errors += grade == GRADE_ERROR;
        (void)snprintf(s->said, sizeof(s->said), "%s", reason);
}

/* 0, or what process_root_verify() refuses with; the last finding is in s->said. */
static int verify(struct scene *s)
{
        struct process_findings f = {.report = hear, .context = s};

        workload_done(&s->workload);
        s->workload = (struct workload){.options = &s->options, .private_data = &s->private_data};
        s->errors = 0;
        s->said[0] = '\0';
        return process_root_verify(&s->workload, &f, NULL);
}

static void make(const char *path, mode_t mode)
{
        assert_int_equal(fd_mkdir_p(path, 0755), 0);
        assert_int_equal(chmod(path, mode), 0);
}

static void write_below(const struct scene *s, const char *name)
{
        char path[PATH_MAX];

        (void)snprintf(path, sizeof(path), "%s/%s", s->options.pid_root, name);
        assert_int_equal(fd_write_file(AT_FDCWD, path, "x", 1, 0644), 0);
}

/* From the last to the first, each twice: a crash may be in between. */
static void discard_all(const struct scene *s)
{
        for (size_t i = json_array_size(s->made); i > 0; i--)
                for (int twice = 0; twice < 2; twice++) {
                        const json_t *entry = json_array_get(s->made, i - 1);
                        assert_int_equal(process_discard(json_string_value(json_array_get(entry, 0)),
                                                         json_string_value(json_array_get(entry, 1)), NULL),
                                         0);
                }
}

static void directories_of_the_host_are_refused(void **state)
{
        static const char *const paths[] = {"/",       "/usr", "/usr/lib/x", "/usr/local", "/lib64", "/etc/jail",
                                            "/proc/1", "/var", "/home",      "/tmp",       "/run/x"};
        struct scene *s = *state;

        for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
                (void)snprintf(s->options.pid_root, sizeof(s->options.pid_root), "%s", paths[i]);
                if (verify(s) != -EINVAL)
                        fail_msg("%s was taken", paths[i]);
        }
        (void)snprintf(s->options.pid_root, sizeof(s->options.pid_root), "/usr/local/jail-of-a-test");
        assert_int_equal(verify(s), 0);
        assert_int_equal(s->errors, 0);
}

static void only_a_plain_and_empty_place_will_do(void **state)
{
        struct scene *s = *state;
        char aside[PATH_MAX], new[PATH_MAX];

        (void)snprintf(aside, sizeof(aside), "%s/aside", s->directory);
        (void)snprintf(new, sizeof(new), "%s/new", s->directory);
        assert_int_equal(verify(s), 0);
        assert_int_equal(s->errors, 0);
        assert_string_equal(s->workload.trees[0].target, s->options.pid_root);

        make(s->options.pid_root, 0755);
        assert_int_equal(verify(s), 0);
        assert_int_equal(s->errors, 0);
        write_below(s, "theirs");
        assert_int_equal(verify(s), 0);
        assert_int_equal(s->errors, 1);
        assert_non_null(strstr(s->said, "not empty"));

        /* The same by way of a link, and a place below one that does not exist yet. */
        assert_int_equal(rename(new, aside), 0);
        assert_int_equal(symlink(aside, new), 0);
        assert_int_equal(verify(s), 0);
        assert_non_null(strstr(s->said, "no plain directory"));
        (void)snprintf(s->options.pid_root, sizeof(s->options.pid_root), "%s/new/jail/deeper", s->directory);
        assert_int_equal(verify(s), 0);
        assert_int_equal(s->errors, 1);
        assert_int_equal(process_root_prepare(&s->workload, note, s, NULL) < 0, 1);
}

static void what_was_made_is_taken_back(void **state)
{
        struct scene *s = *state;

        assert_int_equal(process_root_prepare(&s->workload, note, s, NULL), 0);
        write_below(s, "file");
        write_below(s, ".phaul-not-ours");
        discard_all(s);
        assert_int_equal(entries(s->directory), 0);
}

static void an_empty_directory_is_given_back_as_it_was(void **state)
{
        struct scene *s = *state;
        struct stat st;

        make(s->options.pid_root, 01710);
        assert_int_equal(process_root_prepare(&s->workload, note, s, NULL), 0);
        write_below(s, "file");
        assert_int_equal(chmod(s->options.pid_root, 0700), 0);
        discard_all(s);
        assert_int_equal(stat(s->options.pid_root, &st), 0);
        assert_int_equal(st.st_mode & 07777, 01710);
        assert_int_equal(entries(s->options.pid_root), 0);
}

/* We died after it was on the list and before it was marked: what bears the name then is not ours. */
static void what_is_not_marked_is_not_touched(void **state)
{
        struct scene *s = *state;
        AUTO_FREE char *name = format_new("%s##%s", s->private_data.token, s->options.pid_root);

        make(s->options.pid_root, 0755);
        write_below(s, "theirs");
        assert_int_equal(process_root_discard(name, NULL), 0);
        assert_int_equal(entries(s->options.pid_root), 1);
        assert_true(process_root_discard("0123456789abcdef0123456789abcdef##/etc", NULL) < 0);
        assert_true(process_root_discard("0123456789abcdef0123456789abcdef#x#/srv/a", NULL) < 0);
        assert_true(process_root_discard("nonsense##/srv/a", NULL) < 0);
}

static void what_stays_bears_no_mark(void **state)
{
        struct scene *s = *state;
        char parent[PATH_MAX];

        assert_int_equal(process_root_prepare(&s->workload, note, s, NULL), 0);
        write_below(s, "file");
        for (size_t i = 0; i < json_array_size(s->made); i++)
                assert_int_equal(process_keep(json_string_value(json_array_get(json_array_get(s->made, i), 0)),
                                              json_string_value(json_array_get(json_array_get(s->made, i), 1)), NULL),
                                 0);
        (void)snprintf(parent, sizeof(parent), "%s/new", s->directory);
        assert_int_equal(entries(parent), 1);
        assert_int_equal(entries(s->options.pid_root), 1);
}

/* Once moved away, a directory of that name is another tree's, which has come since. */
static void a_release_is_repeatable(void **state)
{
        struct scene *s = *state;
        char released[PATH_MAX], path[PATH_MAX + 16];

        (void)snprintf(released, sizeof(released), "%s/released", s->directory);
        make(s->options.pid_root, 0755);
        write_below(s, "old");
        for (int twice = 0; twice < 2; twice++) {
                assert_int_equal(process_root_release(s->options.pid_root, released, NULL), 0);
                (void)snprintf(path, sizeof(path), "%s/root/old", released);
                assert_int_equal(access(path, F_OK), 0);
                make(s->options.pid_root, 0755);
                write_below(s, "new");
        }
        assert_int_equal(entries(s->options.pid_root), 1);
}

/* A directory of the host that is mounted in it, of the same file system, so that no device number tells. */
static void what_is_mounted_in_it_stays(void **state)
{
        struct scene *s = *state;
        char released[PATH_MAX], theirs[PATH_MAX], file[PATH_MAX + 16], point[PATH_MAX + 16], other[PATH_MAX + 16];

        if (geteuid() != 0)
                skip();
        assert_int_equal(unshare(CLONE_NEWNS), 0);
        assert_int_equal(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        (void)snprintf(released, sizeof(released), "%s/released", s->directory);
        (void)snprintf(theirs, sizeof(theirs), "%s/theirs", s->directory);
        (void)snprintf(file, sizeof(file), "%s/file", theirs);
        make(theirs, 0755);
        assert_int_equal(fd_write_file(AT_FDCWD, file, "x", 1, 0600), 0);
        make(s->options.pid_root, 0755);
        (void)snprintf(point, sizeof(point), "%s/data", s->options.pid_root);
        (void)snprintf(other, sizeof(other), "%s/root/data", released);
        make(point, 0755);
        assert_int_equal(mount(theirs, point, NULL, MS_BIND, NULL), 0);

        assert_int_equal(fd_remove_tree(AT_FDCWD, s->options.pid_root, NULL), -EXDEV);
        assert_int_equal(access(file, F_OK), 0);
        assert_int_equal(process_root_release(s->options.pid_root, released, NULL), 0);
        assert_int_equal(access(other, F_OK), 0);
        assert_int_equal(fd_remove_tree(AT_FDCWD, released, NULL), 0);
        assert_int_equal(access(file, F_OK), 0);
}

static void files_below_it_travel_with_it(void **state)
{
        struct scene *s = *state;
        CLEANUP(process_files_done) struct process_files files = {0};
        char inside[PATH_MAX], beside[PATH_MAX];

        make(s->options.pid_root, 0755);
        write_below(s, "file");
        (void)snprintf(inside, sizeof(inside), "%s/file", s->options.pid_root);
        (void)snprintf(beside, sizeof(beside), "%s-not/file", s->options.pid_root);
        const char *const paths[] = {s->options.pid_root, inside, beside, "/proc/version"};
        files.files = calloc(4, sizeof(*files.files));
        assert_non_null(files.files);
        for (; files.n < 4; files.n++)
                files.files[files.n].path = strdup(paths[files.n]);
        process_root_take(s->options.pid_root, &files);
        assert_int_equal(files.n, 2);
        assert_string_equal(files.files[0].path, beside);
}

/* ---------------------------------------------------------------------------------------------------------- numbers */

static void numbers_are_those_of_the_innermost_namespace(void **state)
{
        CLEANUP(process_set_done) struct process_set inner = {0};
        struct process_numbers numbers;
        pid_t pids[2] = {getpid(), 0};
        int ends[2];
        char c;

        (void)state;
        assert_int_equal(process_numbers_read(getpid(), &numbers), 0);
        assert_true(numbers.pid == getpid() && numbers.session == getsid(0) && numbers.depth == 0);
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid_t outer = fork();
        if (outer == 0) {
                if (unshare(CLONE_NEWPID) < 0)
                        _exit(77);
                pid_t child = fork();
                if (child == 0) {
                        (void)close(ends[1]);
                        (void)!read(ends[0], &c, 1);
                        _exit(0);
                }
                int status;
                (void)close(ends[1]);
                _exit(waitpid(child, &status, 0) == child ? 0 : 1);
        }
        CLEANUP(process_set_done) struct process_set tree = {0};
        int status;
        for (int i = 0; i < 1000 && tree.n < 2 && waitpid(outer, &status, WNOHANG) == 0; i++) {
                (void)usleep(5000);
                process_set_done(&tree);
                assert_int_equal(process_tree(outer, &tree, NULL, NULL), 0);
        }
        if (tree.n == 2) {
                pids[1] = tree.pids[0] == outer ? tree.pids[1] : tree.pids[0];
                assert_int_equal(process_numbers_read(pids[1], &numbers), 0);
                assert_true(numbers.pid == 1 && numbers.depth == 1);
                const struct process_set both = {.pids = pids, .n = 2};
                assert_int_equal(process_set_inner(&both, &inner), 0);
                assert_true(inner.n == 2 && inner.pids[0] == 1 && inner.pids[1] == getpid());
        }
        (void)close(ends[1]);
        if (tree.n != 2) {
                assert_int_equal(WEXITSTATUS(status), 77); /* without the right to */
                skip();
        }
        assert_int_equal(waitpid(outer, &status, 0), outer);
        assert_int_equal(process_numbers_read(pids[1], &numbers), -ESRCH);
}

#define WITH_SCENE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                WITH_SCENE(directories_of_the_host_are_refused),
                WITH_SCENE(only_a_plain_and_empty_place_will_do),
                WITH_SCENE(what_was_made_is_taken_back),
                WITH_SCENE(an_empty_directory_is_given_back_as_it_was),
                WITH_SCENE(what_is_not_marked_is_not_touched),
                WITH_SCENE(what_stays_bears_no_mark),
                WITH_SCENE(a_release_is_repeatable),
                WITH_SCENE(what_is_mounted_in_it_stays),
                WITH_SCENE(files_below_it_travel_with_it),
                cmocka_unit_test(numbers_are_those_of_the_innermost_namespace),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
