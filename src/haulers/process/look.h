/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "haulers/process/files.h"

/* What an examination has found out so far. */
struct look {
        struct process_findings findings;
        struct process_task root;
        struct process_set pids, tids, groups, sessions;
        char *cgroup;
        bool v2;
        bool apart;      /* in a pid namespace of its own, whose process 1 is not of the tree: see namespaces.c */
        bool own_mounts; /* in a mount namespace of its own, whose root is --pid-root */
};

/* Whether it is apart; negative when it is in a pid namespace of another kind, such as a container's. */
int process_look_apart(struct look *l);

/* Findings "namespace". Mounts of its own are no error when they begin in a root directory that travels. */
void process_look_namespaces(struct look *l, bool has_root);

/* Those files are for the target to compare: are they the host's? */
void process_look_files(struct look *l, const struct process_files *files);
