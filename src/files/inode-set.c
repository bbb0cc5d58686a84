/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/inode-set.h"

#include <errno.h>
#include <stdlib.h>

struct inode_key inode_key_of(const struct statx *st)
{
        return (struct inode_key){
                .inode = st->stx_ino,
                .device = (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor,
        };
}

/* The slot that holds the key, or the free one where it would go. The table always has a free slot. */
static size_t find(const struct inode_set *set, struct inode_key key)
{
        uint64_t hash = (key.inode ^ key.device * 31) * UINT64_C(0x9E3779B97F4A7C15);
        size_t at = (size_t)(hash >> 20) & (set->size - 1);

        while (set->slots[at].inode && (set->slots[at].inode != key.inode || set->slots[at].device != key.device))
                at = (at + 1) & (set->size - 1);
        return at;
}

static int grow(struct inode_set *set)
{
        struct inode_set larger = {.used = set->used, .size = set->size ? set->size * 2 : 256};

        larger.slots = calloc(larger.size, sizeof(*larger.slots));
        if (!larger.slots)
                return -ENOMEM;
        for (size_t i = 0; i < set->size; i++)
                if (set->slots[i].inode)
                        larger.slots[find(&larger, set->slots[i])] = set->slots[i];
        free(set->slots);
        *set = larger;
        return 0;
}

int inode_set_add(struct inode_set *set, struct inode_key key)
{
        if (key.inode == 0)
                return 1;
        if (set->used * 2 >= set->size && grow(set) < 0)
                return -ENOMEM;
        size_t at = find(set, key);
        if (set->slots[at].inode)
                return 0;
        set->slots[at] = key;
        set->used++;
        return 1;
}

bool inode_set_has(const struct inode_set *set, struct inode_key key)
{
        return set->size && key.inode && set->slots[find(set, key)].inode;
}

void inode_set_clear(struct inode_set *set)
{
        free(set->slots);
        *set = (struct inode_set){0};
}
