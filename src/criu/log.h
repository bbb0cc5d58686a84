/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdio.h>

/* As criu_log_errors(), from an open file; private to this folder. */
int criu_log_pick(FILE *log, char *ret, size_t size);

/* Its last lines, whatever they say: when there is none that CRIU calls an error. */
int criu_log_tail(FILE *log, char *ret, size_t size);
