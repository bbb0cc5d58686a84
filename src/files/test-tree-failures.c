/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes wrong between two hosts, and who must not suffer from it. Needs root. */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "files/test-tree-parts.h"

struct side {
        bool over, failed;
        struct error err;
};

static void on_done(struct files_job *job, const struct files_result *result, const struct error *err, void *context)
{
        struct side *s = context;

        (void)job;
        (void)result;
        s->over = true;
        s->failed = err != NULL;
        if (err)
                s->err = *err;
}

static void wait_for(struct loop *loop, const bool *over)
{
        uint64_t limit = clock_ms() + 60000;

        while (!*over && clock_ms() < limit)
                assert_int_equal(loop_run_once(loop, 200), 0);
        assert_true(*over);
}

/* Session leaders among our children: each job is one. */
struct sessions {
        int ids[8];
        size_t n;
};

/*
 * Processes in the given sessions; with `collect`, the sessions of our children are added first. rsync's processes
 * outlive their parents, but not their session.
 */
static unsigned count_in_sessions(struct sessions *s, bool collect)
{
        AUTO_DIR DIR *proc = opendir("/proc");
        unsigned n = 0;

        assert_non_null(proc);
        for (const struct dirent *d; (d = readdir(proc));) {
                AUTO_FREE char *text = NULL;
                char path[300], state;
                int parent, group, session;

                (void)snprintf(path, sizeof(path), "/proc/%s/stat", d->d_name);
                if (d->d_name[0] < '0' || d->d_name[0] > '9' || fd_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0)
                        continue;
                const char *rest = strrchr(text, ')');
                if (!rest || sscanf(rest + 1, " %c %d %d %d", &state, &parent, &group, &session) != 4 || state == 'Z')
                        continue;
                if (collect && parent == getpid() && s->n < 8)
                        s->ids[s->n++] = session;
                for (size_t i = 0; i < s->n; i++)
                        n += s->ids[i] == session;
        }
        return n;
}

static void put_big(const char *dir, const char *name, size_t megabytes)
{
        static char noise[1 << 20];
        AUTO_FD int fd = open(in(dir, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        for (size_t i = 0; i < sizeof(noise); i++)
                noise[i] = (char)(i * 2654435761U >> 11);
        for (size_t i = 0; i < megabytes; i++) {
                noise[i % sizeof(noise)]++;
                assert_int_equal(fd_write_all(fd, noise, sizeof(noise)), 0);
        }
}

/* The receiver names the full disk, and nothing hangs. */
static void test_disk_full(void **state)
{
        struct place p;
        struct ends ends;

        (void)state;
        place_make(&p);
        assert_int_equal(mount("test", p.target, "tmpfs", 0, "size=2m"), 0);
        put_big(p.source, "big", 8);
        const struct files_send_options options = {.path = p.source, .round = FILES_FULL};
        run_round(&p, &options, &ends);
        assert_int_equal(umount2(p.target, MNT_DETACH), 0);
        assert_true(ends.receiver_failed && ends.sender_failed);
        assert_int_equal(ends.receiver.code, ENOSPC);
        assert_non_null(strstr(ends.receiver.text, "No space left on device"));
        place_clear(&p);
}

/* The sender's end disappears in the middle: the receiver says so. */
static void test_sender_dies(void **state)
{
        CLEANUP(loop_free_ptr) struct loop *loop = NULL;
        CLEANUP(files_job_free_ptr) struct files_job *receiver = NULL;
        struct files_job *sender = NULL;
        struct side sending = {0}, receiving = {0};
        struct place p;
        int sockets[2];

        (void)state;
        place_make(&p);
        put_big(p.source, "big", 64);
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        const struct files_send_options options = {.path = p.source, .round = FILES_FULL, .bytes_per_second = 4 << 20};
        assert_int_equal(files_send(loop, &options, sockets[0], on_done, &sending, &sender, NULL), 0);
        assert_int_equal(files_receive(loop, p.target, FILES_FULL, sockets[1], on_done, &receiving, &receiver, NULL),
                         0);
        uint64_t start = clock_ms();
        while (files_job_bytes(sender) < (2U << 20) && clock_ms() - start < 10000)
                assert_int_equal(loop_run_once(loop, 20), 0);
        /* The cap holds: two of 64 MiB take about half a second. */
        assert_in_range(clock_ms() - start, 200, 5000);
        files_job_free(sender);
        wait_for(loop, &receiving.over);
        assert_true(receiving.failed);
        assert_false(sending.over);
        place_clear(&p);
}

/* Freed in the middle, and freed before go: no process is left. */
static void test_freed(void **state)
{
        (void)state;
        for (int i = 0; i < 3; i++) {
                CLEANUP(loop_free_ptr) struct loop *loop = NULL;
                CLEANUP(files_job_free_ptr) struct files_job *sender = NULL;
                CLEANUP(files_job_free_ptr) struct files_job *receiver = NULL;
                struct side sending = {0}, receiving = {0};
                struct place p;
                int sockets[2];

                place_make(&p);
                put_big(p.source, "big", 16);
                assert_int_equal(loop_new(&loop), 0);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
                struct files_send_options options = {.path = p.source, .bytes_per_second = 1 << 20};
                options.round = i ? FILES_FULL : FILES_FINAL;
                assert_int_equal(files_send(loop, &options, sockets[0], on_done, &sending, &sender, NULL), 0);
                assert_int_equal(
                        files_receive(loop, p.target, options.round, sockets[1], on_done, &receiving, &receiver, NULL),
                        0);
                for (uint64_t until = clock_ms() + (i < 2 ? 300 : 0); clock_ms() < until;)
                        assert_int_equal(loop_run_once(loop, 20), 0);
                struct sessions sessions = {0};
                assert_true(count_in_sessions(&sessions, true) >= 2);
                assert_int_equal(sessions.n, 2);
                files_job_free(TAKE_PTR(sender));
                files_job_free(TAKE_PTR(receiver));
                for (uint64_t until = clock_ms() + 3000; count_in_sessions(&sessions, false) > 0 && clock_ms() < until;)
                        usleep(10000);
                assert_int_equal(count_in_sessions(&sessions, false), 0);
                place_clear(&p);
        }
}

/* A raw rsync client, in the place of our sender, that says what it likes to the receiver. */
static void attack(const struct place *p, const char *const *argv)
{
        CLEANUP(loop_free_ptr) struct loop *loop = NULL;
        CLEANUP(files_job_free_ptr) struct files_job *receiver = NULL;
        struct side receiving = {0};
        int sockets[2], pidfd, counters = memfd_create("counters", MFD_CLOEXEC);
        pid_t pid;

        assert_int_equal(ftruncate(counters, 64), 0);
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        const struct spawn_fd fds[] = {{sockets[0], 4}, {counters, 5}};
        const struct spawn_options options = {.argv = argv, .fds = fds, .n_fds = 2};
        assert_int_equal(spawn(&options, &pid, &pidfd, NULL), 0);
        (void)close(sockets[0]);
        (void)close(counters);
        (void)close(pidfd);
        assert_int_equal(files_receive(loop, p->target, FILES_FULL, sockets[1], on_done, &receiving, &receiver, NULL),
                         0);
        wait_for(loop, &receiving.over);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_hostile_sender(void **state)
{
        const char *tools = getenv("PHAUL_LIBEXECDIR");
        char shell[300];
        struct place p;

        (void)state;
        assert_non_null(tools);
        place_make(&p);
        (void)snprintf(shell, sizeof(shell), "%s/phaul-rsh 4 5 -", tools);

        /* Outside of the target, where an attacker wants to write: by a link already there, by relative names. */
        char *outside = strdup(in(p.dir, "outside"));
        assert_non_null(outside);
        assert_int_equal(mkdir(outside, 0755), 0);
        put_text(outside, "precious", "mine");
        assert_int_equal(symlink(outside, in(p.target, "way-out")), 0);
        assert_int_equal(symlink("../outside", in(p.target, "way-out2")), 0);
        assert_int_equal(mkdir(in(p.source, "way-out"), 0755), 0);
        assert_int_equal(mkdir(in(p.source, "way-out2"), 0755), 0);
        put_text(p.source, "way-out/precious", "stolen");
        put_text(p.source, "way-out2/precious", "stolen");
        put_text(p.source, "way-out2/new", "stolen");

        /* Directories as links, deletions, another destination, keeping links to directories. */
        char *source = strdup(in(p.source, ""));
        const char *const plain[] = {"rsync",
                                     "-lHogDtpAXrSK",
                                     "--keep-dirlinks",
                                     "--delete",
                                     "--stats",
                                     "--ignore-errors",
                                     "--numeric-ids",
                                     "-e",
                                     shell,
                                     source,
                                     "peer:/",
                                     NULL};
        attack(&p, plain);
        const char *const relative[] = {
                "rsync", "-lHogDtpAXrRS", "--delete",      "--stats", "--ignore-errors", "--numeric-ids", "-e",
                shell,   source,          "peer:../../..", NULL};
        attack(&p, relative);
        const char *const foreign[] = {
                "rsync", "-a", "--backup-dir=/tree/..", "-b", "--temp-dir=/", "-e", shell, source, "peer:/", NULL};
        attack(&p, foreign);

        AUTO_FREE char *text = NULL;
        assert_int_equal(fd_read_file(AT_FDCWD, in(outside, "precious"), 100, &text, NULL), 0);
        assert_string_equal(text, "mine");
        assert_false(exists(outside, "new"));
        free(outside);
        free(source);
        place_clear(&p);
}

/* Our own half of the exchange in the hands of an attacker: names and paths that lead out are refused. */
static void test_hostile_catalogue(void **state)
{
        static const struct {
                const char *data;
                size_t size;
        } attacks[] = {
#define ATTACK(text) {text, sizeof(text) - 1}
                ATTACK("phaulC1LD\0\x0a../outsideEZ"), ATTACK("phaulC1LD\0\x08/outsideEZ"),
                ATTACK("phaulC1LD\0\x07way-outEZ"),    ATTACK("phaulC1LD\0\0F\x0a\x0b../precious"),
                ATTACK("phaulC1LD\0\0F\x0a\x02.."),    ATTACK("phaulC1LD\xff\xff"),
                ATTACK("phaulC1LF\x08\x01x"),          ATTACK("phaulC1XZ"),
                ATTACK("phaulC1LZtrailing"),           ATTACK("garbage"),
#undef ATTACK
        };
        struct place p;

        (void)state;
        place_make(&p);
        char *outside = strdup(in(p.dir, "outside"));
        assert_int_equal(mkdir(outside, 0755), 0);
        put_text(outside, "precious", "mine");
        assert_int_equal(symlink("../outside", in(p.target, "way-out")), 0);
        for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
                CLEANUP(loop_free_ptr) struct loop *loop = NULL;
                CLEANUP(files_job_free_ptr) struct files_job *receiver = NULL;
                struct side receiving = {0};
                int sockets[2];

                assert_int_equal(loop_new(&loop), 0);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
                assert_int_equal(
                        files_receive(loop, p.target, FILES_FINAL, sockets[1], on_done, &receiving, &receiver, NULL),
                        0);
                assert_int_equal(fd_write_all(sockets[0], attacks[i].data, attacks[i].size), 0);
                assert_int_equal(shutdown(sockets[0], SHUT_WR), 0);
                wait_for(loop, &receiving.over);
                (void)close(sockets[0]);
                assert_true(receiving.failed);
                assert_true(exists(outside, "precious"));
        }
        free(outside);
        place_clear(&p);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_disk_full),
                cmocka_unit_test(test_sender_dies),
                cmocka_unit_test(test_freed),
                cmocka_unit_test(test_hostile_sender),
                cmocka_unit_test(test_hostile_catalogue),
        };

        if (geteuid() != 0)
                return 77;
        (void)signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests_name("files: failures", tests, NULL, NULL);
}
