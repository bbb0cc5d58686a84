/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * Compression of the data of bulk frames, each for itself, where it makes them arrive sooner. What that is follows from
 * what was measured on this connection: how fast each method is here, what it makes of this data, and how fast the
 * connection takes bytes. On a fast link nothing is compressed, but for a sample now and then.
 *
 * A frame's method is on the wire (PROTOCOL.md "Frames"): LZ4 is one block (LZ4_compress_default), Zstandard one frame.
 */
enum pack_method { PACK_NONE, PACK_LZ4, PACK_ZSTD, PACK_METHODS };

struct packer;

int packer_new(struct packer **ret);
void packer_free(struct packer *packer);
DEFINE_CLEANUP(struct packer, packer_free)

/*
 * Compress `size` bytes, or leave them. *ret_data (until the next call) and *ret_size are what is to be sent;
 * PACK_NONE: `data` as it is.
 */
enum pack_method pack(struct packer *packer, const void *data, size_t size, const uint8_t **ret_data, size_t *ret_size);

/*
 * What pack() gave, or left, is in the kernel's hands, `us` after pack() was called. `waited`: the connection had no
 * room in that time, and so had been busy with what came before while this was compressed.
 */
void pack_sent(struct packer *packer, size_t bytes, uint64_t us, bool waited);

/*
 * What a peer has sent: exactly `raw_size` bytes into `ret`. -EBADMSG when it is anything else, whatever it may be.
 * Needs memory for Zstandard: -ENOMEM.
 */
int unpack(struct packer *packer, unsigned method, const void *data, size_t size, void *ret, size_t raw_size);
