/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * Names come from users and peers. They are data: checked here once, at the door, and never given to a shell.
 * What is allowed is a subset of what LXC, DNS and file systems agree on.
 */
#define NAME_MAX_LENGTH 64

/* Container or host name: 1 to 64 of [A-Za-z0-9_.-], first one alphanumeric. */
bool name_is_valid(const char *name);

/* Migration id: 32 lower-case hexadecimal digits. */
#define ID_LENGTH 32
bool id_is_valid(const char *id);

/* A fresh random migration id; `ret` has room for ID_LENGTH + 1. Negative errno when the kernel has no randomness. */
int id_new(char ret[static ID_LENGTH + 1]);

/* Kind of workload: 1 to 16 of [a-z0-9]. */
bool kind_is_valid(const char *kind);

/*
 * Split "KIND/ID". Buffers have room for NAME_MAX_LENGTH + 1. Fails with kind ERROR_USAGE and a text that quotes the
 * offending input with everything unprintable escaped.
 */
int workload_parse(const char *text, char *ret_kind, char *ret_id, struct error *err);

/* Escape for messages: control characters, quotes and bytes that are not UTF-8 become \xNN; long input is cut with "…".
 */
const char *name_quote(const char *text, char *buffer, size_t size);

/* Whether `size` bytes are valid UTF-8 without NUL. */
bool utf8_is_valid(const char *text, size_t size);
