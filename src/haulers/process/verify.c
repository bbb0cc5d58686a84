/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"
#include "haulers/process/root.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/json_text.h"

#define NAMED_MAX 40 /* of one kind of finding, one by one; the others are counted */

/* ------------------------------------------------------------------------------------------------------ description */

static int read_description(const char *text, struct process_private *p, struct error *err)
{
        p->info = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        const char *token = json_text(p->info, "token");
        json_int_t pid = json_integer_value(json_object_get(p->info, "pid"));

        if (json_integer_value(json_object_get(p->info, "format")) != 1 || pid <= 1 || pid > INT_MAX ||
            !id_is_valid(token))
                return error_set_kind(err, ERROR_REFUSED, EINVAL,
                                      "the description of the process tree cannot be understood here");
        p->pid = (pid_t)pid;
        memcpy(p->token, token, ID_LENGTH + 1);
        return 0;
}

static int read_set(const json_t *info, const char *key, struct process_set *ret, struct error *err)
{
        int r = process_set_parse(json_text(info, key), ret);

        return r < 0 ? error_set_kind(err, ERROR_REFUSED, -r, "the description of the process tree has no valid %s",
                                      key)
                     : 0;
}

/* ------------------------------------------------------------------------------------------------------------- pids */

static void name_of(pid_t pid, char *ret, size_t size)
{
        AUTO_FREE char *text = NULL;
        char path[64], quoted[128];

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        if (fd_read_file(AT_FDCWD, path, 256, &text, NULL) < 0) {
                (void)snprintf(ret, size, "a process");
                return;
        }
        text[strcspn(text, "\n")] = '\0';
        (void)snprintf(ret, size, "'%s'", name_quote(text, quoted, sizeof(quoted)));
}

/* /proc/N answers for a thread as well, although it does not list it. */
static void verify_tids(struct process_findings *f, const struct process_set *tids)
{
        unsigned taken = 0;

        for (size_t i = 0; i < tids->n; i++) {
                char path[64], name[160];
                struct stat st;

                (void)snprintf(path, sizeof(path), "/proc/%d", (int)tids->pids[i]);
                if (stat(path, &st) < 0)
                        continue;
                if (taken++ < NAMED_MAX) {
                        name_of(tids->pids[i], name, sizeof(name));
                        process_say(f, "pids", GRADE_ERROR, "pid %d is taken by %s", (int)tids->pids[i], name);
                }
        }
        if (taken > NAMED_MAX)
                process_say(f, "pids", GRADE_ERROR, "and %u more of its pids are taken", taken - NAMED_MAX);
}

/* A group or session lives on under its number when its leader is gone. */
static void verify_groups(struct process_findings *f, const struct process_set *tids, const struct process_set *groups,
                          const struct process_set *sessions)
{
        unsigned taken = 0;

        AUTO_DIR DIR *proc = opendir("/proc");
        for (struct dirent *e; proc && (e = readdir(proc));) {
                struct process_task task;
                char name[160];

                if (!isdigit((unsigned char)e->d_name[0]) ||
                    process_task_read((pid_t)strtol(e->d_name, NULL, 10), &task) < 0)
                        continue;
                bool group = process_set_has(groups, task.group), session = process_set_has(sessions, task.session);
                if ((!group && !session) || process_set_has(tids, task.pid) || taken++ >= NAMED_MAX)
                        continue;
                name_of(task.pid, name, sizeof(name));
                process_say(f, "pids", GRADE_ERROR, "process %s %d is the number of that of process %d, %s",
                            group ? "group" : "session", group ? (int)task.group : (int)task.session, (int)task.pid,
                            name);
        }
        if (taken > NAMED_MAX)
                process_say(f, "pids", GRADE_ERROR, "and %u more processes use its groups", taken - NAMED_MAX);
}

static int verify_pids(struct process_findings *f, const json_t *info, bool namespace, struct error *err)
{
        CLEANUP(process_set_done) struct process_set tids = {0}, groups = {0}, sessions = {0};
        AUTO_FREE char *text = NULL;
        const unsigned before = f->errors;

        int r = read_set(info, "tids", &tids, err);
        if (r == 0)
                r = read_set(info, "groups", &groups, err);
        if (r == 0)
                r = read_set(info, "sessions", &sessions, err);
        if (r < 0)
                return r;
        if (!namespace) {
                verify_tids(f, &tids);
                verify_groups(f, &tids, &groups, &sessions);
        }
        if (fd_read_file(AT_FDCWD, "/proc/sys/kernel/pid_max", 64, &text, NULL) == 0 && tids.n &&
            tids.pids[tids.n - 1] >= strtol(text, NULL, 10))
                process_say(f, "pids", GRADE_ERROR, "pid %d is above the kernel.pid_max of this host",
                            (int)tids.pids[tids.n - 1]);
        if (f->errors == before)
                process_say(f, "pids", GRADE_OK,
                            namespace ? "its %zu pids need not be free: it gets a pid namespace of its own"
                                      : "its %zu pids are free",
                            tids.n);
        return 0;
}

/* ----------------------------------------------------------------------------------------------------------- verify */

int process_verify(const char *id, const char *description, struct workload *w, hauler_report_fn report, void *context,
                   struct error *err)
{
        struct process_findings f = {.report = report, .context = context};
        const pid_t pid = process_id(id);

        if (pid <= 1)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "'%.64s' is not a process id", id);
        struct process_private *p = calloc(1, sizeof(*p));
        w->hauler = &process_hauler;
        w->private_data = p;
        w->id = strdup(id);
        if (!p || !w->id)
                return error_set(err, ENOMEM, "out of memory");
        int r = read_description(description, p, err);
        if (r < 0)
                return r;
        /* One that is in a pid namespace goes by its name on the other host, if no other was asked for. */
        if (pid != p->pid && pid != json_integer_value(json_object_get(p->info, "host_pid")))
                return error_set_kind(err, ERROR_REFUSED, EINVAL,
                                      "a process tree keeps its pids: it cannot become '%.64s'", id);
        w->init_pid = p->pid;
        r = process_root_verify(w, &f, err);
        if (r == 0)
                r = verify_pids(&f, p->info, w->options->new_pid_namespace, err);
        if (r == 0)
                r = process_files_parse(p->info, &p->files, err);
        if (r == 0)
                process_connections_verify(p->info, &f);
        if (r == 0)
                process_pidfile_verify(w->options->dst_pidfile, &f);
        if (r == 0)
                w->addresses = process_addresses(p->info);
        if (r == 0)
                p->n_copies = process_files_verify(&p->files, w->options->copy_files, p->copies, &f);
        return r;
}
