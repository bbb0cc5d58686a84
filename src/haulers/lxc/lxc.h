/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/cgroup.h"
#include "base/name.h"
#include "haulers/hauler.h"

/*
 * What the files of this folder share. The hauler asks liblxc nothing itself: it runs phaul-lxc and reads its JSON.
 *
 * On the target everything lies in LXCPATH/NAME, which is made exclusively (that is the reservation of the name) and
 * carries an empty file `.phaul-TOKEN`. The token is in the name of every leftover, "LXCPATH/NAME#TOKEN", so that a
 * discard can never hit somebody else's container of the same name. Until publish() the configuration is called
 * `config.phaul`, which no tool of LXC takes for a container.
 */
#define LXC_CONFIG_UNPUBLISHED "config.phaul"
#define LXC_CONFIG_DISARMED "config.phaul-migrating" /* source, from just before COMMIT on */
#define LXC_CONFIG_MAX (1 << 20)
#define LXC_NETWORKS_MAX 16

struct lxc_private {
        json_t *info;  /* source: answer of inspect; target: answer of verify for the rewritten configuration */
        char *config;  /* target: text of the rewritten configuration */
        char *lxcpath; /* of this host */
        char *base;    /* LXCPATH/NAME */
        bool overlay;
        char token[ID_LENGTH + 1]; /* target, from prepare() on */
        /* what dump_options() hands out */
        struct criu_cgroup_root *roots;
        struct criu_external_mount *mounts;
        char **strings;
        size_t n_strings;
};

/* ----------------------------------------------------------------------------------------------------------- tool.c */

/* Run phaul-lxc with up to eight arguments (NULL-terminated after `verb`); its JSON in *ret. -ENOENT: not installed. */
int lxc_tool(int timeout_ms, json_t **ret, struct error *err, const char *verb, ...) __attribute__((sentinel));

/* Path of one of our programs. */
const char *lxc_program(const char *name, char *buffer, size_t size);

/* Where containers live here; caller frees. */
int lxc_tool_path(char **ret, struct error *err);

/* --------------------------------------------------------------------------------------------------------- config.c */

/* The text with its root file system replaced and all else verbatim; caller frees. */
int lxc_config_rewrite(const char *text, const char *rootfs, char **ret, struct error *err);

/* The name liblxc gives to network `position` (counted, not the index in its key) of verify's or inspect's list. */
const char *lxc_network_name(const json_t *network, size_t position, char buffer[static 16]);

/* ---------------------------------------------------------------------------------------------------------- idmap.c */

/* Containers with a user namespace (lxc.idmap), "unprivileged" ones; `info` is inspect's or verify's. */
bool lxc_is_idmapped(const json_t *info);

struct lxc_idmap {
        char kind; /* u, g, or b for both */
        uint32_t inside, outside, count;
};

/* What root of the container is outside. */
int lxc_idmap_root(const json_t *info, uid_t *ret_uid, gid_t *ret_gid, struct error *err);

/* Target, before the restore: the images in the directory are for the container's root to read. Not mapped: nothing. */
int lxc_idmap_images(const json_t *info, const char *images, struct error *err);

/*
 * Will liblxc be able to set these maps up here? Where newuidmap and newgidmap are installed it goes through them, also
 * as root, and those give out what /etc/subuid and /etc/subgid say. `text`: why, or why not.
 */
bool lxc_idmap_allowed(const json_t *info, char *text, size_t size);

/* --------------------------------------------------------------------------------------------------------- cgroup.c */

/* The freezer of a container from the text of /proc/mounts and inspect's "cgroups"; caller frees *ret. */
int lxc_freezer_find(const char *mounts, const json_t *cgroups, char **ret, bool *ret_v2, struct error *err);

/* The same for the one whose CPU limit is the container's; 0 or a negative errno. */
int lxc_cpu_find(const char *mounts, const json_t *cgroups, char **ret);

/* Let it run, if it exists. */
int lxc_cgroup_thaw(const char *directory, bool v2);

/* Let all of container `name` run, in every hierarchy. */
void lxc_cgroup_thaw_container(const char *name);

/* 1 frozen, 0 not. */
int lxc_cgroup_frozen(const char *directory, bool v2);

/* Proportional resident memory of all tasks, bytes. */
uint64_t lxc_cgroup_memory(const char *directory);

/* Is there still a task of the container's payload or its monitor? */
bool lxc_cgroup_populated(const char *name, bool monitor);

/* Add the tasks of the container's payload. Negative errno. */
int lxc_cgroup_tasks(const char *name, struct pid_list *ret);

/* Do directories of that name exist in any hierarchy? */
bool lxc_cgroup_exists(const char *name);

/* Kill everything of container `name`: its tasks, also those hung in CRIU's restorer, CRIU itself and liblxc's monitor;
 * then remove its cgroups. */
int lxc_cgroup_kill(const char *name, int timeout_ms, struct error *err);

/* ----------------------------------------------------------------------------------------------------- addresses.c */

/* What a running container has of the network; new reference, NULL when it cannot be found out. */
json_t *lxc_addresses_describe(pid_t init);

/* Target: does anybody here have them? `networks` of the configuration, `live` of the source (may be NULL); `away`: the
 * container does not run. Reports the item "address" when somebody has. */
void lxc_addresses_verify(const json_t *networks, const json_t *live, bool away, hauler_report_fn report,
                          void *context);

/* ------------------------------------------------------------------------------------------------------ conflict.c */

/*
 * Does the configuration of another container here have that address (hardware, or IP without prefix length)? Its name
 * in *ret_owner then. Text is enough: it is a hint, not a proof.
 */
bool lxc_address_taken(const char *lxcpath, const char *address, char ret_owner[static NAME_MAX_LENGTH + 1]);

/* Does a configuration assign it, as a word of its own in a value, outside comments? */
bool lxc_config_has_address(const char *config, const char *address);

/* Is the profile in the text of /sys/kernel/security/apparmor/profiles? */
bool lxc_profile_loaded(const char *profiles, const char *profile);

/* ------------------------------------------------------------------------------------------------------ the hooks */

extern const struct hauler lxc_hauler;

int lxc_list(json_t **ret, struct error *err);
int lxc_examine(const char *id, struct workload *w, hauler_report_fn report, void *context, struct error *err);
int lxc_dump_options(struct workload *w, struct criu_dump_options *options, struct error *err);
int lxc_disarm(struct workload *w, struct error *err);
int lxc_rearm(struct workload *w, struct error *err);
int lxc_release(struct workload *w, const char *released, struct error *err);
int lxc_verify(const char *id, const char *description, struct workload *w, hauler_report_fn report, void *context,
               struct error *err);
int lxc_prepare(struct workload *w, hauler_leftover_fn leftover, void *context, struct error *err);
int lxc_restore(struct loop *loop, struct workload *w, const char *images, const char *hold_socket, const char *record,
                const struct hauler_restore_handlers *handlers, void *context, struct hauler_restore **ret,
                struct error *err);
int lxc_restore_verdict(struct hauler_restore *r, bool ok);
void lxc_restore_free(struct hauler_restore *r);
int lxc_ports(struct workload *w, struct hauler_port *ret, size_t max, struct error *err);
int lxc_publish(struct workload *w, struct error *err);
int lxc_alive(struct workload *w, struct error *err);
bool lxc_gone(const struct workload *w);
int lxc_put_down(struct workload *w, const char *images, struct error *err);
int lxc_stop(struct loop *loop, struct workload *w, unsigned limit_s, hauler_changed_fn done, void *context,
             struct hauler_change **ret, struct error *err);
int lxc_start(struct loop *loop, struct workload *w, hauler_changed_fn done, void *context, struct hauler_change **ret,
              struct error *err);
void lxc_change_free(struct hauler_change *c);
int lxc_stopped(struct workload *w, struct error *err);
int lxc_discard(const char *what, const char *name, struct error *err);
void lxc_done(struct workload *w);

/* The container's init as the kernel has it, from its payload cgroup; 0 when there is none. */
pid_t lxc_find_init(const char *name);

/* "phTOKENN": the name of veth `index` until it is attached. */
void lxc_veth_name(const char *token, unsigned index, char buffer[static 16]);

/* After a start on the target (restart mode) that failed, all of it killed: 0, init certainly never began; 1 it may. */
int lxc_start_trace(const struct workload *w, struct error *err);
/* The same of the text of liblxc's log. */
bool lxc_start_may_have_run(const char *log);
