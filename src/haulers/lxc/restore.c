/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "base/spawn.h"
#include "haulers/held.h"
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
        int output;
        struct error networks; /* why they could not be brought over */
        struct source *on_child;
        struct held *held;
        char *socket_path, *images;
        bool finished;
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
                const char *text = json_text(answer, "error");
                bool said = criu_errors(r, criu, sizeof(criu)) >= 0 && criu[0];
                (void)error_set(&err, EIO, "%s%s%s", text[0] ? text : "phaul-lxc restore died",
                                said ? "\nfrom CRIU's log: " : "", said ? criu : "");
        }
        json_decref(answer);
        r->handlers->done(r, &err, r->context);
}

/* The pid a hold program names must be one of the container's: it is what we will send signals to. */
static bool belongs_to(pid_t pid, const char *name)
{
        char path[64];
        AUTO_FREE char *text = NULL;
        AUTO_FREE char *wanted = format_new("/lxc.payload.%s", name);

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        if (!wanted || fd_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
                return false;
        const char *hit = strstr(text, wanted);
        return hit && strchr("/\n", hit[strlen(wanted)]);
}

/* Out of the namespace that CRIU was given, and that goes away with it. One that is here already was brought before. */
static int bring_networks_over(const struct hauler_restore *r, pid_t hold_pid, struct error *err)
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
                if (result == 0 && strcmp(json_text(network, "type"), "veth") == 0 && !network_interface_exists(name))
                        result = network_bring_over(hold_pid, name, err);
        }
        return result;
}

static bool belongs(pid_t pid, void *context)
{
        const struct hauler_restore *r = context;

        return belongs_to(pid, r->workload->id);
}

static void on_held(pid_t pid, pid_t hold_pid, void *context)
{
        struct hauler_restore *r = context;

        r->workload->init_pid = pid;
        if (bring_networks_over(r, hold_pid, &r->networks) < 0)
                (void)lxc_restore_verdict(r, false);
        else
                r->handlers->held(r, r->context);
}

static int start(struct hauler_restore *r, const char *record, struct error *err)
{
        const struct lxc_private *p = r->workload->private_data;
        AUTO_FREE char *config = format_new("%s/" LXC_CONFIG_UNPUBLISHED, p->base);
        AUTO_FREE char *overlay = format_new("overlay:%s/lower:%s/upper:%s/work", p->base, p->base, p->base);
        char program[256], hold[256], changes[LXC_NETWORKS_MAX][32], name[16];
        const char *argv[10 + LXC_NETWORKS_MAX + 3] = {
                lxc_program("phaul-lxc", program, sizeof(program)),
                "restore",
                r->workload->id,
                p->lxcpath,
                config,
                r->images,
                lxc_program("phaul-hold", hold, sizeof(hold)),
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
                if (strcmp(json_text(network, "type"), "veth") != 0)
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
        static const struct held_handlers held_handlers = {.belongs = belongs, .held = on_held};
        struct hauler_restore *r = calloc(1, sizeof(*r));

        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        *r = (struct hauler_restore){
                .loop = loop, .workload = w, .handlers = handlers, .context = context, .output = -1};
        r->socket_path = strdup(hold_socket);
        r->images = strdup(images);
        int result = r->socket_path && r->images ? held_new(loop, hold_socket, &held_handlers, r, &r->held, err)
                                                 : error_set(err, ENOMEM, "out of memory");
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
        return held_answer(r->held, ok);
}

/* Kills nothing: what hangs on the hold obeys the record from here on. */
void lxc_restore_free(struct hauler_restore *r)
{
        if (!r)
                return;
        held_free(r->held);
        source_free(r->on_child);
        if (r->output >= 0)
                (void)close(r->output);
        free(r->socket_path);
        free(r->images);
        free(r);
}
