/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"

/*
 * A CPU limit for a tree alone.
 *
 * Version 1 has a hierarchy for it, in which the tree gets a child cgroup of its own, as for the freezer. With version
 * 2 it is the cgroup that it is frozen in, if the one above hands out CPU time. That is switched on while no task of
 * the tree is in its cgroup and off before any leaves it: between the two the kernel lets nobody into the cgroup above,
 * which may be full of others.
 */
#define WORDS_MAX 4096

static bool has_word(const char *directory, const char *file, const char *word)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, file);
        AUTO_FREE char *text = NULL;

        if (!path || fd_read_file(AT_FDCWD, path, WORDS_MAX, &text, NULL) < 0)
                return false;
        for (char *save = NULL, *at = strtok_r(text, " \n", &save); at; at = strtok_r(NULL, " \n", &save))
                if (strcmp(at, word) == 0)
                        return true;
        return false;
}

static bool has_file(const char *directory, const char *file)
{
        AUTO_FREE char *path = format_new("%s/%s", directory, file);

        return path && access(path, F_OK) == 0;
}

int process_cpu_describe(pid_t pid, const char *cgroup, bool v2, json_t *info)
{
        AUTO_FREE char *cpu = NULL;
        bool cpu_v2;

        if (v2)
                return json_object_set_new(info, "cpu_on",
                                           json_boolean(has_word(cgroup, "cgroup.subtree_control", "cpu")));
        if (process_cgroup_with("cpu", pid, &cpu, &cpu_v2, NULL) < 0 || cpu_v2)
                return 0;
        return json_object_set_new(info, "cpu", json_string(cpu));
}

/* Version 1: where the tree is put; NULL where the description knows none. */
static char *place_of(const json_t *info)
{
        const char *cpu = json_text(info, "cpu");

        return cpu[0] == '/'
                       ? format_new("%s/phaul-%d-%llu", cpu, (int)json_integer_value(json_object_get(info, "host_pid")),
                                    (unsigned long long)json_integer_value(json_object_get(info, "started")))
                       : NULL;
}

void process_cpu_hand_out(const json_t *info)
{
        const char *cgroup = json_text(info, "cgroup");
        AUTO_FREE char *above = strdup(cgroup);
        char *slash = above ? strrchr(above, '/') : NULL;

        if (!json_is_true(json_object_get(info, "v2")) || json_is_true(json_object_get(info, "cpu_on")))
                return;
        /* It came here by a migration: the cgroup that holds all such is ours. */
        if (slash && slash > above) {
                *slash = '\0';
                const char *name = strrchr(above, '/');
                if (name && strcmp(name + 1, PROCESS_HOME) == 0)
                        (void)cgroup_write(above, "cgroup.subtree_control", "+cpu");
        }
        (void)cgroup_write(cgroup, "cgroup.subtree_control", "+cpu");
}

/* All of them in the cgroup that will be their place above: else one would come back to another than it was in. */
static int all_together(pid_t root, const char *cpu, const char *place, struct error *err)
{
        CLEANUP(process_set_done) struct process_set tree = {0};

        int r = process_tree(root, &tree, NULL, err);
        for (size_t i = 0; r == 0 && i < tree.n; i++) {
                AUTO_FREE char *other = NULL;
                bool v2;
                if (process_cgroup_with("cpu", tree.pids[i], &other, &v2, NULL) < 0 || process_task_exits(tree.pids[i]))
                        continue;
                if (strcmp(other, cpu) != 0 && strcmp(other, place) != 0)
                        r = error_set(err, EOPNOTSUPP,
                                      "the CPU limit of process %d is another's than that of process %d",
                                      (int)tree.pids[i], (int)root);
        }
        return r;
}

int process_limit(struct workload *w, struct error *err)
{
        const struct process_private *p = w->private_data;

        if (w->cpu)
                return 0;
        if (w->freezer_v2) {
                if (!has_file(w->freezer, "cpu.max"))
                        return error_set(err, EOPNOTSUPP, "the cgroup %s hands out no CPU time",
                                         json_text(p->info, "cgroup"));
                w->cpu = strdup(w->freezer);
                return w->cpu ? 0 : error_set(err, ENOMEM, "out of memory");
        }
        AUTO_FREE char *place = place_of(p->info);
        if (!place)
                return error_set(err, EOPNOTSUPP, "this host has no cgroups with a CPU limit");
        int r = all_together(w->init_pid, json_text(p->info, "cpu"), place, err);
        if (r == 0)
                r = process_cgroup_enter(w->init_pid, place, err);
        if (r == 0)
                w->cpu = TAKE_PTR(place);
        return r;
}

void process_cpu_take_back(const json_t *info, const char *freezer)
{
        /* There is a limit only if somebody hands CPU time out, and that were we, if nobody did before. */
        if (json_is_true(json_object_get(info, "v2")) && !json_is_true(json_object_get(info, "cpu_on")) &&
            has_file(freezer, "cpu.max"))
                (void)cgroup_write(json_text(info, "cgroup"), "cgroup.subtree_control", "-cpu");
}

int process_cpu_leave(const json_t *info, struct error *err)
{
        AUTO_FREE char *place = place_of(info);

        return place ? process_cgroup_leave(place, json_text(info, "cpu"), err) : 0;
}
