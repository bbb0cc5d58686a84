/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "criu/criu.h"

/*
 * Restore a shell job: a process stays behind as leader of a new session with a new terminal, and criu restores the
 * tree into it. Returns criu's exit status, to be this program's, as soon as there is one.
 */
int restore_at_terminal(const struct criu_restore_options *options);
