/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/orphans.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/json_text.h"
#include "base/number_set.h"

#define NAMED_MAX 10
#define GENERATIONS_MAX 4096
#define MAPS_MAX (64U << 20)

static void name_of(pid_t pid, char *ret, size_t size)
{
        AUTO_FREE char *text = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        const bool known = fd_read_file(AT_FDCWD, path, 256, &text, NULL) == 0;
        (void)snprintf(ret, size, "%.*s", known ? (int)strcspn(text, "\n") : 1, known ? text : "?");
}

/* -- before: what can be known of them -------------------------------------------------------------------------- */

/* The tree may have got more since it was listed; of those that are gone there is nothing to say. */
static bool descends(const struct process_set *tree, pid_t pid)
{
        struct process_task task;

        for (int i = 0; i < GENERATIONS_MAX && pid > 1; i++) {
                if (process_set_has(tree, pid) || process_task_read(pid, &task) < 0)
                        return true;
                pid = task.parent;
        }
        return false;
}

void process_orphans_examine(struct look *l)
{
        unsigned found = 0;

        AUTO_DIR DIR *proc = opendir("/proc");
        for (struct dirent *e; proc && (e = readdir(proc));) {
                struct process_task task;
                char name[32];

                if (!isdigit((unsigned char)e->d_name[0]) ||
                    process_task_read((pid_t)strtol(e->d_name, NULL, 10), &task) < 0)
                        continue;
                const bool session = process_set_has(&l->pids, task.session);
                if ((!session && !process_set_has(&l->pids, task.group)) || descends(&l->pids, task.pid) ||
                    found++ >= NAMED_MAX)
                        continue;
                name_of(task.pid, name, sizeof(name));
                process_say(&l->findings, "orphans", GRADE_WARNING,
                            "process %d (%s) is in a %s of the tree, but no descendant of process %d, as who started "
                            "it has ended: it stays here and runs on. End it, if it is of no use without the tree",
                            (int)task.pid, name, session ? "session" : "process group", (int)l->root.pid);
        }
        if (found > NAMED_MAX)
                process_say(&l->findings, "orphans", GRADE_WARNING, "and %u more of them", found - NAMED_MAX);
}

/* -- when all stand still: who is one by now -------------------------------------------------------------------- */

static int add_pipes(pid_t pid, struct number_set *ret)
{
        char path[64], link[64];
        struct dirent *entry;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        while (dir && r == 0 && (entry = readdir(dir))) {
                const ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
                if (n <= 0)
                        continue;
                link[n] = '\0';
                if (strncmp(link, "pipe:[", 6) == 0)
                        r = number_set_add(ret, strtoull(link + 6, NULL, 10));
        }
        return r;
}

/* "7f00-7f10 rw-s 00000000 00:01 4711      /dev/zero (deleted)" */
static int add_memory(pid_t pid, struct number_set *ret)
{
        static const char *const kinds[] = {"/dev/zero (deleted)", "/memfd:", "/SYSV"};
        AUTO_FREE char *text = NULL;
        char path[64], *save = NULL;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        if (fd_read_file(AT_FDCWD, path, MAPS_MAX, &text, NULL) < 0)
                return 0;
        for (char *line = strtok_r(text, "\n", &save); r == 0 && line; line = strtok_r(NULL, "\n", &save)) {
                uint64_t inode;
                char mode;
                int at = 0;
                if (sscanf(line, "%*s %*3s%c %*s %*s %" SCNu64 " %n", &mode, &inode, &at) != 2 || mode != 's' || !at)
                        continue;
                for (size_t i = 0; r == 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++)
                        if (strncmp(line + at, kinds[i], strlen(kinds[i])) == 0)
                                r = number_set_add(ret, inode);
        }
        return r;
}

/* Who of them has something of the kind that `add` finds which the tree has, too; 0 for nobody. */
static int common(const struct process_set *orphans, const struct process_set *tree,
                  int (*add)(pid_t pid, struct number_set *ret), pid_t *ret_orphan)
{
        CLEANUP(number_set_done) struct number_set all = {0};
        int r = 0;

        *ret_orphan = 0;
        for (size_t i = 0; r == 0 && i < tree->n; i++)
                r = add(tree->pids[i], &all);
        number_set_sort(&all);
        for (size_t i = 0; r == 0 && i < orphans->n; i++) {
                CLEANUP(number_set_done) struct number_set own = {0};
                r = add(orphans->pids[i], &own);
                for (size_t k = 0; r == 0 && k < own.n; k++)
                        if (number_set_has(&all, own.numbers[k]))
                                *ret_orphan = orphans->pids[i];
        }
        return r;
}

/* The pre-flight would have found it, had they been orphans then. */
static int refuse_common(struct workload *w, const struct process_set *orphans, struct error *err)
{
        static const struct {
                const char *name;
                int (*add)(pid_t pid, struct number_set *ret);
        } kinds[] = {{"a pipe", add_pipes}, {"memory", add_memory}};
        CLEANUP(process_set_done) struct process_set tree = {0};

        int r = process_tree(w->init_pid, &tree, NULL, err);
        for (size_t i = 0; r == 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
                pid_t orphan;
                char name[32];
                if (common(orphans, &tree, kinds[i].add, &orphan) < 0)
                        return error_set(err, ENOMEM, "out of memory");
                if (!orphan || w->options->force)
                        continue;
                name_of(orphan, name, sizeof(name));
                return error_set(err, EBUSY,
                                 "process %d (%s) left the tree of process %d while it was migrated and shares %s with "
                                 "it, which would be cut. Try again when it has ended, or move both",
                                 (int)orphan, name, (int)w->init_pid, kinds[i].name);
        }
        return r;
}

int process_orphans_evict(struct workload *w, hauler_report_fn report, void *context, struct error *err)
{
        const struct process_private *p = w->private_data;
        CLEANUP(process_set_done) struct process_set orphans = {0};
        struct process_findings f = {.report = report, .context = context};

        int r = process_cgroup_evict(w->init_pid, w->freezer, json_text(p->info, "cgroup"), &orphans, err);
        for (size_t i = 0; r == 0 && i < orphans.n && i < NAMED_MAX; i++) {
                char name[32];
                name_of(orphans.pids[i], name, sizeof(name));
                process_say(&f, "orphans", GRADE_WARNING,
                            "process %d (%s) has left the tree, as its parent has ended: it stays here and runs on",
                            (int)orphans.pids[i], name);
        }
        if (r == 0 && orphans.n > NAMED_MAX)
                process_say(&f, "orphans", GRADE_WARNING, "and %zu more of them", orphans.n - NAMED_MAX);
        return r < 0 || orphans.n == 0 ? r : refuse_common(w, &orphans, err);
}
