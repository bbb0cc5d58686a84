/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* printf into fresh memory, for the caller to free; NULL when there is none. */
char *format_new(const char *format, ...) __attribute__((format(printf, 1, 2)));
