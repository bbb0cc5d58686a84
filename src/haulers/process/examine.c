/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"
#include "haulers/process/look.h"
#include "haulers/process/orphans.h"
#include "haulers/process/root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"

static void look_done(struct look *l)
{
        process_set_done(&l->pids);
        process_set_done(&l->tids);
        process_set_done(&l->groups);
        process_set_done(&l->sessions);
        free(l->cgroup);
}

/* ---------------------------------------------------------------------------------------------------------- refusals
 */

/* Whether `pid` is this process or one of those it descends from. */
static bool is_ancestor(pid_t pid)
{
        struct process_task task;
        pid_t at = getpid();

        for (int depth = 0; at > 1 && depth < 1000; depth++) {
                if (at == pid)
                        return true;
                if (process_task_read(at, &task) < 0)
                        return false;
                at = task.parent;
        }
        return false;
}

/* The kind and name to be used instead, by the cgroup's name: "lxc/web", "podman/0123…". */
static void container_of(const char *cgroup, char *ret, size_t size)
{
        static const struct {
                const char *mark, *kind;
        } kinds[] = {
                {"/lxc.payload.", "lxc/"}, {"/libpod-", "podman/"}, {"/docker-", "docker/"}, {"/docker/", "docker/"}};

        (void)snprintf(ret, size, "its container");
        for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
                const char *at = strstr(cgroup, kinds[i].mark);
                if (!at)
                        continue;
                at += strlen(kinds[i].mark);
                size_t n = strcspn(at, "/.");
                (void)snprintf(ret, size, "%s%.*s", kinds[i].kind, (int)(n > 64 ? 64 : n), at);
                return;
        }
}

static int refuse_root(const char *id, struct look *l, struct error *err)
{
        pid_t pid = process_id(id);

        if (pid == 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%.64s' is not a process id", id);
        int r = process_task_read(pid, &l->root);
        if (r < 0 || l->root.state == 'Z' || l->root.state == 'X')
                return error_set_kind(err, ERROR_NOT_FOUND, ESRCH, "there is no process %d", (int)pid);
        if (pid == 1)
                return error_set_kind(err, ERROR_REFUSED, EPERM, "process 1 is the host itself");
        if (l->root.kernel)
                return error_set_kind(err, ERROR_REFUSED, EPERM, "process %d is a kernel thread", (int)pid);
        if (is_ancestor(pid))
                return error_set_kind(err, ERROR_REFUSED, EPERM,
                                      "process %d is phaul itself, or phaul is part of its tree", (int)pid);
        r = process_cgroup_of(pid, &l->cgroup, &l->v2, err);
        if (r < 0)
                return r;
        if (process_look_apart(l) < 0) {
                char container[96];
                container_of(l->cgroup, container, sizeof(container));
                return error_set_kind(err, ERROR_REFUSED, EPERM, "process %d runs in a container: migrate %s", (int)pid,
                                      container);
        }
        return 0;
}

static int examine_cgroups(struct look *l, struct error *err)
{
        for (size_t i = 0; i < l->pids.n; i++) {
                AUTO_FREE char *other = NULL;
                bool v2;

                if (process_cgroup_of(l->pids.pids[i], &other, &v2, NULL) < 0 || process_task_exits(l->pids.pids[i]))
                        continue;
                if (strcmp(other, l->cgroup) != 0)
                        process_say(&l->findings, "cgroup", GRADE_ERROR,
                                    "process %d is in another cgroup (%s) than process %d (%s): a freezer holds one",
                                    (int)l->pids.pids[i], other, (int)l->root.pid, l->cgroup);
        }
        if (process_cgroup_frozen(l->cgroup, l->v2))
                return error_set_kind(err, ERROR_REFUSED, EBUSY, "process %d is in a frozen cgroup, %s",
                                      (int)l->root.pid, l->cgroup);
        if (l->findings.errors == 0)
                process_say(&l->findings, "cgroup", GRADE_OK, "it can be frozen below %s", l->cgroup);
        return 0;
}

/*
 * CRIU restores a session by its leader. With shell_job all that hang on a session outside get the one of the new
 * terminal; without it a leader must be in the tree.
 */
static int examine_sessions(const struct workload *w, struct look *l, struct error *err)
{
        AUTO_FREE pid_t *groups = calloc(l->pids.n, sizeof(*groups));
        AUTO_FREE pid_t *sessions = calloc(l->pids.n, sizeof(*sessions));
        size_t n = 0, outside = 0;

        if (!groups || !sessions)
                return error_set(err, ENOMEM, "out of memory");
        for (size_t i = 0; i < l->pids.n; i++) {
                struct process_task task;
                if (process_task_read(l->pids.pids[i], &task) < 0)
                        continue;
                outside += !process_set_has(&l->pids, task.session);
                /* The numbers of a session outside are not carried over. */
                groups[n] = process_set_has(&l->pids, task.group) ? task.group : task.pid;
                sessions[n++] = process_set_has(&l->pids, task.session) ? task.session : task.pid;
        }
        process_set_make(TAKE_PTR(groups), n, &l->groups);
        process_set_make(TAKE_PTR(sessions), n, &l->sessions);
        if (outside && !w->options->shell_job)
                process_say(
                        &l->findings, "session", GRADE_ERROR,
                        "%zu of its %zu processes belong to a session whose leader is not in the tree, as what a shell "
                        "has started does: --shell-job gives them a new one",
                        outside, l->pids.n);
        return 0;
}

/* ------------------------------------------------------------------------------------------------------- description
 */

static uint64_t memory_of(const struct process_set *pids)
{
        const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
        uint64_t pages = 0;

        for (size_t i = 0; i < pids->n; i++) {
                AUTO_FREE char *text = NULL;
                char path[64];
                unsigned long long resident, shared;
                (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pids->pids[i]);
                if (fd_read_file(AT_FDCWD, path, 4096, &text, NULL) == 0 &&
                    sscanf(text, "%*u %llu %llu", &resident, &shared) == 2 && resident >= shared)
                        pages += resident - shared;
        }
        return pages * page;
}

/* In the numbers that the tree itself sees: they are what is restored. */
static int put_set(json_t *object, const char *key, const struct process_set *set, bool apart)
{
        CLEANUP(process_set_done) struct process_set inner = {0};
        AUTO_FREE char *text = NULL;

        int r = apart ? process_set_inner(set, &inner) : 0;
        if (r == 0)
                r = process_set_print(apart ? &inner : set, &text);
        return r < 0 ? r : json_object_set_new(object, key, json_string(text)) < 0 ? -ENOMEM : 0;
}

/* Digests are taken here, where time does not matter yet; sets of pids first, then as many files as fit. */
static int describe_files(struct workload *w, struct look *l, struct error *err)
{
        struct process_private *p = w->private_data;

        /* All that it sees by name in mounts of its own travels with its root directory, or with those mounts. */
        int r = l->own_mounts ? 0 : process_files_collect(&l->pids, &p->files, err);
        if (r < 0)
                return r;
        if (w->options->pid_root[0])
                process_root_take(w->options->pid_root, &p->files);
        process_look_files(l, &p->files);
        for (size_t i = 0; i < p->files.n; i++) {
                struct process_file *file = &p->files.files[i];
                if (S_ISREG(file->mode))
                        (void)process_file_digest(file->path, &file->size, file->digest);
        }
        AUTO_FREE char *text = json_dumps(p->info, JSON_COMPACT);
        if (!text)
                return error_set(err, ENOMEM, "out of memory");
        if (strlen(text) + 4096 > PROCESS_DESCRIPTION_MAX)
                return error_set_kind(err, ERROR_REFUSED, E2BIG, "the tree has too many processes, %zu", l->pids.n);
        return process_files_describe(&p->files, p->info, PROCESS_DESCRIPTION_MAX - strlen(text), &l->findings, err);
}

static int describe(struct workload *w, struct look *l, struct error *err)
{
        struct process_private *p = w->private_data;
        struct process_numbers numbers = {.pid = l->root.pid};

        int r = id_new(p->token);
        if (r == 0 && l->apart)
                r = process_numbers_read(l->root.pid, &numbers);
        if (r < 0)
                return error_errno(err, -r, "cannot describe process %d", (int)l->root.pid);
        p->pid = numbers.pid;
        p->info = json_pack("{s:i, s:i, s:i, s:s, s:i, s:b, s:I, s:s, s:b}", "format", 1, "pid", (int)p->pid,
                            "host_pid", (int)l->root.pid, "token", p->token, "within",
                            l->apart ? (int)l->root.parent : 0, "own_mounts", (int)l->own_mounts, "started",
                            (json_int_t)l->root.started, "cgroup", l->cgroup, "v2", (int)l->v2);
        if (!p->info || process_cpu_describe(l->root.pid, l->cgroup, l->v2, p->info) < 0 ||
            put_set(p->info, "tids", &l->tids, l->apart) < 0 || put_set(p->info, "groups", &l->groups, l->apart) < 0 ||
            put_set(p->info, "sessions", &l->sessions, l->apart) < 0)
                return error_set(err, ENOMEM, "out of memory");
        r = w->options->tcp_close ? 0 : process_connections_describe(&l->pids, p->info, &l->findings, err);
        if (r == 0)
                r = describe_files(w, l, err);
        if (r < 0)
                return r;
        w->addresses = process_addresses(p->info);
        w->description = json_dumps(p->info, JSON_COMPACT);
        w->freezer = format_new("%s/phaul-%d-%llu", l->cgroup, (int)l->root.pid, (unsigned long long)l->root.started);
        return w->description && w->freezer ? 0 : error_set(err, ENOMEM, "out of memory");
}

int process_examine(const char *id, struct workload *w, hauler_report_fn report, void *context, struct error *err)
{
        CLEANUP(look_done) struct look l = {.findings = {.report = report, .context = context}};

        int r = refuse_root(id, &l, err);
        if (r < 0)
                return r;
        w->hauler = &process_hauler;
        w->private_data = calloc(1, sizeof(struct process_private));
        w->id = strdup(id);
        if (!w->private_data || !w->id)
                return error_set(err, ENOMEM, "out of memory");
        w->init_pid = l.root.pid;
        w->freezer_v2 = l.v2;
        r = process_tree(l.root.pid, &l.pids, &l.tids, err);
        if (r < 0)
                return r;
        w->memory_bytes = memory_of(&l.pids);
        process_look_namespaces(&l, w->options->pid_root[0]);
        r = process_root_examine(w, &l, err);
        if (r < 0)
                return r;
        r = examine_cgroups(&l, err);
        if (r == 0)
                r = examine_sessions(w, &l, err);
        if (r < 0)
                return r;
        process_orphans_examine(&l);
        return describe(w, &l, err);
}
