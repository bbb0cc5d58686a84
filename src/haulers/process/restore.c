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

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "base/spawn.h"
#include "haulers/held.h"
#include "haulers/process/copy.h"

/*
 * Our child phaul-restore enters the cgroup of the tree and becomes `criu restore`, which runs the hold program, which
 * connects to us. None of them dies with us; the cgroup finds them all.
 */
#define COMPLAINT_MAX 2048
#define RESTORE_LOG "restore.log"
#define ARGUMENTS_MAX 16
#define FIRST_PID 300     /* where the kernel goes on when it has come to the end of its numbers */
#define PIDS_OF_CRIU 1000 /* it has a handful at a time; what it forks while the tree is held counts on */
#define PID_MAX 32768L

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

/* Who has that number in the tree's own pid namespace; 0: nobody. The number itself where it has none. */
static pid_t find_root(const struct hauler_restore *r, pid_t pid)
{
        struct pid_list here = {0};
        pid_t found = 0;

        (void)cgroup_add_tasks(&here, r->home);
        for (size_t i = 0; i < here.n && !found; i++) {
                struct process_numbers numbers;
                if (process_numbers_read(here.pids[i], &numbers) == 0 && numbers.pid == pid &&
                    (numbers.depth > 0) == r->workload->options->new_pid_namespace)
                        found = here.pids[i];
        }
        free(here.pids);
        return found;
}

static bool belongs(pid_t pid, void *context)
{
        struct hauler_restore *r = context;
        const struct process_private *p = r->workload->private_data;
        pid_t root = pid == p->pid ? find_root(r, pid) : 0;

        if (root)
                r->workload->init_pid = root;
        return root != 0;
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

/* Room for CRIU and its children among the numbers that the tree does not have: above them, else the first gap. */
static pid_t first_free(const json_t *info)
{
        CLEANUP(process_set_done) struct process_set tids = {0};
        AUTO_FREE char *text = NULL;
        pid_t at = FIRST_PID;

        if (process_set_parse(json_text(info, "tids"), &tids) < 0 || tids.n == 0)
                return 0;
        long max = fd_read_file(AT_FDCWD, "/proc/sys/kernel/pid_max", 64, &text, NULL) == 0 ? strtol(text, NULL, 10)
                                                                                            : PID_MAX;
        if (tids.pids[tids.n - 1] + PIDS_OF_CRIU < max)
                return tids.pids[tids.n - 1] + 1;
        for (size_t i = 0; i < tids.n && tids.pids[i] < at + PIDS_OF_CRIU; i++)
                if (tids.pids[i] >= at)
                        at = tids.pids[i] + 1;
        return at + PIDS_OF_CRIU < max ? at : 0;
}

static int start(struct hauler_restore *r, const char *socket, const char *record, struct error *err)
{
        const char *directory = secure_getenv("PHAUL_LIBEXECDIR") ?: PHAUL_LIBEXECDIR;
        AUTO_FREE char *program = format_new("%s/phaul-restore", directory);
        AUTO_FREE char *hold = format_new("%s/phaul-hold", directory);
        AUTO_FREE char *socket_variable = format_new("PHAUL_HOLD_SOCKET=%s", socket);
        AUTO_FREE char *record_variable = format_new("PHAUL_RECORD=%s", record);
        const struct migration_options *o = r->workload->options;
        const struct process_private *p = r->workload->private_data;
        const pid_t first = o->new_pid_namespace ? first_free(p->info) : 0;
        AUTO_FREE char *namespace = format_new("pid-namespace=%d", (int)first);
        AUTO_FREE char *root = format_new("root=%s", o->pid_root);
        const char *argv[ARGUMENTS_MAX] = {program, r->home, r->images, hold};
        size_t n = 4;
        const char *env[] = {socket_variable, record_variable, NULL};
        const struct spawn_fd fds[] = {{.fd = r->complaints, .target = 2}};
        const struct spawn_options options = {.argv = argv, .env = env, .fds = fds, .n_fds = 1, .new_session = true};
        pid_t pid;

        if (o->tcp_close)
                argv[n++] = "tcp-close";
        if (o->shell_job)
                argv[n++] = "shell-job";
        if (!program || !hold || !socket_variable || !record_variable || !namespace || !root)
                return error_set(err, ENOMEM, "out of memory");
        if (o->new_pid_namespace && !first)
                return error_set(err, EAGAIN, "the tree has so many pids that CRIU finds none of its own");
        if (o->new_pid_namespace)
                argv[n++] = namespace;
        if (o->pid_root[0] && json_is_true(json_object_get(p->info, "own_mounts")))
                argv[n++] = root;
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
        const struct process_private *p = w->private_data;
        struct hauler_restore *r = calloc(1, sizeof(*r));
        bool v2;

        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        *r = (struct hauler_restore){.loop = loop, .workload = w, .handlers = handlers, .context = context};
        r->complaints = memfd_create("phaul-restore", MFD_CLOEXEC);
        r->images = strdup(images);
        int result = r->images && r->complaints >= 0 ? process_home(p->pid, p->token, &r->home, &v2, err)
                                                     : error_set(err, ENOMEM, "out of memory");
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
