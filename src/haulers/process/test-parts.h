/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>

/* How many files and directories are in a directory; 0 where there is none. */
size_t entries(const char *directory);
