/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/error.h"

/*
 * For the programs that start `criu restore`: a restored workload is their descendant, and what CRIU does not restore
 * it has from them for the rest of its life. Used in their own processes only.
 */

/* Seccomp and no_new_privs cannot be taken off again: -EPERM when process 1 is not confined the same way. */
int unconfined_check(struct error *err);

/* CRIU restores an OOM score only where it is not 0, so a score of ours would become the workload's. */
void unconfined_forget_oom_score(void);
