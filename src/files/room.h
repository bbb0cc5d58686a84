/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/*
 * Confinement of one process that handles a tree (and of all it executes): a mount namespace whose root holds nothing
 * but /usr (read-only), the tree at /tree, and a program at /phaul-rsh; no network; no way to gain privileges, to
 * mount, to trace, to open a device. For both ends: the receiver because what it does is told by a peer, the sender
 * because it reads what a workload wrote and parses what a peer answers.
 *
 * Capabilities that stay are those rsync needs to give any inode its attributes: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH,
 * FOWNER, FSETID, MKNOD, SETFCAP, and SYS_ADMIN, without which trusted.* attributes (overlay upper directories) can
 * neither be read nor set. What SYS_ADMIN would allow beyond that (mount, setns, bpf, …) is refused by a seccomp
 * filter, and so is making sockets. Devices made in the tree cannot be opened there: its mount is nodev.
 *
 * The sender keeps only DAC_READ_SEARCH and SYS_ADMIN.
 */
struct room_options {
        int tree_fd;    /* any descriptor of the directory */
        int program_fd; /* appears as /phaul-rsh; -1: none */
        bool writable;  /* the tree; also selects the capabilities */
        bool hurry; /* sleeping returns at once: at its end rsync polls its children in naps of 20 ms, twice in a row
                       between two hosts, while a workload stands still */
};

/* For the whole process, which must have one thread. Root is / and the working directory afterwards. */
int room_enter(const struct room_options *options, struct error *err);

#define ROOM_TREE_NAME "tree"
#define ROOM_PROGRAM_NAME "phaul-rsh"
#define ROOM_TREE "/" ROOM_TREE_NAME
#define ROOM_PROGRAM "/" ROOM_PROGRAM_NAME
