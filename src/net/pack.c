/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/pack.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/clock.h"
#include "wire/link.h"

#define ZSTD_LEVEL 1
#define WORTHWHILE 4096U /* bytes; smaller frames go as they are */
#define SAMPLE_EVERY 64U /* frames: one of them is for trying what is not in use */
#define SAVES_MAX 0.9    /* of the time without it: what saves less is not worth the work of two processors */
#define MEMORY_BYTES 8e6 /* what was measured is forgotten over about as much data */

/* Sums of what was seen, the old fading away. */
struct measure {
        double raw, packed, us;
};

struct packer {
        uint8_t *out;
        ZSTD_CCtx *compressor;
        ZSTD_DCtx *decompressor;
        struct measure methods[PACK_METHODS];
        struct measure wire; /* raw: bytes that it took */
        unsigned frames;
        size_t size;        /* of the latest one, as it was given */
        uint64_t packed_us; /* that it took */
};

int packer_new(struct packer **ret)
{
        struct packer *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        *ret = p;
        return 0;
}

void packer_free(struct packer *packer)
{
        if (!packer)
                return;
        (void)ZSTD_freeCCtx(packer->compressor);
        (void)ZSTD_freeDCtx(packer->decompressor);
        free(packer->out);
        free(packer);
}

/* `size`: of the original. */
static void see(struct measure *m, size_t size, size_t raw, size_t packed, uint64_t us)
{
        const double kept = 1 - (double)size / MEMORY_BYTES;

        m->raw = m->raw * kept + (double)raw;
        m->packed = m->packed * kept + (double)packed;
        m->us = m->us * kept + (double)us + 0.1; /* a clock that stood still is no infinite speed */
}

void pack_sent(struct packer *p, size_t bytes, uint64_t us, bool waited)
{
        const uint64_t packing = waited || us < p->packed_us ? 0 : p->packed_us;

        see(&p->wire, p->size, bytes, bytes, us - packing);
}

/* Microseconds for each byte of the original: the connection empties the kernel's buffer while the next is packed. */
static double cost(const struct packer *p, enum pack_method method)
{
        const struct measure *m = &p->methods[method];
        const double wire = p->wire.us / p->wire.raw;

        if (method == PACK_NONE)
                return wire;
        const double packing = m->us / m->raw, sending = m->packed / m->raw * wire;
        return packing > sending ? packing : sending;
}

/* Whatever was never tried on this connection comes first; later, in turn, what is not in use. */
static enum pack_method choose(struct packer *p)
{
        enum pack_method best = PACK_NONE;

        p->frames++;
        if (p->wire.raw <= 0)
                return PACK_NONE; /* nothing is known of the connection yet */
        for (enum pack_method m = PACK_NONE + 1; m < PACK_METHODS; m++)
                if (p->methods[m].raw <= 0)
                        return m;
        if (p->frames % SAMPLE_EVERY == 0)
                return PACK_NONE + 1 + p->frames / SAMPLE_EVERY % (PACK_METHODS - 1);
        for (enum pack_method m = PACK_NONE + 1; m < PACK_METHODS; m++)
                if (cost(p, m) < cost(p, best) && cost(p, m) < SAVES_MAX * cost(p, PACK_NONE))
                        best = m;
        return best;
}

/* 0: it does not get smaller, or cannot be done. */
static size_t compress_with(struct packer *p, enum pack_method method, const void *data, size_t size)
{
        /* What does not fit into less than the original is of no use. */
        const size_t room = size - 1;

        if (!p->out)
                p->out = malloc(BULK_MAX);
        if (!p->out)
                return 0;
        if (method == PACK_LZ4) {
                int n = LZ4_compress_default(data, (char *)p->out, (int)size, (int)room);
                return n > 0 ? (size_t)n : 0;
        }
        if (!p->compressor)
                p->compressor = ZSTD_createCCtx();
        if (!p->compressor)
                return 0;
        size_t n = ZSTD_compressCCtx(p->compressor, p->out, room, data, size, ZSTD_LEVEL);
        return ZSTD_isError(n) ? 0 : n;
}

enum pack_method pack(struct packer *p, const void *data, size_t size, const uint8_t **ret_data, size_t *ret_size)
{
        const enum pack_method method = size < WORTHWHILE || size > BULK_MAX ? PACK_NONE : choose(p);

        *ret_data = data;
        *ret_size = size;
        p->packed_us = 0;
        p->size = size < BULK_MAX ? size : BULK_MAX;
        if (method == PACK_NONE)
                return PACK_NONE;
        const uint64_t began = clock_us();
        const size_t packed = compress_with(p, method, data, size);
        p->packed_us = clock_us() - began;
        see(&p->methods[method], size, size, packed ? packed : size, p->packed_us);
        if (!packed)
                return PACK_NONE;
        *ret_data = p->out;
        *ret_size = packed;
        return method;
}

int unpack(struct packer *p, unsigned method, const void *data, size_t size, void *ret, size_t raw_size)
{
        if (raw_size == 0 || raw_size > BULK_MAX || size == 0 || size > BULK_MAX)
                return -EBADMSG;
        if (method == PACK_LZ4) {
                int n = LZ4_decompress_safe(data, ret, (int)size, (int)raw_size);
                return n >= 0 && (size_t)n == raw_size ? 0 : -EBADMSG;
        }
        if (method != PACK_ZSTD)
                return -EBADMSG;
        if (!p->decompressor)
                p->decompressor = ZSTD_createDCtx();
        if (!p->decompressor)
                return -ENOMEM;
        size_t n = ZSTD_decompressDCtx(p->decompressor, ret, raw_size, data, size);
        return !ZSTD_isError(n) && n == raw_size ? 0 : -EBADMSG;
}
