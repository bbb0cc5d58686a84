/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Many numbers, added first, then sorted once, then looked up: pids, inodes. Begins as {0}; `numbers` is freed by its
 * owner (number_set_done()).
 */
struct number_set {
        uint64_t *numbers;
        size_t n, room;
};

/* 0 or -ENOMEM. */
int number_set_add(struct number_set *set, uint64_t number);
void number_set_sort(struct number_set *set);
/* Of a set that is sorted. */
bool number_set_has(const struct number_set *set, uint64_t number);
void number_set_done(struct number_set *set);
