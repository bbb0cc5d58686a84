/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/test-fixture.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

static void on_up(struct link *link, const struct link_peer *peer, uint32_t version, void *context)
{
        struct side *side = context;

        (void)link;
        assert_false(side->up);
        side->up = true;
        side->peer = *peer;
        side->version = version;
}

static void on_message(struct link *link, const struct message *m, void *context)
{
        struct side *side = context;
        uint32_t round = 0;

        (void)link;
        side->n_messages++;
        side->last = m->type;
        if (message_get_u32(m, FIELD_ROUND, &round) == 0) {
                if (round != side->last_round + 1)
                        side->out_of_order++;
                side->last_round = round;
        }
        if (side->on_message)
                side->on_message(side, m);
}

static bool on_bulk(struct link *link, const struct bulk_frame *frame, const void *data, void *context)
{
        struct side *side = context;

        (void)link;
        if (side->on_bulk)
                side->on_bulk(side, frame, data);
        return false;
}

static void on_writable(struct link *link, void *context)
{
        struct side *side = context;

        (void)link;
        if (side->on_writable)
                side->on_writable(side);
}

static void on_down(struct link *link, const struct error *err, void *context)
{
        struct side *side = context;

        (void)link;
        assert_false(side->down);
        side->down = true;
        side->err = *err;
}

const struct link_handlers side_handlers = {
        .up = on_up,
        .message = on_message,
        .bulk = on_bulk,
        .writable = on_writable,
        .down = on_down,
};

void host_make(struct host *host, const char *name)
{
        char dir[] = "/tmp/test-net-XXXXXX";
        struct error err = {0};

        *host = (struct host){0};
        assert_non_null(mkdtemp(dir));
        host->dir = strdup(dir);
        if (trust_init(dir, name, &err) < 0 || trust_self(dir, &host->certificate, host->fingerprint, &err) < 0)
                fail_msg("%s", err.text);
        host_refresh(host);
}

void host_refresh(struct host *host)
{
        struct error err = {0};

        credentials_free(host->credentials);
        if (trust_credentials(host->dir, &host->credentials, &err) < 0)
                fail_msg("%s", err.text);
}

void host_pair(struct host *host, const char *name, const struct host *other)
{
        struct peer p = {.address = "127.0.0.1", .port = 1, .paired_ms = 1, .certificate = other->certificate};
        struct error err = {0};

        (void)snprintf(p.name, sizeof(p.name), "%s", name);
        if (trust_add(host->dir, &p, &err) < 0)
                fail_msg("%s", err.text);
        host_refresh(host);
}

void host_done(struct host *host)
{
        credentials_free(host->credentials);
        (void)fd_remove_tree(AT_FDCWD, host->dir, NULL);
        free(host->dir);
        free(host->certificate);
}

int fixture_setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof(address);
        char root[] = "/tmp/test-net-root-XXXXXX";

        assert_int_equal(loop_new(&f->loop), 0);
        host_make(&f->a, "alpha");
        host_make(&f->b, "beta");
        host_pair(&f->a, "beta", &f->b);
        host_pair(&f->b, "alpha", &f->a);
        f->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&address, size), 0);
        assert_int_equal(listen(f->listen_fd, 16), 0);
        assert_int_equal(getsockname(f->listen_fd, (struct sockaddr *)&address, &size), 0);
        f->port = ntohs(address.sin_port);
        assert_non_null(mkdtemp(root));
        assert_int_equal(chmod(root, 0755), 0);
        memcpy(f->root, root, sizeof(root));
        f->env = (struct link_environment){.program = getenv("PHAUL_NET"), .root = f->root, .handshake_ms = 2000};
        assert_non_null(f->env.program);
        *state = f;
        return 0;
}

int fixture_teardown(void **state)
{
        struct fixture *f = *state;

        fixture_continue(f);
        link_free(f->client.link);
        link_free(f->server.link);
        if (f->listen_fd >= 0)
                (void)close(f->listen_fd);
        host_done(&f->a);
        host_done(&f->b);
        (void)rmdir(f->root);
        loop_free(f->loop);
        free(f);
        return 0;
}

int fixture_connect(struct fixture *f, const struct host *as, const struct link_connect_options *options)
{
        struct link_connect_options o = *options;
        struct error err = {0};

        o.address = o.address ?: "127.0.0.1";
        o.port = o.port ?: f->port;
        int r = link_connect(f->loop, &f->env, as->credentials, &o, &side_handlers, &f->client, &f->client.link, &err);
        if (r < 0)
                fail_msg("%s", err.text);
        return r;
}

void fixture_accept(struct fixture *f, const struct host *as, bool allow_strangers)
{
        struct error err = {0};
        int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);

        assert_true(fd >= 0);
        struct sockaddr_in peer = {0};
        socklen_t size = sizeof(peer);
        assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &size), 0);
        f->client_port = ntohs(peer.sin_port);
        if (link_accept(f->loop, &f->env, as->credentials, fd, allow_strangers, &side_handlers, &f->server,
                        &f->server.link, &err) < 0)
                fail_msg("%s", err.text);
}

void fixture_greet(struct fixture *f, enum purpose purpose)
{
        struct link_connect_options o = {.purpose = purpose, .expect = f->b.fingerprint, .migration = "m"};
        uint64_t end = clock_ms() + 60000;

        fixture_connect(f, &f->a, &o);
        fixture_accept(f, &f->b, false);
        while (f->server.last != MSG_HELLO && !f->server.down && clock_ms() < end)
                assert_int_equal(loop_run_once(f->loop, 100), 0);
        if (f->server.down)
                fail_msg("%s", f->server.err.text);
        assert_int_equal(f->server.last, MSG_HELLO);
}

void fixture_open(struct fixture *f, enum purpose purpose)
{
        fixture_greet(f, purpose);
        assert_int_equal(link_welcome(f->server.link, WIRE_VERSION_MAX), 0);
        fixture_until(f, &f->client.up);
}

void fixture_until(struct fixture *f, const bool *flag)
{
        uint64_t end = clock_ms() + 60000;

        while (!*flag) {
                if (clock_ms() > end)
                        fail_msg("nothing happened; client: %s, server: %s", f->client.err.text, f->server.err.text);
                assert_int_equal(loop_run_once(f->loop, 100), 0);
        }
}

void fixture_run(struct fixture *f, unsigned ms)
{
        for (uint64_t end = clock_ms() + ms; clock_ms() < end;)
                assert_int_equal(loop_run_once(f->loop, 20), 0);
}

void expect_text(const struct error *err, const char *part)
{
        if (!strstr(err->text, part))
                fail_msg("\"%s\" does not say \"%s\"", err->text, part);
}

pid_t find_net(const char *role, const char *about_suffix)
{
        AUTO_DIR DIR *proc = opendir("/proc");
        pid_t found = 0;

        assert_non_null(proc);
        for (const struct dirent *e = readdir(proc); e && !found; e = readdir(proc)) {
                char path[300], *text = NULL;
                size_t size;
                int pid = atoi(e->d_name);
                (void)snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
                if (pid <= 0 || fd_read_file(AT_FDCWD, path, 65536, &text, &size) < 0)
                        continue;
                const char *end = text + size, *arg[3] = {0};
                int n = 0;
                for (const char *p = text; p < end && n < 3; p += strlen(p) + 1)
                        arg[n++] = p;
                if (n == 3 && strstr(arg[0], "phaul-net") && strcmp(arg[1], role) == 0 &&
                    strlen(arg[2]) >= strlen(about_suffix) &&
                    strcmp(arg[2] + strlen(arg[2]) - strlen(about_suffix), about_suffix) == 0)
                        found = pid;
                free(text);
        }
        return found;
}

pid_t client_net(const struct fixture *f)
{
        char about[32];

        (void)snprintf(about, sizeof(about), "127.0.0.1:%u", f->port);
        return find_net("connect", about);
}

pid_t server_net(const struct fixture *f)
{
        char about[32];

        (void)snprintf(about, sizeof(about), "127.0.0.1:%u", f->client_port);
        return find_net("accept", about);
}

void fixture_stop(struct fixture *f, pid_t pid)
{
        assert_true(pid > 0);
        f->stopped = pid;
        assert_int_equal(kill(pid, SIGSTOP), 0);
}

void fixture_continue(struct fixture *f)
{
        if (f->stopped > 0)
                (void)kill(f->stopped, SIGCONT);
        f->stopped = 0;
}

/* A zombie has ended, too: when init reaps it is its own business. */
static bool runs(pid_t pid)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        if (fd_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0)
                return false;
        const char *state = strrchr(text, ')');
        return state && state[1] == ' ' && state[2] != 'Z' && state[2] != 'X';
}

void expect_gone(struct fixture *f, pid_t pid, unsigned ms)
{
        assert_true(pid > 0);
        for (uint64_t end = clock_ms() + ms; runs(pid);) {
                if (clock_ms() > end)
                        fail_msg("process %d did not end within %u ms", pid, ms);
                assert_int_equal(loop_run_once(f->loop, 10), 0);
        }
}
