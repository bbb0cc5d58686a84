/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "network/network.h"

/*
 * Three processes: phaul-lxc restore (our child), which forks liblxc's monitor, which forks CRIU, which runs the hold
 * program, which connects to us. None of them dies with us.
 */
#define OUTPUT_MAX 65536

struct hauler_restore {
        struct loop *loop;
        struct workload *workload;
        const struct hauler_restore_handlers *handlers;
        void *context;
        int listener, connection, output;
        pid_t hold_pid;        /* of the hold program */
        struct error networks; /* why they could not be brought over */
        struct source *on_listener, *on_connection, *on_child;
        char *socket_path, *images;
        bool announced, finished;
};

static int criu_errors(const struct hauler_restore *r, char *text, size_t size)
{
        AUTO_FD int fd = open(r->images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        text[0] = '\0';
        return fd < 0 ? -errno : criu_log_errors(fd, "restore.log", text, size);
}

static void finished(pid_t pid, int status, void *context)
{
        struct hauler_restore *r = context;
        struct error err = {0};
        char criu[1024];

        (void)pid;
        r->finished = true;
        AUTO_FREE char *output = calloc(1, OUTPUT_MAX + 1);
        ssize_t n = output ? fd_read_full(r->output, output, OUTPUT_MAX) : -ENOMEM;
        json_t *answer = n > 0 ? json_loadb(output, (size_t)n, JSON_REJECT_DUPLICATES, NULL) : NULL;

        if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && answer) {
                /* An image of a frozen container of cgroup v1 says FROZEN, and so it would come up. */
                lxc_cgroup_thaw_container(r->workload->id);
                pid_t init = (pid_t)json_integer_value(json_object_get(answer, "init_pid"));
                if (init > 0)
                        r->workload->init_pid = init;
        } else if (r->networks.kind != ERROR_NONE) {
                err = r->networks;
        } else {
                const char *text = lxc_string(answer, "error");
                bool said = criu_errors(r, criu, sizeof(criu)) >= 0 && criu[0];
                (void)error_set(&err, EIO, "%s%s%s", text[0] ? text : "phaul-lxc restore died",
                                said ? "\nfrom CRIU's log: " : "", said ? criu : "");
        }
        json_decref(answer);
        r->handlers->done(r, &err, r->context);
}

static void drop_connection(struct hauler_restore *r)
{
        source_free(r->on_connection);
        r->on_connection = NULL;
        if (r->connection >= 0)
                (void)close(r->connection);
        r->connection = -1;
}

/* The pid a hold program names must be one of the container's: it is what we will send signals to. */
static bool belongs_to(pid_t pid, const char *name)
{
        char path[64];
        AUTO_FREE char *text = NULL;
        AUTO_FREE char *wanted = lxc_format("/lxc.payload.%s", name);

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        if (!wanted || fd_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
                return false;
        const char *hit = strstr(text, wanted);
        return hit && strchr("/\n", hit[strlen(wanted)]);
}

/* Out of the namespace that CRIU was given, and that goes away with it. One that is here already was brought before. */
static int bring_networks_over(struct hauler_restore *r, struct error *err)
{
        const struct lxc_private *p = r->workload->private_data;
        const json_t *network;
        char name[16];
        size_t i;
        int result = 0;

        if (!lxc_is_idmapped(p->info))
                return 0;
        json_array_foreach(json_object_get(p->info, "networks"), i, network)
        {
                unsigned index = (unsigned)json_integer_value(json_object_get(network, "index"));
                lxc_veth_name(p->token, index, name);
                if (result == 0 && strcmp(lxc_string(network, "type"), "veth") == 0 && !network_interface_exists(name))
                        result = network_bring_over(r->hold_pid, name, err);
        }
        return result;
}

static void on_connection(int fd, uint32_t events, void *context)
{
        struct hauler_restore *r = context;
        char packet[128];
        int passed = -1;

        (void)events;
        ssize_t n = fd_recv_packet(fd, packet, sizeof(packet), &passed);
        if (passed >= 0)
                (void)close(passed);
        if (n == -EAGAIN)
                return;
        json_t *message = n > 0 ? json_loadb(packet, (size_t)n, 0, NULL) : NULL;
        json_int_t pid = json_integer_value(json_object_get(message, "held"));
        json_decref(message);
        if (pid <= 1 || pid > INT32_MAX || !belongs_to((pid_t)pid, r->workload->id)) {
                /* Gone, or nonsense. If CRIU is gone as well, the end comes by way of our child. */
                drop_connection(r);
                return;
        }
        r->workload->init_pid = (pid_t)pid;
        if (!r->announced && bring_networks_over(r, &r->networks) < 0) {
                (void)lxc_restore_verdict(r, false);
        } else if (!r->announced) {
                r->announced = true;
                r->handlers->held(r, r->context);
        }
}

static void on_listener(int fd, uint32_t events, void *context)
{
        struct hauler_restore *r = context;
        struct ucred peer;
        socklen_t size = sizeof(peer);

        (void)events;
        AUTO_FD int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (connection < 0 || getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
                return;
        drop_connection(r);
        if (loop_add_io(r->loop, connection, EPOLLIN, on_connection, r, &r->on_connection) == 0)
                r->connection = TAKE_FD(connection);
        r->hold_pid = peer.pid;
}

static int listen_at(struct hauler_restore *r, struct error *err)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(r->socket_path) >= sizeof(address.sun_path))
                return error_set(err, ENAMETOOLONG, "the path of the hold socket is too long");
        memcpy(address.sun_path, r->socket_path, strlen(r->socket_path) + 1);
        (void)unlink(r->socket_path);
        r->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (r->listener < 0 || bind(r->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(r->listener, 4) < 0)
                return error_errno(err, errno, "cannot listen at %s", r->socket_path);
        int result = loop_add_io(r->loop, r->listener, EPOLLIN, on_listener, r, &r->on_listener);
        return result < 0 ? error_errno(err, -result, "cannot watch the hold socket") : 0;
}

static int start(struct hauler_restore *r, const char *record, struct error *err)
{
        const struct lxc_private *p = r->workload->private_data;
        AUTO_FREE char *config = lxc_format("%s/" LXC_CONFIG_UNPUBLISHED, p->base);
        AUTO_FREE char *overlay = lxc_format("overlay:%s/lower:%s/upper:%s/work", p->base, p->base, p->base);
        char program[256], hold[256], changes[LXC_NETWORKS_MAX][32], name[16];
        const char *argv[10 + LXC_NETWORKS_MAX + 3] = {
                lxc_program("phaul-lxc", program, sizeof(program)),
                "restore",
                r->workload->id,
                p->lxcpath,
                config,
                r->images,
                lxc_program("phaul-lxc-hold", hold, sizeof(hold)),
                r->socket_path,
                record,
        };
        const json_t *network;
        size_t i, n = 9, used = 0;
        int pipe_fds[2];
        pid_t pid;

        if (!config || !overlay)
                return error_set(err, ENOMEM, "out of memory");
        json_array_foreach(json_object_get(p->info, "networks"), i, network)
        {
                unsigned index = (unsigned)json_integer_value(json_object_get(network, "index"));
                if (strcmp(lxc_string(network, "type"), "veth") != 0)
                        continue;
                if (used == LXC_NETWORKS_MAX)
                        return error_set(err, E2BIG, "container '%s' has too many networks", r->workload->id);
                lxc_veth_name(p->token, index, name);
                (void)snprintf(changes[used], sizeof(changes[used]), "veth:%u=%s", index, name);
                argv[n++] = changes[used++];
        }
        if (p->overlay)
                argv[n++] = overlay;
        if (lxc_is_idmapped(p->info) && used)
                argv[n++] = "apart";

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        r->output = pipe_fds[0];
        AUTO_FD int out = pipe_fds[1];
        const struct spawn_fd fds[] = {{.fd = out, .target = 1}};
        const struct spawn_options options = {.argv = argv, .fds = fds, .n_fds = 1, .new_session = true};
        int result = spawn(&options, &pid, NULL, err);
        if (result < 0)
                return result;
        result = loop_add_child(r->loop, pid, finished, r, &r->on_child);
        return result < 0 ? error_errno(err, -result, "cannot watch phaul-lxc") : 0;
}

int lxc_restore(struct loop *loop, struct workload *w, const char *images, const char *hold_socket, const char *record,
                const struct hauler_restore_handlers *handlers, void *context, struct hauler_restore **ret,
                struct error *err)
{
        struct hauler_restore *r = calloc(1, sizeof(*r));

        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        *r = (struct hauler_restore){.loop = loop,
                                     .workload = w,
                                     .handlers = handlers,
                                     .context = context,
                                     .listener = -1,
                                     .connection = -1,
                                     .output = -1};
        r->socket_path = strdup(hold_socket);
        r->images = strdup(images);
        int result = r->socket_path && r->images ? listen_at(r, err) : error_set(err, ENOMEM, "out of memory");
        const struct lxc_private *p = w->private_data;
        if (result == 0)
                result = lxc_idmap_images(p->info, images, err);
        if (result == 0)
                result = start(r, record, err);
        if (result < 0) {
                lxc_restore_free(r);
                return result;
        }
        *ret = r;
        return 0;
}

int lxc_restore_verdict(struct hauler_restore *r, bool ok)
{
        /* Without a connection the hold program finds the answer in the record. */
        if (r->connection < 0)
                return 0;
        ssize_t n = fd_send_packet(r->connection, ok ? "go" : "no", 2, -1);
        return n < 0 ? (int)n : 0;
}

/* Kills nothing: what hangs on the hold obeys the record from here on. */
void lxc_restore_free(struct hauler_restore *r)
{
        if (!r)
                return;
        drop_connection(r);
        source_free(r->on_listener);
        source_free(r->on_child);
        if (r->listener >= 0) {
                (void)close(r->listener);
                (void)unlink(r->socket_path);
        }
        if (r->output >= 0)
                (void)close(r->output);
        free(r->socket_path);
        free(r->images);
        free(r);
}
