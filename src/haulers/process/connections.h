/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "haulers/process/process.h"

/*
 * Established TCP of a tree. Its connections live in the host's own network, so each of them is locked by name on both
 * hosts (network/flows.h): on the source from the moment the tasks stand still until they run again or are gone, on the
 * target from before the first socket is made until STARTING. Which ones that are is only known when the tasks stand
 * still, so the list travels with the images.
 */

/* Source, pre-flight: the addresses its connections are bound to go into the description. */
int process_connections_describe(const struct process_set *pids, json_t *description, struct process_findings *f,
                                 struct error *err);
/* Target, pre-flight. */
void process_connections_verify(const json_t *description, struct process_findings *f);

/* Source: all tasks stand still. */
int process_network_lock(struct workload *w, struct error *err);
/* Source: the list for the target. */
int process_connections_save(const struct workload *w, int images_fd, struct error *err);
/* Target: the images are here. */
int process_network_expect(struct workload *w, const char *images, struct error *err);

/* `mark` tells one lock of that pid from another. Nothing there is success. */
int process_connections_unlock(pid_t pid, const char *mark, struct error *err);
