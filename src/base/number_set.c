/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/number_set.h"

#include <errno.h>
#include <stdlib.h>

int number_set_add(struct number_set *set, uint64_t number)
{
        if (set->n == set->room) {
                size_t room = set->room ? set->room * 2 : 64;
                uint64_t *grown = reallocarray(set->numbers, room, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                set->numbers = grown;
                set->room = room;
        }
        set->numbers[set->n++] = number;
        return 0;
}

static int by_number(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

void number_set_sort(struct number_set *set)
{
        if (set->n)
                qsort(set->numbers, set->n, sizeof(*set->numbers), by_number);
}

bool number_set_has(const struct number_set *set, uint64_t number)
{
        return set->n && bsearch(&number, set->numbers, set->n, sizeof(number), by_number);
}

void number_set_done(struct number_set *set)
{
        free(set->numbers);
        *set = (struct number_set){0};
}
