/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "haulers/process/look.h"

/*
 * Who was started by a tree and is no descendant of its root any more, because a parent in between has ended: daemons
 * that fork twice. The kernel gives them to process 1 (or a subreaper), and nothing says for sure whose they were. They
 * are not of the tree: they are not dumped, not killed, and run on where they are.
 */

/* Source, pre-flight: those that can still be told by a session or process group of the tree. Warnings "orphans". */
void process_orphans_examine(struct look *l);

/*
 * Source, all of the tree's cgroup stands still and is dumped: who has become one since it was gathered goes back to
 * the cgroup the tree came from, and is named. An error when one shares a pipe or memory with the tree, which would be
 * cut without anybody's having been told before (option force: no error).
 */
int process_orphans_evict(struct workload *w, hauler_report_fn report, void *context, struct error *err);
