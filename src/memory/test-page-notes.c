/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Values of pages, in any order of addresses, within an allowance. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "memory/page_notes.h"

#define PAGE UINT64_C(4096)
#define PIECE (512 * PAGE)

static void test_a_value_for_each_page(void **state)
{
        size_t allowance = 1 << 20;
        CLEANUP(page_notes_free_ptr) struct page_notes *notes = page_notes_new(sizeof(uint32_t), &allowance);
        const uint64_t places[] = {7 * PIECE, 3 * PIECE + 511 * PAGE, 0, UINT64_C(0x7fffffffe000), 3 * PIECE,
                                   8 * PIECE};

        (void)state;
        assert_non_null(notes);
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                assert_true(i == 4 || !page_notes_find(notes, places[i])); /* the fifth is beside the second */
                uint32_t *value = page_notes_make(notes, places[i]);
                assert_non_null(value);
                assert_int_equal(*value, 0);
                *value = (uint32_t)i + 1;
        }
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                const uint32_t *value = page_notes_find(notes, places[i] + 17);
                assert_non_null(value);
                assert_int_equal(*value, i + 1);
        }
        const uint32_t *beside = page_notes_find(notes, 7 * PIECE + PAGE);
        assert_non_null(beside);
        assert_int_equal(*beside, 0);
        assert_null(page_notes_find(notes, 6 * PIECE));
}

static void test_erased(void **state)
{
        size_t allowance = 1 << 20;
        CLEANUP(page_notes_free_ptr) struct page_notes *notes = page_notes_new(sizeof(uint32_t), &allowance);

        (void)state;
        assert_non_null(notes);
        for (uint64_t page = 0; page < 3 * 512; page++) {
                uint32_t *value = page_notes_make(notes, PIECE + page * PAGE);
                assert_non_null(value);
                *value = 1;
        }
        page_notes_erase(notes, 0, PIECE + PAGE);
        page_notes_erase(notes, PIECE + 500 * PAGE, 2 * PIECE + 20 * PAGE);
        page_notes_erase(notes, 2 * PIECE + 30 * PAGE, 2 * PIECE + 30 * PAGE);
        page_notes_erase(notes, 4 * PIECE - PAGE, UINT64_MAX);
        for (uint64_t page = 0; page < 3 * 512; page++) {
                const uint32_t *value = page_notes_find(notes, PIECE + page * PAGE);
                assert_non_null(value);
                assert_int_equal(*value, page != 0 && (page < 500 || page >= 512 + 20) && page != 3 * 512 - 1);
        }
}

static void test_no_more_than_is_allowed(void **state)
{
        size_t allowance = 2 * 512 * 16 + 100;
        struct page_notes *one = page_notes_new(16, &allowance), *other = page_notes_new(16, &allowance);

        (void)state;
        assert_non_null(one);
        assert_non_null(other);
        assert_non_null(page_notes_make(one, 0));
        assert_non_null(page_notes_make(other, PIECE));
        assert_null(page_notes_make(one, PIECE));
        assert_non_null(page_notes_make(one, PAGE));
        page_notes_free(other);
        assert_non_null(page_notes_make(one, PIECE));
        page_notes_free(one);
        assert_int_equal(allowance, 2 * 512 * 16 + 100);
        page_notes_free(NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_value_for_each_page),
                cmocka_unit_test(test_erased),
                cmocka_unit_test(test_no_more_than_is_allowed),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
