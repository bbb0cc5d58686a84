/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "files/files.h"

/* The clock was stepped back since the mark was taken, or the mark never told anything. */
bool mark_is_void(const struct files_mark *mark);

/* Changed since the mark, or not known not to be. */
bool mark_is_older(const struct files_mark *mark, const struct statx *st);
