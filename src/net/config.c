/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "net/net.h"

/* What the owner says first. It is trusted; sizes are checked all the same. */

#define ANCHORS_MAX 4096
#define ANCHOR_SIZE_MAX 16384

static int read_first(struct net *net, struct error *err)
{
        ssize_t n = fd_recv_packet(net->record_fd, &net->config, sizeof(net->config), NULL);
        struct record_config *c = &net->config;

        if (n != (ssize_t)sizeof(*c) || c->header.type != RECORD_CONFIG || c->abi != RECORD_ABI)
                return error_set(err, EPROTO, "phaul-net is of another version than its caller");
        c->address[sizeof(c->address) - 1] = '\0';
        c->expect[sizeof(c->expect) - 1] = '\0';
        c->user[sizeof(c->user) - 1] = '\0';
        c->root[sizeof(c->root) - 1] = '\0';
        if (c->key_size > sizeof(c->key) || c->leaf_size > sizeof(c->leaf) || c->hello_size > sizeof(c->hello))
                return error_set(err, EPROTO, "malformed configuration");
        return 0;
}

static int add_anchor(struct net *net, const uint8_t *der, size_t size, struct error *err)
{
        unsigned char hash[EVP_MAX_MD_SIZE];
        const unsigned char *p = der;
        unsigned n = 0;

        if (net->n_anchors == ANCHORS_MAX)
                return error_set(err, E2BIG, "too many paired hosts");
        struct anchor *grown = realloc(net->anchors, (net->n_anchors + 1) * sizeof(*grown));
        if (!grown)
                return error_set(err, ENOMEM, "out of memory");
        net->anchors = grown;
        struct anchor *anchor = &grown[net->n_anchors];
        anchor->certificate = d2i_X509(NULL, &p, (long)size);
        if (!anchor->certificate || p != der + size)
                return error_set(err, EPROTO, "malformed certificate of a paired host");
        net->n_anchors++;
        if (EVP_Digest(der, size, hash, &n, EVP_sha256(), NULL) != 1 || n != 32)
                return error_set(err, EIO, "cannot hash a certificate");
        for (unsigned i = 0; i < n; i++)
                (void)snprintf(anchor->fingerprint + (size_t)2 * i, 3, "%02x", hash[i]);
        return 0;
}

int config_read(struct net *net, struct error *err)
{
        struct {
                struct record_header header;
                uint8_t der[ANCHOR_SIZE_MAX];
        } record;
        int r = read_first(net, err);

        while (r == 0) {
                ssize_t n = fd_recv_packet(net->record_fd, &record, sizeof(record), NULL);
                if (n < (ssize_t)sizeof(record.header))
                        return error_set(err, EPROTO, "cut off configuration");
                if (record.header.type == RECORD_START)
                        return 0;
                if (record.header.type != RECORD_ANCHOR)
                        return error_set(err, EPROTO, "malformed configuration");
                r = add_anchor(net, record.der, (size_t)n - sizeof(record.header), err);
        }
        return r;
}
