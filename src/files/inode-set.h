/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* A set of inodes, to see the names of one file as one. Zero-initialised is empty. */
struct inode_key {
        uint64_t inode;
        uint64_t device;
};

struct inode_set {
        struct inode_key *slots; /* inode 0 is free */
        size_t used, size;
};

struct inode_key inode_key_of(const struct statx *st);

/* 1 when it is new, 0 when it was there, -ENOMEM. */
int inode_set_add(struct inode_set *set, struct inode_key key);
bool inode_set_has(const struct inode_set *set, struct inode_key key);
void inode_set_clear(struct inode_set *set);
