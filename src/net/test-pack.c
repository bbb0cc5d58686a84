/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is compressed comes back as it was; what a peer made up does not; and whether it pays is measured, not assumed.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "net/pack.h"
#include "wire/link.h"

#define FRAMES 200
#define SLOW_US 1000000 /* for a frame of 1 MiB: 1 MB/s */

struct place {
        struct packer *packer;
        uint8_t text[BULK_MAX], noise[BULK_MAX], back[BULK_MAX];
};

static int set_up(void **state)
{
        struct place *p = calloc(1, sizeof(*p));
        unsigned seed = 7;

        *state = p;
        if (!p || packer_new(&p->packer) < 0)
                return -1;
        for (size_t i = 0; i < BULK_MAX; i++) {
                p->noise[i] = (uint8_t)(rand_r(&seed) >> 7);
                p->text[i] = (uint8_t) "only words, and numbers such as "[i % 32];
                if (i % 32 == 0)
                        p->text[i] = (uint8_t)(i >> 5);
        }
        return 0;
}

static int tear_down(void **state)
{
        struct place *p = *state;

        packer_free(p->packer);
        free(p);
        return 0;
}

/* A connection that takes so long for each MiB; how many of the last frames went by each method. */
static void carry(struct place *p, const uint8_t *data, double us_per_mib, unsigned counts[static PACK_METHODS])
{
        memset(counts, 0, PACK_METHODS * sizeof(*counts));
        for (unsigned i = 0; i < 2 * FRAMES; i++) {
                const uint8_t *packed;
                size_t size;

                enum pack_method method = pack(p->packer, data, BULK_MAX, &packed, &size);
                if (method == PACK_NONE) {
                        assert_true(packed == data && size == BULK_MAX);
                } else {
                        assert_true(size < BULK_MAX);
                        memset(p->back, 0, sizeof(p->back));
                        assert_int_equal(unpack(p->packer, method, packed, size, p->back, BULK_MAX), 0);
                        assert_memory_equal(p->back, data, BULK_MAX);
                }
                pack_sent(p->packer, size, (uint64_t)(us_per_mib * (double)size / BULK_MAX), true);
                if (i >= FRAMES)
                        counts[method]++;
        }
}

/* A slow connection gets less to do, a fast one is not kept waiting, and what cannot be compressed is left. */
static void test_pays(void **state)
{
        struct place *p = *state;
        unsigned counts[PACK_METHODS];

        carry(p, p->text, SLOW_US, counts);
        assert_int_equal(counts[PACK_NONE], 0);
        carry(p, p->text, 1, counts); /* 1 TB/s; samples are taken all the time */
        assert_in_range(counts[PACK_NONE], FRAMES - FRAMES / 32, FRAMES - 1);
        carry(p, p->noise, SLOW_US, counts);
        assert_int_equal(counts[PACK_NONE], FRAMES);
        carry(p, p->text, SLOW_US, counts); /* another part of memory */
        assert_true(counts[PACK_NONE] < FRAMES / 4);
}

static void test_small_frames_are_left(void **state)
{
        struct place *p = *state;
        const uint8_t *packed;
        size_t size;

        (void)pack(p->packer, p->text, BULK_MAX, &packed, &size);
        pack_sent(p->packer, size, SLOW_US, true);
        assert_int_equal(pack(p->packer, p->text, 0, &packed, &size), PACK_NONE);
        assert_int_equal(pack(p->packer, p->text, 100, &packed, &size), PACK_NONE);
        assert_int_equal(size, 100);
}

/* Every method refuses what is no whole original of that size: noise, a part of it, more or less than announced. */
static void test_refuses(void **state)
{
        struct place *p = *state;
        const uint8_t *packed;
        unsigned seen = 0;
        size_t size;

        (void)pack(p->packer, p->text, BULK_MAX, &packed, &size);
        pack_sent(p->packer, size, SLOW_US, true);
        for (unsigned i = 0; i < 10; i++) {
                enum pack_method method = pack(p->packer, p->text, BULK_MAX - 5, &packed, &size);
                pack_sent(p->packer, size, SLOW_US, true);
                if (method == PACK_NONE)
                        continue;
                seen |= 1U << method;
                uint8_t *copy = malloc(size); /* of its exact size, for a reader that goes too far to be seen */
                assert_non_null(copy);
                memcpy(copy, packed, size);
                assert_int_equal(unpack(p->packer, method, copy, size, p->back, BULK_MAX - 5), 0);
                assert_int_equal(unpack(p->packer, method, copy, size, p->back, BULK_MAX), -EBADMSG);
                assert_int_equal(unpack(p->packer, method, copy, size, p->back, 1), -EBADMSG);
                assert_int_equal(unpack(p->packer, method, copy, size - 1, p->back, BULK_MAX - 5), -EBADMSG);
                assert_int_equal(unpack(p->packer, method, p->noise, size, p->back, BULK_MAX - 5), -EBADMSG);
                free(copy);
        }
        assert_int_equal(seen, 1U << PACK_LZ4 | 1U << PACK_ZSTD);
        for (unsigned method = PACK_METHODS; method < 300; method++)
                assert_int_equal(unpack(p->packer, method, p->text, 100, p->back, 100), -EBADMSG);
        assert_int_equal(unpack(p->packer, PACK_NONE, p->text, 100, p->back, 100), -EBADMSG);
        assert_int_equal(unpack(p->packer, PACK_LZ4, p->text, 100, p->back, BULK_MAX + 1), -EBADMSG);
        assert_int_equal(unpack(p->packer, PACK_LZ4, p->text, 0, p->back, 100), -EBADMSG);
        assert_int_equal(unpack(p->packer, PACK_ZSTD, p->text, 100, p->back, 0), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_pays, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_small_frames_are_left, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_refuses, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
