/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files/files.h"

/* What the tests of trees share: a place with a source and a destination, rounds between them, and a comparison. */
struct place {
        char dir[64], source[96], target[96];
};

struct ends {
        struct files_result sent;
        bool sender_failed, receiver_failed;
        struct error sender, receiver;
        uint64_t go_us; /* from go to the end of both sides */
};

/* In /var/tmp, or in PHAUL_TEST_DIR. */
void place_make(struct place *p);
void place_clear(struct place *p);

/* One round within one loop, both ends over a socketpair. */
void run_round(const struct place *p, const struct files_send_options *options, struct ends *ret);

/* The same, with both ends expected to succeed. */
void good_round(const struct place *p, enum files_round round, const struct files_mark *since, const char *const *also,
                struct ends *ret);

/* Fails the test at the first field of the first inode that differs. */
void assert_same_trees(const char *a, const char *b);

/* All below are relative to the source, and fail the test when they fail. */
void put_file(const char *dir, const char *name, const void *data, size_t size);
void put_text(const char *dir, const char *name, const char *text);
char *in(const char *dir, const char *name); /* one of a few static buffers */
bool exists(const char *dir, const char *name);
