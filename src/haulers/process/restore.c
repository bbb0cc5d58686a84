/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "haulers/held.h"
#include "haulers/process/copy.h"

/*
 * Our child phaul-restore enters the cgroup of the tree and becomes `criu restore`, which runs the hold program, which
 * connects to us. None of them dies with us; the cgroup finds them all.
 */
#define COMPLAINT_MAX 2048
#define RESTORE_LOG "restore.log"

struct hauler_restore {
        struct loop *loop;
        struct workload *workload;
        const struct hauler_restore_handlers *handlers;
        void *context;
        struct held *held;
        struct source *on_child;
        int complaints; /* memory file: standard error of phaul-restore */
        char *images, *home;
};

static bool belongs(pid_t pid, void *context)
{
        const struct hauler_restore *r = context;
        AUTO_FREE char *cgroup = NULL;
        bool v2;

        return pid == r->workload->init_pid && process_cgroup_of(pid, &cgroup, &v2, NULL) == 0 &&
               strcmp(cgroup, r->home) == 0;
}

static void on_held(pid_t pid, pid_t hold_pid, void *context)
{
        struct hauler_restore *r = context;

        (void)hold_pid;
        (void)pid;
        r->handlers->held(r, r->context);
}

static void finished(pid_t pid, int status, void *context)
{
        struct hauler_restore *r = context;
        struct error err = {0};
        char criu[1024] = "", complaint[COMPLAINT_MAX];

        (void)pid;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                AUTO_FD int fd = open(r->images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd >= 0 && criu_log_errors(fd, RESTORE_LOG, criu, sizeof(criu)) < 0)
                        criu[0] = '\0';
                ssize_t n = pread(r->complaints, complaint, sizeof(complaint) - 1, 0);
                complaint[n > 0 ? n : 0] = '\0';
                complaint[strcspn(complaint, "\n")] = '\0';
                (void)error_set(&err, EIO, "criu restore failed%s%s", criu[0] || complaint[0] ? ":\n" : "",
                                criu[0] ? criu : complaint);
        }
        r->handlers->done(r, &err, r->context);
}

static int make_home(struct hauler_restore *r, struct error *err)
{
        const struct process_private *p = r->workload->private_data;
        AUTO_FREE char *all = NULL;
        bool v2;

        int result = process_home(0, NULL, &all, &v2, err);
        if (result == 0)
                result = process_home(r->workload->init_pid, p->token, &r->home, &v2, err);
        if (result < 0)
                return result;
        if (!all || !r->home)
                return error_set(err, ENOMEM, "out of memory");
        /* Somebody who sweeps may take the empty parent away between the two. */
        for (int attempt = 0; attempt < 3; attempt++) {
                (void)mkdir(all, 0755);
                if (mkdir(r->home, 0755) == 0)
                        return 0;
        }
        return error_errno(err, errno, "cannot make the cgroup %s", r->home);
}

static int start(struct hauler_restore *r, const char *socket, const char *record, struct error *err)
{
        const char *directory = secure_getenv("PHAUL_LIBEXECDIR") ?: PHAUL_LIBEXECDIR;
        AUTO_FREE char *program = process_format("%s/phaul-restore", directory);
        AUTO_FREE char *hold = process_format("%s/phaul-hold", directory);
        AUTO_FREE char *socket_variable = process_format("PHAUL_HOLD_SOCKET=%s", socket);
        AUTO_FREE char *record_variable = process_format("PHAUL_RECORD=%s", record);
        const struct migration_options *o = r->workload->options;
        const char *argv[8] = {program, r->home, r->images, hold};
        size_t n = 4;
        const char *env[] = {socket_variable, record_variable, NULL};
        const struct spawn_fd fds[] = {{.fd = r->complaints, .target = 2}};
        const struct spawn_options options = {.argv = argv, .env = env, .fds = fds, .n_fds = 1, .new_session = true};
        pid_t pid;

        if (o->tcp_close)
                argv[n++] = "tcp-close";
        if (o->shell_job)
                argv[n++] = "shell-job";
        if (!program || !hold || !socket_variable || !record_variable)
                return error_set(err, ENOMEM, "out of memory");
        int result = spawn(&options, &pid, NULL, err);
        if (result < 0)
                return result;
        result = loop_add_child(r->loop, pid, finished, r, &r->on_child);
        return result < 0 ? error_errno(err, -result, "cannot watch phaul-restore") : 0;
}

int process_restore(struct loop *loop, struct workload *w, const char *images, const char *hold_socket,
                    const char *record, const struct hauler_restore_handlers *handlers, void *context,
                    struct hauler_restore **ret, struct error *err)
{
        static const struct held_handlers held_handlers = {.belongs = belongs, .held = on_held};
        struct hauler_restore *r = calloc(1, sizeof(*r));

        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        *r = (struct hauler_restore){.loop = loop, .workload = w, .handlers = handlers, .context = context};
        r->complaints = memfd_create("phaul-restore", MFD_CLOEXEC);
        r->images = strdup(images);
        int result = r->images && r->complaints >= 0 ? make_home(r, err) : error_set(err, ENOMEM, "out of memory");
        if (result == 0)
                result = process_copies_install(w, images, err);
        if (result == 0)
                result = held_new(loop, hold_socket, &held_handlers, r, &r->held, err);
        if (result == 0)
                result = start(r, hold_socket, record, err);
        if (result < 0) {
                process_restore_free(r);
                return result;
        }
        *ret = r;
        return 0;
}

int process_restore_verdict(struct hauler_restore *r, bool ok)
{
        return held_answer(r->held, ok);
}

/* Kills nothing: what hangs on the hold obeys the record from here on. */
void process_restore_free(struct hauler_restore *r)
{
        if (!r)
                return;
        held_free(r->held);
        source_free(r->on_child);
        if (r->complaints >= 0)
                (void)close(r->complaints);
        free(r->images);
        free(r->home);
        free(r);
}
