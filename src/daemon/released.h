/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/error.h"

/*
 * Remove what a migrated workload left behind: the directory STATE/released/ID, and what links in it say was put aside
 * on another file system, as ".phaul-released-ID". Nothing there is success.
 */
int released_remove(const char *state, const char *id, struct error *err);
