/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

#include "base/error.h"

/*
 * RFC 9457 problem documents: {"type": "about:blank", "title", "status", "detail", "kind"}. `kind` is our error kind,
 * from which the command line takes its exit code.
 */
#define PROBLEM_TYPE "application/problem+json"

/* HTTP status for an error: by kind, refined by errno (EEXIST, EBUSY: 409; E2BIG: 413; ETIMEDOUT: 504; …). */
unsigned problem_status(const struct error *err);

/* NULL when out of memory. status 0: problem_status(err). */
json_t *problem_document(unsigned status, const struct error *err);
