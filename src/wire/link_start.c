/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/spawn.h"
#include "wire/credentials.h"
#include "wire/link_private.h"

/* Starting a phaul-net and telling it what to do. */

#define TCP_FD 4

int link_make_root(const char *path, struct error *err)
{
        char parent[256];
        const char *slash = strrchr(path, '/');

        if (!slash || slash == path || (size_t)(slash - path) >= sizeof(parent))
                return error_set(err, EINVAL, "not a usable directory: %s", path);
        memcpy(parent, path, (size_t)(slash - path));
        parent[slash - path] = '\0';
        /* A session keeps what it makes to itself, but phaul-net enters this as a user without privilege. */
        mode_t old = umask(0022);
        int r = fd_mkdir_p(parent, 0755);
        if (r == 0 && mkdir(path, 0755) < 0 && errno != EEXIST)
                r = -errno;
        (void)umask(old);
        return r < 0 ? error_errno(err, -r, "cannot make %s", path) : 0;
}

static int fill_config(struct record_config *config, const struct link_environment *env,
                       const struct credentials *credentials, struct error *err)
{
        if (credentials->key.size > sizeof(config->key) || credentials->leaf.size > sizeof(config->leaf))
                return error_set(err, EMSGSIZE, "key or certificate too large");
        config->header.type = RECORD_CONFIG;
        config->abi = RECORD_ABI;
        config->handshake_ms = env && env->handshake_ms ? env->handshake_ms : 10000;
        if (config->silence_ms == 0)
                config->silence_ms = 5000;
        (void)snprintf(config->user, sizeof(config->user), "%s", env && env->user ? env->user : "");
        (void)snprintf(config->root, sizeof(config->root), "%s", env && env->root ? env->root : LINK_DEFAULT_ROOT);
        config->key_size = (uint32_t)credentials->key.size;
        config->leaf_size = (uint32_t)credentials->leaf.size;
        memcpy(config->key, credentials->key.data, credentials->key.size);
        memcpy(config->leaf, credentials->leaf.data, credentials->leaf.size);
        return 0;
}

static int send_config(int fd, const struct record_config *config, const struct credentials *credentials)
{
        struct record_header start = {.type = RECORD_START};
        ssize_t n = fd_send_packet(fd, config, sizeof(*config), -1);

        for (size_t i = 0; n >= 0 && i < credentials->n_anchors; i++) {
                const struct blob *anchor = &credentials->anchors[i];
                struct record_header header = {.type = RECORD_ANCHOR};
                AUTO_FREE uint8_t *record = malloc(sizeof(header) + anchor->size);
                if (!record)
                        return -ENOMEM;
                memcpy(record, &header, sizeof(header));
                memcpy(record + sizeof(header), anchor->data, anchor->size);
                n = fd_send_packet(fd, record, sizeof(header) + anchor->size, -1);
        }
        if (n >= 0)
                n = fd_send_packet(fd, &start, sizeof(start), -1);
        return n < 0 ? (int)n : 0;
}

/* phaul-net forks at once, and what we started ends: the process that stays has nobody to be reaped by but init. */
int link_start_process(const char *program, const char *role, const char *about, const struct spawn_fd *fds,
                       size_t n_fds, struct error *err)
{
        const char *argv[] = {program, role, about, NULL};
        struct spawn_options options = {.argv = argv, .fds = fds, .n_fds = n_fds};
        pid_t pid;
        int status;
        int r = spawn(&options, &pid, NULL, err);

        if (r < 0)
                return r;
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_errno(err, errno, "cannot wait for %s", program);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return error_set(err, EIO, "%s did not start", program);
        return 0;
}

/* Room for everything that may be under way, so that no send of an owner ever has to wait. */
void link_enlarge(int fd)
{
        int size = RECORD_BUFFER / 2;

        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static int start(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                 struct record_config *config, const char *about, int tcp_fd, const struct link_handlers *handlers,
                 void *context, struct link **ret, struct error *err)
{
        const char *program = env && env->program ? env->program : PHAUL_LIBEXECDIR "/phaul-net";
        int pair[2], r;

        r = fill_config(config, env, credentials, err);
        if (r == 0)
                r = link_make_root(config->root, err);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_errno(err, errno, "cannot start %s", program);
        AUTO_FD int ours = pair[0];
        AUTO_FD int theirs = pair[1];
        link_enlarge(ours);
        link_enlarge(theirs);

        const struct spawn_fd fds[] = {{theirs, LINK_RECORD_FD}, {tcp_fd, TCP_FD}};
        r = link_start_process(program, config->accepting ? "accept" : "connect", about, fds, tcp_fd >= 0 ? 2 : 1, err);
        if (r < 0)
                return r;
        (void)close(TAKE_FD(theirs));
        r = fd_nonblock(ours);
        if (r == 0)
                r = send_config(ours, config, credentials);
        if (r == 0)
                r = link_new_on(loop, TAKE_FD(ours), handlers, context, ret);
        return r == 0 ? 0 : error_errno(err, -r, "cannot start %s", program);
}

static int put_hello(struct record_config *config, const struct link_connect_options *options, struct link *like,
                     struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_HELLO);
        AUTO_FREE uint8_t *data = NULL;
        size_t size;

        message_put_u32(m, FIELD_VERSION_MIN, like->version_min);
        message_put_u32(m, FIELD_VERSION_MAX, like->version_max);
        message_put_u32(m, FIELD_PURPOSE, options->purpose);
        message_put_text(m, FIELD_SOFTWARE, "phaul " PHAUL_VERSION);
        message_put_text(m, FIELD_MIGRATION, options->migration);
        if (options->token)
                message_put_bytes(m, FIELD_TOKEN, options->token, 16);
        if (options->stream)
                message_put_u32(m, FIELD_STREAM, options->stream);
        int r = message_encode(m, &data, &size);
        if (r == 0 && size > sizeof(config->hello))
                r = -EMSGSIZE;
        if (r < 0)
                return error_errno(err, -r, "cannot make the greeting");
        memcpy(config->hello, data, size);
        config->hello_size = (uint32_t)size;
        return 0;
}

static int connect_with(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                        const struct link_connect_options *options, int fd, const struct link_handlers *handlers,
                        void *context, struct link **ret, struct error *err)
{
        struct record_config config = {.given = fd >= 0};
        char about[512];
        struct link plan = {
                .purpose = options->purpose,
                .version_min = options->version_min ?: WIRE_VERSION_MIN,
                .version_max = options->version_max ?: WIRE_VERSION_MAX,
        };

        if (!options->address || !options->address[0] || strlen(options->address) >= sizeof(config.address) ||
            (options->port == 0 && fd < 0))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "no usable address and port");
        if (options->purpose < PURPOSE_CONTROL || options->purpose > PURPOSE_PAIR)
                return error_set(err, EINVAL, "no purpose");
        if (!options->expect && options->purpose != PURPOSE_PAIR)
                return error_set(err, EINVAL, "a connection needs to know whom to expect");
        config.silence_ms = options->silence_ms;
        config.bytes_per_second = options->bytes_per_second;
        config.port = options->port;
        (void)snprintf(config.address, sizeof(config.address), "%s", options->address);
        (void)snprintf(config.expect, sizeof(config.expect), "%s", options->expect ?: "");
        (void)snprintf(plan.expect, sizeof(plan.expect), "%s", options->expect ?: "");
        if (fd < 0)
                (void)snprintf(about, sizeof(about), "%s:%u", options->address, options->port);
        else
                (void)snprintf(about, sizeof(about), "%s", options->address);
        int r = put_hello(&config, options, &plan, err);
        struct link *link = NULL;
        if (r == 0)
                r = start(loop, env, credentials, &config, about, fd, handlers, context, &link, err);
        OPENSSL_cleanse(&config, sizeof(config));
        if (r < 0)
                return r;
        link->purpose = plan.purpose;
        link->version_min = plan.version_min;
        link->version_max = plan.version_max;
        memcpy(link->expect, plan.expect, sizeof(link->expect));
        *ret = link;
        return 0;
}

int link_connect(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                 const struct link_connect_options *options, const struct link_handlers *handlers, void *context,
                 struct link **ret, struct error *err)
{
        return connect_with(loop, env, credentials, options, -1, handlers, context, ret, err);
}

int link_connect_on(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                    const struct link_connect_options *options, int given, const struct link_handlers *handlers,
                    void *context, struct link **ret, struct error *err)
{
        AUTO_FD int fd = given;

        return connect_with(loop, env, credentials, options, fd, handlers, context, ret, err);
}

static void describe_peer(int tcp_fd, char *ret, size_t size)
{
        struct sockaddr_storage address;
        socklen_t length = sizeof(address);
        char host[64], port[16];

        if (getpeername(tcp_fd, (struct sockaddr *)&address, &length) == 0 &&
            getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                        NI_NUMERICHOST | NI_NUMERICSERV) == 0)
                (void)snprintf(ret, size, "%s:%s", host, port);
        else
                (void)snprintf(ret, size, "-");
}

int link_accept(struct loop *loop, const struct link_environment *env, const struct credentials *credentials,
                int tcp_fd, bool allow_strangers, const struct link_handlers *handlers, void *context,
                struct link **ret, struct error *err)
{
        AUTO_FD int tcp = tcp_fd;
        struct record_config config = {.accepting = 1, .allow_strangers = allow_strangers};
        struct link *link = NULL;
        char about[128];

        if (env && env->label) {
                config.given = 1;
                (void)snprintf(config.address, sizeof(config.address), "%s", env->label);
                (void)snprintf(about, sizeof(about), "%s", env->label);
        } else {
                describe_peer(tcp, about, sizeof(about));
        }
        config.silence_ms = env ? env->silence_ms : 0;
        int r = start(loop, env, credentials, &config, about, tcp, handlers, context, &link, err);
        OPENSSL_cleanse(&config, sizeof(config));
        if (r < 0)
                return r;
        link->accepting = true;
        *ret = link;
        return 0;
}
