/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What phaul-tree is given. Standard output of a sender is rsync's statistics and the notes below, one a line; of a
 * receiver, standard input and output are the stream. Standard error is for complaints.
 */
enum {
        TREE_FD_TREE = 3,
        TREE_FD_STREAM = 4,   /* sender only, as all that follow */
        TREE_FD_COUNTERS = 5, /* struct files_counters */
        TREE_FD_PROGRAM = 6,  /* phaul-rsh */
        TREE_FD_CONTROL = 7,  /* one byte: go */
        TREE_FD_ALSO = 8,     /* a file: paths, each ended by NUL */
};

#define TREE_NOTE_DELETED "phaul deleted: "
#define TREE_NOTE_VOID "phaul mark void"

#define TREE_EXIT_OWN 100
