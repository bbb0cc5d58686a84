/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "criu/criu.h"

/* Requests and responses of `criu swrk` as bytes; private to this folder. */

/* Largest packet sent or accepted. Below the smallest default send buffer, so that one packet always fits. */
#define CRIU_PACKET_MAX (64U * 1024)

/*
 * The dump request. `images_fd` and `work_fd` are numbers in this process (CRIU looks them up under /proc), `ps_fd` one
 * in criu's (-1: none). A criu that is to be within other namespaces does not see us there: `images_fd` is a number in
 * criu's then, and `work_fd` is not told. -EMSGSIZE when it is larger than CRIU_PACKET_MAX. Caller frees *ret.
 */
int criu_request_dump(const struct criu_dump_options *options, int images_fd, int work_fd, int ps_fd, uint8_t **ret,
                      size_t *ret_size);

/* The answer to a notification; room for 16 bytes is enough. Returns the size. */
size_t criu_request_proceed(bool ok, uint8_t ret[static 16]);

enum criu_response_type { CRIU_RESPONSE_NOTIFY, CRIU_RESPONSE_END };

struct criu_response {
        enum criu_response_type type;
        bool success;
        char point[32];  /* NOTIFY */
        int code;        /* END: errno of CRIU, or 0 */
        char text[1024]; /* END: CRIU's first error line, or "" */
};

/* -EBADMSG when CRIU talks nonsense, -ENOMEM. */
int criu_response_parse(const uint8_t *data, size_t size, struct criu_response *ret);
