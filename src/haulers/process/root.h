/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "haulers/process/look.h"

/*
 * A tree with a root directory of its own (--pid-root): chrooted in the mount namespace of the host, or in a mount
 * namespace whose root is that directory, which CRIU then carries (tmpfs with what is in it, proc, …) and restores upon
 * it. What is in the directory travels by the movers of the engine (struct hauler_tree); on the target it has the same
 * path.
 *
 * Where it is made on the target a file beside it, ".phaul-TOKEN", says until the tree runs that all below it is ours
 * to remove. Leftovers are called "TOKEN#WAS#PATH", WAS being "" or what an empty directory that was there before
 * looked like ("MODE:UID:GID").
 */

/* Whether `path` is `root` or lies below it; both absolute. */
bool process_is_within(const char *path, const char *root);

/* Whether it lies where the files of the host itself are (/usr but for /usr/local, /etc, /run, …). */
bool process_is_in_the_hosts(const char *path);

/* Source: is it really the root of all of them, and only of them? Findings "root"; makes the tree of *w. */
int process_root_examine(struct workload *w, struct look *l, struct error *err);

/* Take out of the list what travels with the root directory. Mounts below it do not. */
void process_root_take(const char *root, struct process_files *files);

/* Target. */
int process_root_verify(struct workload *w, struct process_findings *f, struct error *err);
int process_root_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err);
int process_root_discard(const char *name, struct error *err);
int process_root_keep(const char *name, struct error *err);

/* Source, all of it is gone: the directory goes to `released`/root. Repeatable. */
int process_root_release(const char *root, const char *released, struct error *err);
