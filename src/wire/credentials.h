/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "wire/trust.h"

/* One DER object, owned. */
struct blob {
        uint8_t *data;
        size_t size;
};

/* What is handed to a phaul-net: a leaf for a day and the certificates that count. Inside wire/ only. */
struct credentials {
        struct blob key;  /* PKCS#8, unencrypted */
        struct blob leaf; /* certificate */
        struct blob *anchors;
        size_t n_anchors;
};

int credentials_add_anchor(struct credentials *credentials, const char *pem);
