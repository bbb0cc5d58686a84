/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A whole phauld in this process, on directories of its own, with sessions that only talk (test-fake-session.c): what
 * the API promises, from routing to the end of a migration, and what survives a restart.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "daemon/api.h"
#include "daemon/descriptors.h"
#include "daemon/migrations.h"
#include "wire/trust.h"

#define WAIT_MS 60000 /* on a busy machine; what is waited for comes or does not */

static int list_nothing(json_t **ret, struct error *err)
{
        (void)err;
        *ret = json_pack("[{s:s, s:s, s:i}, {s:s}]", "id", "shop", "state", "running", "init_pid", 0, "id", "bad/name");
        return *ret ? 0 : -ENOMEM;
}

static int list_broken(json_t **ret, struct error *err)
{
        (void)ret;
        return error_set(err, EIO, "the runtime is out of order");
}

static const struct hauler fake_lxc = {.kind = "lxc", .label = "LXC container", .list = list_nothing};
static const struct hauler fake_podman = {.kind = "podman", .label = "Podman container", .list = list_broken};
static const struct hauler *const fake_haulers[] = {&fake_lxc, &fake_podman, NULL};

struct fixture {
        char root[64];
        struct loop *loop;
        struct places places;
        struct daemon *daemon;
};

struct answer {
        int status;
        char *text; /* all of it */
        json_t *json;
};

static void answer_done(struct answer *a)
{
        free(a->text);
        json_decref(a->json);
}
#define AUTO_ANSWER CLEANUP(answer_done) struct answer

static void begin(struct fixture *f)
{
        struct error err = {0};

        if (daemon_new(f->loop, &f->places, fake_haulers, &f->daemon, &err) < 0)
                fail_msg("%s", err.text);
}

static void pump(struct fixture *f, unsigned ms)
{
        for (uint64_t until = clock_ms() + ms; clock_ms() < until;)
                assert_int_equal(loop_run_once(f->loop, 5), 0);
}

/* A paired host that nobody listens at. */
static void add_beta(struct fixture *f)
{
        char other[96], fingerprint[FINGERPRINT_LENGTH + 1];
        struct peer peer = {.name = "beta", .address = "127.0.0.1", .port = 9};
        struct error err = {0};

        (void)snprintf(other, sizeof(other), "%s/other", f->root);
        assert_int_equal(fd_mkdir_p(other, 0700), 0);
        assert_int_equal(trust_init(other, "beta", &err), 0);
        assert_int_equal(trust_self(other, &peer.certificate, fingerprint, &err), 0);
        assert_int_equal(trust_inspect(peer.certificate, peer.fingerprint, &peer.expires_ms, &err), 0);
        peer.paired_ms = clock_wall_ms();
        if (trust_add(f->places.trust, &peer, &err) < 0)
                fail_msg("%s", err.text);
        peer_done(&peer);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        static const char conf[] = "[host]\nname = alpha\n[network]\nport = 47345\nlisten = 127.0.0.1\n"
                                   "[limits]\nmigrations = 2\n";

        assert_non_null(f);
        (void)strcpy(f->root, "/tmp/phaul-test-XXXXXX");
        assert_non_null(mkdtemp(f->root));
        (void)snprintf(f->places.config_file, PATH_MAX, "%s/phaul.conf", f->root);
        (void)snprintf(f->places.trust, PATH_MAX, "%s/trust", f->root);
        (void)snprintf(f->places.state, PATH_MAX, "%s/state", f->root);
        (void)snprintf(f->places.runtime, PATH_MAX, "%s/run", f->root);
        (void)strcpy(f->places.libexec, FAKE_LIBEXEC);
        (void)strcpy(f->places.data, DOCS);
        assert_int_equal(fd_write_file(AT_FDCWD, f->places.config_file, conf, strlen(conf), 0600), 0);
        assert_int_equal(loop_new(&f->loop), 0);
        begin(f);
        add_beta(f);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        struct error err = {0};

        daemon_free(f->daemon);
        loop_free(f->loop);
        assert_int_equal(fd_remove_tree(AT_FDCWD, f->root, &err), 0);
        free(f);
        return 0;
}

static int dial(struct fixture *f)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s/run/phauld.sock", f->root);
        assert_int_equal(connect(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
        return fd;
}

/* Sends, then reads for as long as `more` says (NULL: to the end); the daemon runs meanwhile. */
static char *talk(struct fixture *f, const char *request, const char *until)
{
        AUTO_FD int fd = dial(f);
        size_t size = 0, room = 1U << 20;
        char *text = calloc(1, room);

        assert_int_equal(fd_write_all(fd, request, strlen(request)), 0);
        for (uint64_t limit = clock_ms() + WAIT_MS; clock_ms() < limit;) {
                assert_int_equal(loop_run_once(f->loop, 5), 0);
                ssize_t n = read(fd, text + size, room - 1 - size);
                if (n == 0)
                        return text;
                if (n > 0)
                        size += (size_t)n;
                if (until && strstr(text, until))
                        return text;
        }
        fail_msg("no answer in time to: %s", request);
        return text;
}

static struct answer ask(struct fixture *f, const char *method, const char *path, const char *headers, const char *body)
{
        struct answer a = {0};
        char request[70000];

        (void)snprintf(request, sizeof(request),
                       "%s %s%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", method,
                       path[0] == '!' ? "" : "/api/v1", path[0] == '!' ? path + 1 : path, headers ? headers : "",
                       body ? strlen(body) : 0, body ? body : "");
        a.text = talk(f, request, NULL);
        assert_int_equal(sscanf(a.text, "HTTP/1.1 %d", &a.status), 1);
        const char *content = strstr(a.text, "\r\n\r\n");
        if (content && (content[4] == '{' || content[4] == '['))
                a.json = json_loads(content + 4, JSON_REJECT_DUPLICATES, NULL);
        return a;
}

static const char *member(const json_t *o, const char *key)
{
        const char *text = json_string_value(json_object_get(o, key));

        return text ? text : "";
}

#define ORDER(name) "{\"kind\": \"lxc\", \"id\": \"" name "\", \"host\": \"beta\"}"

static void order(struct fixture *f, const char *body, char *ret_id)
{
        AUTO_ANSWER a = ask(f, "POST", "/migrations", NULL, body);

        if (a.status != 202)
                fail_msg("%s", a.text);
        (void)snprintf(ret_id, ID_LENGTH + 1, "%s", member(a.json, "id"));
        assert_true(id_is_valid(ret_id));
        assert_non_null(strcasestr(a.text, "Location: /api/v1/migrations/"));
}

static json_t *wait_state(struct fixture *f, const char *id, const char *wanted)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/migrations/%s", id);
        for (uint64_t limit = clock_ms() + WAIT_MS; clock_ms() < limit;) {
                AUTO_ANSWER a = ask(f, "GET", path, NULL, NULL);
                if (a.status == 200 && strcmp(member(a.json, "state"), wanted) == 0)
                        return json_incref(a.json);
                pump(f, 20);
        }
        fail_msg("migration %s is never '%s'", id, wanted);
        return NULL;
}

static int hand_over(const struct fixture *f)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s/run/descriptors.sock", f->root);
        assert_int_equal(connect(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
        return fd;
}

/* One who comes when all places are taken hears so: silence is how a phauld that is not there answers. */
static void who_hands_over_too_much_is_refused(void **state)
{
        static const char lane[] = "{\"do\": \"receive\"}";
        struct fixture *f = *state;
        int fds[DESCRIPTORS_CLIENTS_MAX + 2], n = DESCRIPTORS_CLIENTS_MAX;
        char text[512] = "";

        for (int i = 0; i < n; i++) {
                fds[i] = hand_over(f);
                pump(f, 10);
                assert_int_equal(recv(fds[i], text, sizeof(text), 0), -1);
                assert_int_equal(errno, EAGAIN);
        }
        for (int i = n; i < n + 2; i++) {
                fds[i] = hand_over(f);
                assert_true(fd_send_packet(fds[i], lane, strlen(lane), -1) > 0);
                pump(f, 50);
                ssize_t size = recv(fds[i], text, sizeof(text) - 1, 0);
                assert_true(size > 0);
                text[size] = '\0';
                assert_non_null(strstr(text, "\"refused\""));
                assert_non_null(strstr(text, "too many"));
        }
        for (int i = 0; i < n + 2; i++)
                (void)close(fds[i]);
        pump(f, 50);
        AUTO_FD int again = hand_over(f);
        pump(f, 50);
        assert_int_equal(recv(again, text, sizeof(text), 0), -1);
        assert_int_equal(errno, EAGAIN);
}

static void make_released(const struct fixture *f, const char *name)
{
        char path[200], file[256];

        (void)snprintf(path, sizeof(path), "%s/state/released/%s/rootfs/deep", f->root, name);
        assert_int_equal(fd_mkdir_p(path, 0700), 0);
        (void)snprintf(file, sizeof(file), "%s/file", path);
        assert_int_equal(fd_write_file(AT_FDCWD, file, "x", 1, 0600), 0);
}

static bool is_released(const struct fixture *f, const char *name)
{
        char path[200];

        (void)snprintf(path, sizeof(path), "%s/state/released/%s", f->root, name);
        return access(path, F_OK) == 0;
}

static void wait_gone(struct fixture *f, const char *name)
{
        for (uint64_t limit = clock_ms() + WAIT_MS; is_released(f, name); pump(f, 20))
                if (clock_ms() > limit)
                        fail_msg("%s is never removed", name);
}

/* Released files are out of the way at once and gone in a while, also those that an earlier phauld began with. */
static void released_files_are_forgotten(void **state)
{
        static const char id[] = "00112233445566778899aabbccddeeff", gone[] = ".gone-00112233445566778899aabbccddeeff";
        static const char other[] = ".gone-ffeeddccbbaa99887766554433221100";
        struct fixture *f = *state;

        make_released(f, id);
        make_released(f, ".gone-by-somebody-else");
        {
                AUTO_ANSWER a = ask(f, "DELETE", "/released/00112233445566778899aabbccddeeff", NULL, NULL);
                assert_int_equal(a.status, 204);
        }
        assert_false(is_released(f, id));
        wait_gone(f, gone);

        make_released(f, other);
        daemon_free(TAKE_PTR(f->daemon));
        begin(f);
        wait_gone(f, other);
        assert_true(is_released(f, ".gone-by-somebody-else"));
}

/* Whatever is wrong with a request, the answer is a problem document with our kind, and nothing happens. */
static void wrong_requests_get_problem_documents(void **state)
{
        static const struct {
                const char *method, *path, *body;
                int status;
                const char *kind;
        } wrong[] = {
                {"GET", "/nothing", NULL, 404, "not-found"},
                {"GET", "!/", NULL, 404, "not-found"},
                {"PUT", "/host", NULL, 405, "usage"},
                {"GET", "/migrations/zz", NULL, 400, "usage"},
                {"GET", "/migrations/00112233445566778899aabbccddeeff", NULL, 404, "not-found"},
                {"DELETE", "/migrations/00112233445566778899aabbccddeeff", NULL, 404, "not-found"},
                {"DELETE", "/released/00112233445566778899aabbccddeeff", NULL, 404, "not-found"},
                {"GET", "/migrations?limit=0", NULL, 400, "usage"},
                {"POST", "/migrations", "", 400, "usage"},
                {"POST", "/migrations", "[]", 400, "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"kind\": \"lxc\"}", 400, "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"beta\", \"x\": 1}", 400,
                 "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"../a\", \"host\": \"beta\"}", 400, "usage"},
                {"POST", "/migrations", "{\"kind\": \"vm\", \"id\": \"a\", \"host\": \"beta\"}", 400, "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"gamma\"}", 404, "not-found"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"alpha\"}", 422, "refused"},
                {"POST", "/migrations",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"beta\", \"options\": {\"bandwidth\": 5}}", 400,
                 "usage"},
                {"POST", "/migrations",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"beta\", \"options\": {\"via\": \"$(x)\"}}", 400,
                 "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\"}", 400, "usage"},
                {"POST", "/migrations",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"host\": \"beta\", \"ssh\": {\"host\": \"b\"}}", 400, "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {}}", 400, "usage"},
                {"POST", "/migrations",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {\"host\": \"-oProxyCommand=id\"}}", 400, "usage"},
                {"POST", "/checks", "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {\"host\": \"b\", \"user\": \"-l\"}}",
                 400, "usage"},
                {"POST", "/checks", "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {\"host\": \"b\", \"port\": 0}}", 400,
                 "usage"},
                {"POST", "/checks", "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {\"host\": \"b\", \"agent\": \"x\"}}",
                 400, "usage"},
                {"POST", "/checks",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"ssh\": {\"host\": \"b\"}, \"options\": {\"via\": \"c\"}}", 400,
                 "usage"},
                {"POST", "/migrations", "{\"kind\": \"lxc\", \"id\": \"a\", \"descriptors\": \"3\"}", 400, "usage"},
                {"POST", "/migrations",
                 "{\"kind\": \"lxc\", \"id\": \"a\", \"descriptors\": \"00112233445566778899aabbccddeeff\"}", 404,
                 "not-found"},
                {"POST", "/reconnections", "{\"id\": \"00112233445566778899aabbccddeeff\"}", 400, "usage"},
                {"POST", "/reconnections",
                 "{\"id\": \"00112233445566778899aabbccddeeff\", \"descriptors\": "
                 "\"00112233445566778899aabbccddeeff\"}",
                 404, "not-found"},
                {"POST", "/hosts", "{\"address\": \"-oProxy\", \"code\": \"x\"}", 400, "usage"},
                {"POST", "/hosts", "{\"address\": \"127.0.0.1\", \"code\": \"short\"}", 400, "usage"},
                {"DELETE", "/hosts/gamma", NULL, 404, "not-found"},
                {"GET", "/workloads?kind=VM", NULL, 400, "usage"},
                {"GET", "/workloads?kind=vm", NULL, 400, "usage"},
                {"GET", "/workloads?host=gamma", NULL, 404, "not-found"},
                {"GET", "/events?migration=x", NULL, 400, "usage"},
        };

        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                AUTO_ANSWER a = ask(*state, wrong[i].method, wrong[i].path, NULL, wrong[i].body);
                if (a.status != wrong[i].status || strcmp(member(a.json, "kind"), wrong[i].kind) != 0)
                        fail_msg("%s %s %s: %s", wrong[i].method, wrong[i].path, wrong[i].body ? wrong[i].body : "",
                                 a.text);
                assert_non_null(strcasestr(a.text, "Content-Type: application/problem+json"));
                assert_int_equal(json_integer_value(json_object_get(a.json, "status")), a.status);
                assert_true(member(a.json, "detail")[0] != '\0');
        }
}

static void bodies_have_a_limit(void **state)
{
        static char body[66000];

        memset(body, ' ', sizeof(body) - 1);
        AUTO_ANSWER a = ask(*state, "POST", "/migrations", NULL, body);
        assert_int_equal(a.status, 413);
        assert_string_equal(member(a.json, "kind"), "usage");
}

static void tells_about_itself(void **state)
{
        AUTO_ANSWER host = ask(*state, "GET", "/host", NULL, NULL);
        assert_int_equal(host.status, 200);
        assert_string_equal(member(host.json, "name"), "alpha");

        AUTO_ANSWER metrics = ask(*state, "GET", "/metrics", NULL, NULL);
        assert_int_equal(metrics.status, 200);
        assert_non_null(strstr(metrics.text, "phaul_build_info{version="));
        assert_non_null(strstr(metrics.text, "phaul_migrations_in_progress 0"));
        assert_non_null(strstr(metrics.text, "phaul_migration_downtime_seconds_count 0"));
}

/* A runtime that is out of order is named, and hides nothing else; a name we would refuse is not offered. */
static void inventory_survives_a_broken_runtime(void **state)
{
        AUTO_ANSWER a = ask(*state, "GET", "/workloads", NULL, NULL);
        const json_t *workloads = json_object_get(a.json, "workloads");
        const json_t *warnings = json_object_get(a.json, "warnings");

        assert_int_equal(a.status, 200);
        assert_int_equal(json_array_size(workloads), 1);
        assert_string_equal(member(json_array_get(workloads, 0), "id"), "shop");
        assert_string_equal(member(json_array_get(workloads, 0), "kind"), "lxc");
        assert_int_equal(json_array_size(warnings), 1);
        assert_non_null(strstr(json_string_value(json_array_get(warnings, 0)), "out of order"));
        assert_true(json_array_size(json_object_get(a.json, "processes")) > 0);
}

/* From the order to the history, with all that is told on the way. */
static void a_migration_from_order_to_history(void **state)
{
        struct fixture *f = *state;
        char id[ID_LENGTH + 1], request[256];

        order(f, ORDER("shop"), id);
        json_t *m = wait_state(f, id, "ended");
        assert_string_equal(member(m, "result"), "done");
        assert_string_equal(member(m, "source"), "alpha");
        assert_string_equal(member(m, "target"), "beta");
        assert_int_equal(json_integer_value(json_object_get(json_object_get(m, "report"), "downtime_ms")), 143);
        assert_non_null(strstr(json_string_value(json_array_get(json_object_get(m, "log"), 0)), "the log of shop"));
        json_decref(m);

        (void)snprintf(request, sizeof(request),
                       "GET /api/v1/events?migration=%s HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 0\r\n\r\n", id);
        AUTO_FREE char *events = talk(f, request, "migration.result");
        const char *created = strstr(events, "event: migration.created"),
                   *at = strstr(events, "event: migration.state");
        assert_non_null(created);
        assert_true(at > created);
        assert_true(strstr(events, "event: migration.progress") > at);

        AUTO_ANSWER list = ask(f, "GET", "/migrations", NULL, NULL);
        assert_int_equal(json_array_size(list.json), 1);
        AUTO_ANSWER metrics = ask(f, "GET", "!/metrics", NULL, NULL);
        assert_non_null(strstr(metrics.text, "phaul_migrations_total{kind=\"lxc\",result=\"done\"} 1"));
        assert_non_null(strstr(metrics.text, "phaul_migration_downtime_seconds_bucket{le=\"0.2\"} 1"));
        assert_non_null(strstr(metrics.text, "phaul_transfer_bytes_total{direction=\"sent\"} 268000000"));

        char path[64];
        (void)snprintf(path, sizeof(path), "/migrations/%s", id);
        AUTO_ANSWER again = ask(f, "DELETE", path, NULL, NULL);
        assert_int_equal(again.status, 409);
        assert_string_equal(member(again.json, "kind"), "failed");
        assert_non_null(strstr(member(again.json, "detail"), "too late"));
}

/* The same key never starts it twice, also when it has ended; another request under that key is refused. */
static void an_order_with_a_key_is_given_once(void **state)
{
        static const char key[] = "Idempotency-Key: abc-1\r\n";
        AUTO_ANSWER first = ask(*state, "POST", "/migrations", key, ORDER("shop"));
        AUTO_ANSWER second = ask(*state, "POST", "/migrations", key, ORDER("shop"));

        assert_int_equal(first.status, 202);
        assert_int_equal(second.status, 202);
        assert_string_equal(member(first.json, "id"), member(second.json, "id"));
        json_decref(wait_state(*state, member(first.json, "id"), "ended"));
        pump(*state, 100);
        AUTO_ANSWER third = ask(*state, "POST", "/migrations", key, ORDER("shop"));
        assert_string_equal(member(first.json, "id"), member(third.json, "id"));
        AUTO_ANSWER other = ask(*state, "POST", "/migrations", key, ORDER("slow"));
        assert_int_equal(other.status, 422);
}

static void cancelling(void **state)
{
        struct fixture *f = *state;
        char slow[ID_LENGTH + 1], late[ID_LENGTH + 1], path[64];

        order(f, ORDER("slow"), slow);
        AUTO_ANSWER twice = ask(f, "POST", "/migrations", NULL, ORDER("slow"));
        assert_int_equal(twice.status, 409);
        assert_non_null(strstr(member(twice.json, "detail"), "already migrating"));

        (void)snprintf(path, sizeof(path), "/migrations/%s", slow);
        AUTO_ANSWER cancelled = ask(f, "DELETE", path, NULL, NULL);
        assert_int_equal(cancelled.status, 202);
        json_t *m = wait_state(f, slow, "ended");
        assert_string_equal(member(m, "result"), "cancelled");
        json_decref(m);

        order(f, ORDER("late"), late);
        (void)snprintf(path, sizeof(path), "/migrations/%s", late);
        AUTO_ANSWER refused = ask(f, "DELETE", path, NULL, NULL);
        assert_int_equal(refused.status, 409);
        assert_string_equal(member(refused.json, "kind"), "failed");
        assert_non_null(strstr(member(refused.json, "detail"), "too late"));
        json_decref(wait_state(f, late, "ended"));
}

static void no_more_than_the_limit_at_once(void **state)
{
        char one[ID_LENGTH + 1], two[ID_LENGTH + 1], path[64];

        order(*state, ORDER("slow"), one);
        order(*state, ORDER("late"), two);
        AUTO_ANSWER third = ask(*state, "POST", "/migrations", NULL, ORDER("shop"));
        assert_int_equal(third.status, 409);
        (void)snprintf(path, sizeof(path), "/migrations/%s", one);
        AUTO_ANSWER a = ask(*state, "DELETE", path, NULL, NULL);
        (void)snprintf(path, sizeof(path), "/migrations/%s", two);
        AUTO_ANSWER b = ask(*state, "DELETE", path, NULL, NULL);
        assert_int_equal(a.status, 202);
        assert_int_equal(b.status, 409);
        json_decref(wait_state(*state, one, "ended"));
        json_decref(wait_state(*state, two, "ended"));
}

/* A session that dies is started again and goes on; one that dies each time is left for a person, with a reason. */
static void crashed_sessions(void **state)
{
        char twice[ID_LENGTH + 1], crash[ID_LENGTH + 1];

        order(*state, ORDER("twice"), twice);
        json_t *m = wait_state(*state, twice, "ended");
        assert_string_equal(member(m, "result"), "done");
        json_decref(m);

        order(*state, ORDER("crash"), crash);
        m = wait_state(*state, crash, "attention");
        assert_non_null(strstr(member(m, "reason"), "without a result"));
        assert_string_equal(member(m, "result"), "unknown");
        json_decref(m);
}

/* The other host does not answer: that is said, and is neither an end nor a matter for a person. */
static void a_host_that_does_not_answer_is_waited_for(void **state)
{
        char away[ID_LENGTH + 1], path[64];

        order(*state, ORDER("away"), away);
        json_t *m = wait_state(*state, away, "waiting");
        assert_string_equal(member(m, "reason"), "nobody answers");
        assert_true(json_is_null(json_object_get(m, "result")));
        json_decref(m);
        (void)snprintf(path, sizeof(path), "/migrations/%s", away);
        AUTO_ANSWER a = ask(*state, "DELETE", path, NULL, NULL);
        assert_int_equal(a.status, 409);
        m = wait_state(*state, away, "ended");
        assert_string_equal(member(m, "result"), "done");
        json_decref(m);
}

/* A check leaves no trace: no history, no directory. */
static void a_check_answers_and_is_forgotten(void **state)
{
        struct fixture *f = *state;
        char path[PATH_MAX + 64];
        struct stat st;
        AUTO_ANSWER a = ask(f, "POST", "/checks", NULL, ORDER("shop"));

        assert_int_equal(a.status, 200);
        assert_string_equal(member(a.json, "verdict"), "warning");
        assert_int_equal(json_array_size(json_object_get(a.json, "items")), 1);
        (void)snprintf(path, sizeof(path), "%s/state/migrations/%s", f->root, member(a.json, "id"));
        for (uint64_t end = clock_ms() + WAIT_MS; stat(path, &st) == 0 && clock_ms() < end;)
                pump(f, 50);
        assert_int_equal(stat(path, &st), -1);
        AUTO_ANSWER list = ask(f, "GET", "/migrations", NULL, NULL);
        assert_int_equal(json_array_size(list.json), 0);
}

/* phauld ends and another begins: a living session is found again, and can be cancelled through the new one. */
static void migrations_outlive_phauld(void **state)
{
        struct fixture *f = *state;
        char id[ID_LENGTH + 1], path[64];

        order(f, ORDER("slow"), id);
        json_decref(wait_state(f, id, "working"));
        daemon_free(f->daemon);
        f->daemon = NULL;
        begin(f);
        json_decref(wait_state(f, id, "working"));
        (void)snprintf(path, sizeof(path), "/migrations/%s", id);
        AUTO_ANSWER a = ask(f, "DELETE", path, NULL, NULL);
        assert_int_equal(a.status, 202);
        json_t *m = wait_state(f, id, "ended");
        assert_string_equal(member(m, "result"), "cancelled");
        json_decref(m);
}

static void a_second_phauld_is_refused(void **state)
{
        struct fixture *f = *state;
        struct daemon *second = NULL;
        struct error err = {0};

        assert_true(daemon_new(f->loop, &f->places, fake_haulers, &second, &err) < 0);
        assert_int_equal(err.kind, ERROR_REFUSED);
        assert_non_null(strstr(err.text, "runs already"));
}

/* An offer can be made again and again; the newest code counts. */
static void pairing_offers(void **state)
{
        AUTO_ANSWER one = ask(*state, "POST", "/pairing-offers", NULL, NULL);
        AUTO_ANSWER two = ask(*state, "POST", "/pairing-offers", NULL, NULL);

        assert_int_equal(one.status, 201);
        assert_string_not_equal(member(one.json, "code"), member(two.json, "code"));
        assert_int_equal(strlen(member(two.json, "expires")), strlen("2025-01-01T00:00:00Z"));
}

static void unpairing(void **state)
{
        AUTO_ANSWER gone = ask(*state, "DELETE", "/hosts/beta", NULL, NULL);
        AUTO_ANSWER again = ask(*state, "DELETE", "/hosts/beta", NULL, NULL);
        AUTO_ANSWER hosts = ask(*state, "GET", "/hosts", NULL, NULL);

        assert_int_equal(gone.status, 204);
        assert_int_equal(again.status, 404);
        assert_int_equal(json_array_size(hosts.json), 0);
}

/* Each route has its path and method in the description of the API. */
static void the_description_knows_every_route(void **state)
{
        AUTO_ANSWER a = ask(*state, "GET", "/openapi.yaml", NULL, NULL);

        assert_int_equal(a.status, 200);
        for (const struct api_route *route = api_routes; route->method; route++) {
                char path[64], method[16];
                (void)snprintf(path, sizeof(path), "\n  %s:\n", route->path);
                (void)snprintf(method, sizeof(method), "\n    %s:\n", route->method);
                for (char *c = method; *c; c++)
                        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
                const char *section = strstr(a.text, path);
                if (!section) {
                        fail_msg("%s is not described", route->path);
                        return;
                }
                const char *end = strstr(section + strlen(path) - 1, "\n  /"), *at = strstr(section, method);
                if (!at || (end && at > end))
                        fail_msg("%s %s is not described", route->method, route->path);
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(released_files_are_forgotten),
                TEST(who_hands_over_too_much_is_refused),
                TEST(wrong_requests_get_problem_documents),
                TEST(bodies_have_a_limit),
                TEST(tells_about_itself),
                TEST(inventory_survives_a_broken_runtime),
                TEST(a_migration_from_order_to_history),
                TEST(an_order_with_a_key_is_given_once),
                TEST(cancelling),
                TEST(no_more_than_the_limit_at_once),
                TEST(crashed_sessions),
                TEST(a_host_that_does_not_answer_is_waited_for),
                TEST(a_check_answers_and_is_forgotten),
                TEST(migrations_outlive_phauld),
                TEST(a_second_phauld_is_refused),
                TEST(pairing_offers),
                TEST(unpairing),
                TEST(the_description_knows_every_route),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
