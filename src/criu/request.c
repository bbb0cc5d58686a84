/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "criu/rpc.pb-c.h"

/* Errors, warnings and information. CRIU's level 4 writes a line per memory area, which costs downtime. */
#define LOG_LEVEL_INFORMATION 3
#define LOG_LEVEL_ALL 4

/* A message per element and the array of pointers that protobuf-c wants to them. */
struct lists {
        CriuRpc__ExternalMount *mounts;
        CriuRpc__ExternalMount **mount_ptrs;
        CriuRpc__CgroupRoot *roots;
        CriuRpc__CgroupRoot **root_ptrs;
};

static void lists_done(struct lists *l)
{
        free(l->mounts);
        free(l->mount_ptrs);
        free(l->roots);
        free(l->root_ptrs);
}

static int lists_fill(const struct criu_dump_options *o, CriuRpc__Options *opts, struct lists *l)
{
        if (o->n_mounts) {
                l->mounts = calloc(o->n_mounts, sizeof(*l->mounts));
                l->mount_ptrs = calloc(o->n_mounts, sizeof(CriuRpc__ExternalMount *));
                if (!l->mounts || !l->mount_ptrs)
                        return -ENOMEM;
        }
        if (o->n_cgroup_roots) {
                l->roots = calloc(o->n_cgroup_roots, sizeof(*l->roots));
                l->root_ptrs = calloc(o->n_cgroup_roots, sizeof(CriuRpc__CgroupRoot *));
                if (!l->roots || !l->root_ptrs)
                        return -ENOMEM;
        }
        /* protobuf-c has no const in its messages; packing does not write to them. */
        for (size_t i = 0; i < o->n_mounts; i++) {
                criu_rpc__external_mount__init(&l->mounts[i]);
                l->mounts[i].key = (char *)o->mounts[i].key;
                l->mounts[i].value = (char *)o->mounts[i].value;
                l->mount_ptrs[i] = &l->mounts[i];
        }
        for (size_t i = 0; i < o->n_cgroup_roots; i++) {
                criu_rpc__cgroup_root__init(&l->roots[i]);
                l->roots[i].controllers = (char *)o->cgroup_roots[i].controllers;
                l->roots[i].path = (char *)o->cgroup_roots[i].path;
                l->root_ptrs[i] = &l->roots[i];
        }
        opts->n_external_mount = o->n_mounts;
        opts->external_mount = l->mount_ptrs;
        opts->n_cgroup_root = o->n_cgroup_roots;
        opts->cgroup_root = l->root_ptrs;

        opts->external = (char **)o->external;
        while (o->external && o->external[opts->n_external])
                opts->n_external++;
        opts->enable_fs = (char **)o->enable_fs;
        while (o->enable_fs && o->enable_fs[opts->n_enable_fs])
                opts->n_enable_fs++;
        return 0;
}

/* Only what is asked for is sent, so that an old CRIU never hears of an option it does not know. */
#define SET_FLAG(opts, field, wanted)                                                                                  \
        do {                                                                                                           \
                (opts)->has_##field = (wanted);                                                                        \
                (opts)->field = (wanted);                                                                              \
        } while (0)

static void set_flags(const struct criu_dump_options *o, CriuRpc__Options *opts)
{
        SET_FLAG(opts, tcp_established, o->tcp_established);
        SET_FLAG(opts, tcp_skip_in_flight, o->tcp_skip_in_flight);
        SET_FLAG(opts, file_locks, o->file_locks);
        SET_FLAG(opts, link_remap, o->link_remap);
        SET_FLAG(opts, force_irmap, o->force_irmap);
        SET_FLAG(opts, shell_job, o->shell_job);
        SET_FLAG(opts, external_mounts_auto, o->external_mounts_auto);
        SET_FLAG(opts, external_sharing, o->external_sharing);
        SET_FLAG(opts, external_masters, o->external_masters);
        SET_FLAG(opts, orphan_pts_master, o->orphan_pts_master);
        SET_FLAG(opts, tcp_close, o->tcp_close);
        opts->has_cgroup_mode = o->manage_cgroups_full || o->ignore_cgroups;
        opts->cgroup_mode = o->ignore_cgroups ? CRIU_RPC__CGROUP_MODE__IGNORE : CRIU_RPC__CGROUP_MODE__FULL;
        opts->has_network_lock = o->skip_network_lock;
        opts->network_lock = CRIU_RPC__NETWORK_LOCK__SKIP;
        opts->has_ghost_limit = o->ghost_limit != 0;
        opts->ghost_limit = o->ghost_limit;
        opts->has_timeout = o->timeout_s != 0;
        opts->timeout = o->timeout_s;
}

int criu_request_dump(const struct criu_dump_options *options, int images_fd, int work_fd, int ps_fd, uint8_t **ret,
                      size_t *ret_size)
{
        CriuRpc__Request request = CRIU_RPC__REQUEST__INIT;
        CriuRpc__Options opts = CRIU_RPC__OPTIONS__INIT;
        CriuRpc__PageServer ps = CRIU_RPC__PAGE_SERVER__INIT;
        struct lists lists __attribute__((cleanup(lists_done))) = {};
        char images[32];

        int r = lists_fill(options, &opts, &lists);
        if (r < 0)
                return r;
        set_flags(options, &opts);
        if (options->within) {
                (void)snprintf(images, sizeof(images), "/proc/self/fd/%d", images_fd);
                opts.images_dir_fd = -1;
                opts.images_dir = images;
        } else {
                opts.images_dir_fd = images_fd;
                opts.has_work_dir_fd = true;
                opts.work_dir_fd = work_fd;
        }
        opts.log_file = (char *)options->log_file;
        opts.has_log_level = true;
        opts.log_level = options->verbose ? LOG_LEVEL_ALL : LOG_LEVEL_INFORMATION;
        opts.has_pid = true;
        opts.pid = options->pid;
        opts.has_notify_scripts = true;
        opts.notify_scripts = true;
        if (ps_fd >= 0) {
                ps.has_fd = true;
                ps.fd = ps_fd;
                opts.page_server = &ps;
        }
        request.type = CRIU_RPC__TYPE__DUMP;
        request.options = &opts;

        size_t size = criu_rpc__request__get_packed_size(&request);
        if (size > CRIU_PACKET_MAX)
                return -EMSGSIZE;
        uint8_t *data = malloc(size);
        if (!data)
                return -ENOMEM;
        *ret_size = criu_rpc__request__pack(&request, data);
        *ret = data;
        return 0;
}

size_t criu_request_proceed(bool ok, uint8_t ret[static 16])
{
        CriuRpc__Request request = CRIU_RPC__REQUEST__INIT;

        request.type = CRIU_RPC__TYPE__NOTIFY;
        request.has_notify_success = true;
        request.notify_success = ok;
        return criu_rpc__request__pack(&request, ret);
}

int criu_response_parse(const uint8_t *data, size_t size, struct criu_response *ret)
{
        CriuRpc__Response *response = criu_rpc__response__unpack(NULL, size, data);
        int r = 0;

        if (!response)
                return -EBADMSG;
        *ret = (struct criu_response){.success = response->success};
        if (response->type == CRIU_RPC__TYPE__NOTIFY) {
                ret->type = CRIU_RESPONSE_NOTIFY;
                const char *point = response->notification ? response->notification->script : NULL;
                if (!point || !*point || strlen(point) >= sizeof(ret->point))
                        r = -EBADMSG;
                else
                        memcpy(ret->point, point, strlen(point) + 1);
        } else if (response->type == CRIU_RPC__TYPE__DUMP || response->type == CRIU_RPC__TYPE__EMPTY) {
                /* EMPTY is CRIU's "I did not understand you", never a success. */
                ret->type = CRIU_RESPONSE_END;
                ret->success = response->success && response->type == CRIU_RPC__TYPE__DUMP;
                ret->code = response->has_error_number ? response->error_number : 0;
                if (response->error_text)
                        (void)snprintf(ret->text, sizeof(ret->text), "%s", response->error_text);
        } else {
                r = -EBADMSG;
        }
        criu_rpc__response__free_unpacked(response, NULL);
        return r;
}
