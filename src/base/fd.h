/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Descriptors: whole reads and writes, flags, and passing them over Unix sockets. All calls retry on EINTR. */

/* Write all `size` bytes of a blocking descriptor; 0 or negative errno. */
int fd_write_all(int fd, const void *data, size_t size);

/* Read until `size` bytes or end of file; the number read, or negative errno. */
ssize_t fd_read_full(int fd, void *data, size_t size);

/* The same, but no longer than until `deadline_ms` (clock_ms()): -ETIMEDOUT then. */
ssize_t fd_read_until(int fd, void *data, size_t size, uint64_t deadline_ms);

/*
 * Open an existing file to read it; -EINVAL for what is not a regular one: no link is followed, no FIFO waited for.
 * *ret_size may be NULL. The descriptor is close-on-exec.
 */
int fd_open_regular(int dir_fd, const char *path, off_t *ret_size);

/* A whole file as a NUL-terminated string of at most `limit` bytes (-EFBIG beyond). Caller frees *ret. */
int fd_read_file(int dir_fd, const char *path, size_t limit, char **ret, size_t *ret_size);

/* Replace `path` in one step: written beside it, fsynced, renamed, directory fsynced. */
int fd_write_file(int dir_fd, const char *path, const void *data, size_t size, mode_t mode);

int fd_nonblock(int fd);
int fd_cloexec(int fd, bool on);

/*
 * Move a descriptor that is kept for long to a number above the soft limit on them, as far as the hard one allows: many
 * of its kind then leave the others theirs. Takes `fd` over and returns it or its new number (close-on-exec). The limit
 * is raised for that moment only: whoever is started inherits what it was.
 */
int fd_lift(int fd);

/*
 * Whether a descriptor that is kept for long, after fd_lift(), takes the place of what else is to be opened: no more
 * than FD_RESERVE numbers are left above it.
 */
#define FD_RESERVE 256
bool fd_is_scarce(int fd);

/* One packet of a SEQPACKET socket with at most one descriptor (-1 for none). */
ssize_t fd_send_packet(int socket, const void *data, size_t size, int pass_fd);

/* Receives one packet; *ret_fd is a new close-on-exec descriptor or -1. 0 is end of file; -EMSGSIZE if it did not fit.
 */
ssize_t fd_recv_packet(int socket, void *data, size_t size, int *ret_fd);

/* mkdir of each missing component, mode 0700 unless given otherwise. */
int fd_mkdir_p(const char *path, mode_t mode);

/* Remove a tree without following links; what is mounted in it, or on it, is left alone (-EXDEV). ENOENT is success. */
int fd_remove_tree(int dir_fd, const char *path, struct error *err);
