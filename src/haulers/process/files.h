/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "haulers/process/process.h"

/*
 * The files a tree of processes needs: what it has mapped and executes, what it has open, where it stands. CRIU carries
 * none of them; they must be on the target, the same.
 */
enum process_file_use {
        FILE_DIRECTORY = 'd', /* working directory, root, open */
        FILE_OTHER = 'o',     /* device, fifo: only its type counts */
        FILE_READ = 'r',      /* open for reading */
        FILE_CODE = 'c',      /* executed or mapped privately */
        FILE_WRITTEN = 'w',   /* open for writing or mapped shared and writable: changes until the freeze */
};

struct process_file {
        char *path; /* as the host sees it */
        enum process_file_use use;
        mode_t mode;
        uint64_t size;
        char digest[33]; /* of the content; "" not taken */
};

void process_files_done(struct process_files *files);
void process_files_move(struct process_files *to, struct process_files *from);

/* What all processes of the set use, each path once, sorted. What has no name any more is CRIU's business. */
int process_files_collect(const struct process_set *pids, struct process_files *ret, struct error *err);

/* Size and digest of the content; -ENOENT, -EINVAL for what is no regular file. Large files are sampled. */
int process_file_digest(const char *path, uint64_t *ret_size, char ret[static 33]);

/*
 * Into the description: arrays [path, use, size, digest] under "files". `room` bytes are kept: when they do not suffice
 * the digests go first, then the last files. Tells how it went through `f`.
 */
int process_files_describe(const struct process_files *files, json_t *description, size_t room,
                           struct process_findings *f, struct error *err);

/* From a description that came from the other host: everything is checked. */
int process_files_parse(const json_t *description, struct process_files *ret, struct error *err);

/*
 * Target: findings "files" for what is missing or different. With `copy` one finding "copy" per file that is to come,
 * whose text is the path alone; those are in `ret_copies`, which has room for PROCESS_COPIES_MAX. Returns their number.
 */
size_t process_files_verify(const struct process_files *files, bool copy, const struct process_file **ret_copies,
                            struct process_findings *f);
