/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"

/*
 * What both ends say to each other before rsync speaks in a FINAL or CHANGED round. rsync alone can send a list of
 * paths, or make a directory equal to another; it cannot do both without reading what did not change. So the sender
 * tells the receiver which names the changed directories now hold, the receiver deletes the others and answers what it
 * lacks, and rsync then sends exactly the list: what changed plus what was asked for.
 *
 *   sender    "phaulC1" mode        mode: 'L' by list, 'C' by checksum (see rsync-args.h)
 *             then for each directory that changed, parents before children:
 *               'D' u16 length, path ("" is the root)
 *               'F' type u8 length, name             fresh: it will be sent
 *               'K' type u8 length, name             kept: unchanged since the mark, at this name all the time
 *               'A' type u8 length, name, attributes unchanged itself, but may have come here with its directory
 *               'E'                                  end of the directory: what was not named is deleted
 *             'Z'
 *   receiver  "phaulR1\n" u64 deleted, u32 n, n times u32   which of the K and A (counted from 0) are wanted, ascending
 *
 * Numbers are big-endian; type is the file type of st_mode >> 12; attributes are u32 mode, u32 uid, u32 gid, u64 size
 * (of devices: the device number), i64 seconds and u32 nanoseconds of mtime, u64 fingerprint.
 *
 * A directory that changed and whose parent changed may have been renamed (a rename changes both parents and gives the
 * directory itself a new ctime), so that everything below it stands at a new path without a new ctime. Such
 * directories are listed to the bottom, with A in place of K (directories among them are simply sent: F).
 */
#define CATALOGUE_HELLO "phaulC1"
#define CATALOGUE_REPLY "phaulR1\n"
#define CATALOGUE_MAGIC 8 /* both, the hello with its mode */
#define CATALOGUE_ASKED_MAX (64U << 20)

enum {
        CATALOGUE_DIR = 'D',
        CATALOGUE_FRESH = 'F',
        CATALOGUE_KEPT = 'K',
        CATALOGUE_ASKED = 'A',
        CATALOGUE_DIR_END = 'E',
        CATALOGUE_END = 'Z',
};

struct catalogue_attributes {
        uint32_t mode, uid, gid;
        uint64_t size;
        int64_t mtime;
        uint32_t mtime_ns;
        uint64_t fingerprint;
};

/* Of an entry of the directory `dir_fd`. Changes the working directory (extended attributes have no *at() calls). */
int catalogue_attributes(int dir_fd, const char *name, const struct statx *st, struct catalogue_attributes *ret);
bool catalogue_same(const struct catalogue_attributes *a, const struct catalogue_attributes *b);

static inline unsigned catalogue_type(uint32_t mode)
{
        return (mode & S_IFMT) >> 12;
}

/* Buffered, blocking. The first failure sticks and shows in error (negative errno); end of file is -ECONNRESET. */
struct catalogue_stream {
        int fd, error;
        size_t start, end;
        uint64_t written;
        bool bounded; /* read no more than `left`: what follows on the descriptor is not ours */
        uint64_t left;
        unsigned char data[1U << 16];
};

void catalogue_put(struct catalogue_stream *s, const void *data, size_t size);
void catalogue_put_number(struct catalogue_stream *s, uint64_t value, size_t bytes);
int catalogue_flush(struct catalogue_stream *s);
int catalogue_get(struct catalogue_stream *s, void *data, size_t size);
uint64_t catalogue_get_number(struct catalogue_stream *s, size_t bytes);

/* Receiver: the whole exchange, on the tree below root_fd. Returns the mode ('L' or 'C'). */
int catalogue_receive(int stream, int root_fd, struct error *err);
