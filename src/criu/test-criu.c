/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The RPC with `criu swrk`, told with a criu of our own: this program, started again, plays it. Which part it plays is
 * the name of the log file it is asked for. Real dumps are in tests/criu.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "criu/criu.h"
#include "criu/request.h"
#include "criu/rpc.pb-c.h"

static const char *self;

/* ---- the criu that is played ---- */

static void play_send(int type, bool success, const char *point, const char *text)
{
        CriuRpc__Response response = CRIU_RPC__RESPONSE__INIT;
        CriuRpc__Notification notification = CRIU_RPC__NOTIFICATION__INIT;
        uint8_t data[512];

        response.type = type;
        response.success = success;
        if (point) {
                notification.script = (char *)point;
                response.notification = &notification;
        }
        response.error_text = (char *)text;
        (void)!send(3, data, criu_rpc__response__pack(&response, data), MSG_NOSIGNAL);
}

/* As CRIU does: a yes lets it go on, a no or a client that is gone ends it. */
static void play_notify(const char *point)
{
        uint8_t data[512];

        play_send(CRIU_RPC__TYPE__NOTIFY, true, point, NULL);
        ssize_t n = recv(3, data, sizeof(data), 0);
        CriuRpc__Request *answer = n > 0 ? criu_rpc__request__unpack(NULL, (size_t)n, data) : NULL;
        if (answer && answer->type == CRIU_RPC__TYPE__NOTIFY && answer->notify_success) {
                criu_rpc__request__free_unpacked(answer, NULL);
                return;
        }
        play_send(CRIU_RPC__TYPE__DUMP, false, NULL, "Error (criu/cr-service.c:1): refused");
        _exit(1);
}

/* The log is where the request says: in a directory of the process that made the socket pair. */
static void play_log(const CriuRpc__Options *o, const char *text)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);
        char path[256];

        if (getsockopt(3, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                _exit(90);
        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d/%s", peer.pid, o->work_dir_fd, o->log_file);
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
                _exit(91);
        (void)close(fd);
}

static int play_part(const CriuRpc__Options *o)
{
        char byte;
        const char *part = o->log_file;
        if (strcmp(part, "early") == 0) {
                (void)!write(2, "Error (criu/config.c:1): bad option\n", 36);
                return 1;
        }
        if (strcmp(part, "linker") == 0) {
                (void)!write(2, "criu: cannot open shared object file\n", 37);
                return 127;
        }
        if (strcmp(part, "confused") == 0) {
                (void)!send(3, "\xff\xff\xff", 3, 0);
                return recv(3, &byte, 1, 0) == 0 ? 5 : 93; /* ends when the client hangs up */
        }
        play_notify("pre-dump");
        if (strcmp(part, "silent") == 0)
                return 7;
        if (strcmp(part, "fails") == 0) {
                play_log(o, "(00.001000) Warn  (a.c:1): nothing\n(00.002000) Error (b.c:2): it broke\n");
                play_send(CRIU_RPC__TYPE__DUMP, false, NULL, "Error (b.c:2): it broke");
                return 1;
        }
        play_notify("post-dump");
        play_send(CRIU_RPC__TYPE__DUMP, true, NULL, NULL);
        return 0;
}

static int play_criu(void)
{
        static uint8_t data[CRIU_PACKET_MAX];
        ssize_t n = recv(3, data, sizeof(data), 0);
        CriuRpc__Request *request = n > 0 ? criu_rpc__request__unpack(NULL, (size_t)n, data) : NULL;

        if (!request || request->type != CRIU_RPC__TYPE__DUMP || !request->options)
                return 92;
        int status = play_part(request->options);
        criu_rpc__request__free_unpacked(request, NULL);
        return status;
}

/* ---- the tests ---- */

struct story {
        struct loop *loop;
        struct criu *criu;
        char directory[32];
        int directory_fd;
        char points[256];
        const char *refuse, *kill_at, *free_at, *cancel_at;
        bool over;
        struct error err;
};

static void on_notify(struct criu *criu, const char *point, void *context)
{
        struct story *s = context;
        size_t used = strlen(s->points);

        (void)snprintf(s->points + used, sizeof(s->points) - used, "%s ", point);
        if (s->kill_at && strcmp(s->kill_at, point) == 0) {
                assert_return_code(kill(criu_pid(criu), SIGKILL), errno);
                return;
        }
        if (s->cancel_at && strcmp(s->cancel_at, point) == 0) {
                criu_cancel(criu);
                assert_int_equal(criu_proceed(criu, true), -ENOTCONN);
                return;
        }
        if (s->free_at && strcmp(s->free_at, point) == 0) {
                criu_free(criu);
                s->criu = NULL;
                s->over = true;
                return;
        }
        assert_int_equal(criu_proceed(criu, !(s->refuse && strcmp(s->refuse, point) == 0)), 0);
        assert_int_equal(criu_proceed(criu, true), -EALREADY);
        if (strcmp(point, "post-dump") == 0 && !s->refuse)
                criu_cancel(criu); /* too late: what comes is the truth */
}

static void on_done(struct criu *criu, const struct error *err, void *context)
{
        struct story *s = context;

        s->err = *err;
        s->over = true;
        s->criu = NULL;
        criu_free(criu); /* allowed here */
}

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/criu-test-XXXXXX");
        if (!mkdtemp(s->directory) || loop_new(&s->loop) < 0)
                return -1;
        s->directory_fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = s;
        return s->directory_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        struct story *s = *state;

        criu_free(s->criu);
        loop_free(s->loop);
        (void)close(s->directory_fd);
        (void)fd_remove_tree(AT_FDCWD, s->directory, NULL);
        /* Whatever the end, no child is left. */
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        free(s);
        return 0;
}

static void tell(struct story *s, const char *part)
{
        static const struct criu_handlers handlers = {on_notify, on_done};
        const struct criu_dump_options options = {
                .program = self,
                .pid = 1,
                .images_fd = s->directory_fd,
                .work_fd = s->directory_fd,
                .log_file = part,
                .page_server_fd = -1,
                .clean_pages_fd = -1,
                .late_pages_fd = -1,
        };

        assert_int_equal(criu_dump(s->loop, &options, &handlers, s, &s->criu, &s->err), 0);
        while (!s->over)
                assert_int_equal(loop_run_once(s->loop, 10000), 0);
}

static void test_success(void **state)
{
        struct story *s = *state;

        tell(s, "works");
        assert_string_equal(s->points, "pre-dump post-dump ");
        assert_int_equal(s->err.kind, ERROR_NONE);
}

static void test_refusal_at_post_dump(void **state)
{
        struct story *s = *state;

        s->refuse = "post-dump";
        tell(s, "works");
        assert_int_equal(s->err.kind, ERROR_FAILED);
        assert_string_equal(s->err.text, "criu dump failed:\nError (criu/cr-service.c:1): refused");
}

static void test_failure_quotes_the_log(void **state)
{
        struct story *s = *state;

        tell(s, "fails");
        assert_string_equal(s->err.text, "criu dump failed:\nError (b.c:2): it broke");
}

static void test_killed_while_it_waits(void **state)
{
        struct story *s = *state;

        s->kill_at = "post-dump";
        tell(s, "works");
        assert_string_equal(s->err.text, "criu was killed by signal 9 while it waited at post-dump");
}

static void test_exit_without_an_answer(void **state)
{
        struct story *s = *state;

        tell(s, "silent");
        assert_string_equal(s->err.text, "criu ended with status 7 and without an answer");
}

static void test_failure_before_the_log_is_open(void **state)
{
        struct story *s = *state;

        tell(s, "early");
        assert_string_equal(s->points, "");
        assert_string_equal(s->err.text,
                            "criu ended with status 1 and without an answer:\nError (criu/config.c:1): bad option");
}

static void test_last_words_that_are_no_error_lines(void **state)
{
        struct story *s = *state;

        tell(s, "linker");
        assert_string_equal(s->err.text,
                            "criu ended with status 127 and without an answer:\ncriu: cannot open shared object file");
}

static void test_nonsense_hangs_up(void **state)
{
        struct story *s = *state;

        tell(s, "confused");
        assert_string_equal(s->err.text, "criu's RPC was not understood");
        assert_int_equal(s->err.code, EBADMSG);
}

/* CRIU finds nobody to talk to and ends by itself; its exit status is not that of a killed process. */
static void test_cancelling(void **state)
{
        struct story *s = *state;

        s->cancel_at = "post-dump";
        tell(s, "works");
        assert_int_equal(s->err.kind, ERROR_CANCELLED);
        assert_string_equal(s->err.text, "criu was cancelled");
}

static void test_free_from_within_a_notification(void **state)
{
        struct story *s = *state;

        s->free_at = "pre-dump";
        tell(s, "works");
        assert_int_equal(s->err.kind, ERROR_NONE);
}

static void test_no_criu_is_said_at_once(void **state)
{
        struct story *s = *state;
        static const struct criu_handlers handlers = {on_notify, on_done};
        const struct criu_dump_options options = {.program = "/nonexistent/criu",
                                                  .images_fd = s->directory_fd,
                                                  .work_fd = s->directory_fd,
                                                  .log_file = "x",
                                                  .page_server_fd = -1,
                                                  .clean_pages_fd = -1,
                                                  .late_pages_fd = -1};

        assert_int_equal(criu_dump(s->loop, &options, &handlers, s, &s->criu, &s->err), -ENOENT);
        assert_null(s->criu);
}

/* The numbers on the wire are CRIU's; they are written out here so that a change of rpc.proto is noticed. */
static void test_request_on_the_wire(void **state)
{
        const struct criu_cgroup_root roots[] = {{NULL, "/lxc.payload.web"}, {"freezer", "/f"}};
        const struct criu_external_mount mounts[] = {{"auto", "x"}};
        const char *const external[] = {"net[1]:eth0", NULL};
        const struct criu_dump_options o = {.pid = 77,
                                            .log_file = "dump.log",
                                            .cgroup_roots = roots,
                                            .n_cgroup_roots = 2,
                                            .mounts = mounts,
                                            .n_mounts = 1,
                                            .external = external,
                                            .tcp_established = true,
                                            .manage_cgroups_full = true,
                                            .skip_network_lock = true};
        static const uint8_t expected[] =
                {
                        0x08, 1,                                                             /* type DUMP */
                        0x12, 96,                                                            /* opts */
                        0x08, 10,                                                            /* images_dir_fd */
                        0x10, 77,                                                            /* pid */
                        0x28, 1,                                                             /* tcp_established */
                        0x48, 3,                                                             /* log_level */
                        0x52, 8,    'd',  'u',  'm', 'p',  '.', 'l',  'o',  'g',             /* log_file */
                        0x5a, 2,    0x20, 4,                                                 /* ps.fd */
                        0x60, 1,                                                             /* notify_scripts */
                        0x88, 0x01, 11,                                                      /* work_dir_fd */
                        0xba, 0x01, 9,    0x0a, 4,   'a',  'u', 't',  'o',  0x12, 1,    'x', /* ext_mnt */
                        0xca, 0x01, 18,   0x12, 16,  '/',  'l', 'x',  'c',  '.',  'p',  'a', 'y', 'l',
                        'o',  'a',  'd',  '.',  'w', 'e',  'b', 0xca, 0x01, 13,   0x0a, 7,   'f', 'r',
                        'e',  'e',  'z',  'e',  'r', 0x12, 2,   '/',  'f', /* cg_root */
                        0x90, 0x02, 4,                                     /* manage_cgroups_mode FULL */
                        0xaa, 0x02, 11,   'n',  'e', 't',  '[', '1',  ']',  ':',  'e',  't', 'h', '0', /* external */
                        0x80, 0x04, 3, /* network_lock SKIP */
                };
        AUTO_FREE uint8_t *data = NULL;
        size_t size;

        (void)state;
        assert_int_equal(criu_request_dump(&o, 10, 11, 4, &data, &size), 0);
        assert_int_equal(size, sizeof(expected));
        assert_memory_equal(data, expected, size);

        uint8_t answer[16];
        static const uint8_t yes[] = {0x08, 6, 0x18, 1};
        assert_int_equal(criu_request_proceed(true, answer), sizeof(yes));
        assert_memory_equal(answer, yes, sizeof(yes));
}

/* In namespaces where it does not see us, CRIU is told the descriptor that it has itself. */
static void test_request_for_a_criu_within(void **state)
{
        const struct criu_dump_options o = {.pid = 77, .within = 4711, .log_file = "dump.log"};
        AUTO_FREE uint8_t *data = NULL;
        size_t size;

        (void)state;
        assert_int_equal(criu_request_dump(&o, 5, 11, -1, &data, &size), 0);
        CriuRpc__Request *request = criu_rpc__request__unpack(NULL, size, data);
        assert_non_null(request);
        assert_int_equal(request->options->images_dir_fd, -1);
        assert_string_equal(request->options->images_dir, "/proc/self/fd/5");
        assert_false(request->options->has_work_dir_fd);
        criu_rpc__request__free_unpacked(request, NULL);
        /* images_dir is CRIU's number 68. */
        static const uint8_t field[] = {0xa2, 0x04, 15, '/', 'p', 'r', 'o', 'c'};
        assert_non_null(memmem(data, size, field, sizeof(field)));
}

static void test_too_large_a_request_is_not_sent(void **state)
{
        char *path = malloc(CRIU_PACKET_MAX + 1);
        struct criu_dump_options o = {.log_file = path};
        uint8_t *data = NULL;
        size_t size;

        (void)state;
        assert_non_null(path);
        memset(path, 'x', CRIU_PACKET_MAX);
        path[CRIU_PACKET_MAX] = '\0';
        assert_int_equal(criu_request_dump(&o, 10, 11, -1, &data, &size), -EMSGSIZE);
        free(path);
}

static void test_log_lines(void **state)
{
        struct story *s = *state;
        char text[2048], small[64];
        static const char log[] = "(00.000000) Version: 4.2 (gitid 0)\n"
                                  "(00.000001) Error (a.c:1): first\n"
                                  "(00.000001) Warn  (a.c:1): quoting Error (never)\n"
                                  "(00.000002) pie: 12: Error (p.c:9): in the parasite\n"
                                  "Error (b.c:2): a name with \x1b[31m and \xff\n"
                                  "(123.00000) Error (b.c:3): twice\n"
                                  "(123.00001) Error (b.c:3): twice\n"
                                  "(00.9) Error (c.c:1): no newline at the end";

        assert_int_equal(fd_write_file(s->directory_fd, "log", log, sizeof(log) - 1, 0600), 0);
        assert_int_equal(criu_log_errors(s->directory_fd, "log", text, sizeof(text)), 5);
        assert_string_equal(text, "Error (a.c:1): first\n"
                                  "pie: 12: Error (p.c:9): in the parasite\n"
                                  "Error (b.c:2): a name with ?[31m and ?\n"
                                  "Error (b.c:3): twice\n"
                                  "Error (c.c:1): no newline at the end");
        /* A small buffer gets whole lines, as many as fit. */
        assert_int_equal(criu_log_errors(s->directory_fd, "log", small, sizeof(small)), 2);
        assert_string_equal(small, "Error (a.c:1): first\npie: 12: Error (p.c:9): in the parasite");
        assert_int_equal(criu_log_errors(s->directory_fd, "none", text, sizeof(text)), -ENOENT);
        assert_string_equal(text, "");
}

static void test_long_logs_keep_the_end(void **state)
{
        struct story *s = *state;
        char text[8192], *log = malloc(100 * 2100);
        size_t used = 0;

        assert_non_null(log);
        for (int i = 0; i < 100; i++)
                used += (size_t)snprintf(log + used, 2100, "(00.1) Error (x.c:%d): %02000d\n", i, i);
        assert_int_equal(fd_write_file(s->directory_fd, "log", log, used, 0600), 0);
        assert_int_equal(criu_log_errors(s->directory_fd, "log", text, sizeof(text)), 8);
        assert_memory_equal(text, "Error (x.c:92): 0000", 20);
        assert_true(strlen(text) < 8 * 250);
        free(log);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_success, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refusal_at_post_dump, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failure_quotes_the_log, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_while_it_waits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_exit_without_an_answer, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failure_before_the_log_is_open, setup, teardown),
                cmocka_unit_test_setup_teardown(test_last_words_that_are_no_error_lines, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nonsense_hangs_up, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancelling, setup, teardown),
                cmocka_unit_test_setup_teardown(test_free_from_within_a_notification, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_criu_is_said_at_once, setup, teardown),
                cmocka_unit_test(test_request_on_the_wire),
                cmocka_unit_test(test_request_for_a_criu_within),
                cmocka_unit_test(test_too_large_a_request_is_not_sent),
                cmocka_unit_test_setup_teardown(test_log_lines, setup, teardown),
                cmocka_unit_test_setup_teardown(test_long_logs_keep_the_end, setup, teardown),
        };

        if (argc == 4 && strcmp(argv[2], "swrk") == 0)
                return play_criu();
        self = "/proc/self/exe";
        return cmocka_run_group_tests(tests, NULL, NULL);
}
