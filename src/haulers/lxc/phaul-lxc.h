/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <lxc/lxccontainer.h>
#include <stdbool.h>

#include "base/error.h"

/*
 * Inside phaul-lxc, the only program that links liblxc. One verb per call, one file per verb; each fills *ret with what
 * goes to standard output as JSON, or *err.
 */
typedef int (*verb_fn)(int argc, char **argv, json_t **ret, struct error *err);

int verb_list(int argc, char **argv, json_t **ret, struct error *err);
int verb_state(int argc, char **argv, json_t **ret, struct error *err);
int verb_inspect(int argc, char **argv, json_t **ret, struct error *err);
int verb_verify(int argc, char **argv, json_t **ret, struct error *err);
int verb_restore(int argc, char **argv, json_t **ret, struct error *err);
int verb_stop(int argc, char **argv, json_t **ret, struct error *err);
int verb_start(int argc, char **argv, json_t **ret, struct error *err);
int verb_path(int argc, char **argv, json_t **ret, struct error *err);

/* The directory containers are defined in (lxc.lxcpath). Borrowed. */
const char *lxc_path(void);

/* A copy of a configuration value, "" when unset; NULL only when memory is short. Caller frees. */
char *item(struct lxc_container *c, const char *key);

/* What the configuration of `c` (loaded, not necessarily running) says of rootfs, networks, mounts, consoles, …; adds
 * to `object`. */
int describe_config(struct lxc_container *c, json_t *object, struct error *err);

/* "dir", "overlay" or "other", and its directories into `rootfs`. */
json_t *describe_rootfs(struct lxc_container *c);

/*
 * Run `fn` in a child that is killed after `timeout_ms`: liblxc's questions to a monitor have no time limit of their
 * own, and a monitor that is stopped or restoring does not answer. NULL when there was no answer.
 */
typedef json_t *(*guarded_fn)(void *context);
json_t *guarded(int timeout_ms, guarded_fn fn, void *context);

/* State and init pid by asking the monitor; may hang, to be used within guarded(). */
json_t *ask_state(void *name);

/* -- before liblxc forks a monitor (monitor.c) ------------------------------------------------------------------- */

/* In a child of ours: no terminal, descriptor, signal mask, file mode mask or OOM score of ours any more. */
bool leave_everything(void);

/* The first error in a log of liblxc, "" when there is none. */
void first_complaint(const char *path, char *text, size_t size);
