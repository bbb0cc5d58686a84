/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory/image_stream.h"

/*
 * Reading the memory of a process while it runs, by /proc/PID/mem. Not by process_vm_readv(): that pins pages, and
 * since Linux 5.19 a page that is shared by copy on write gets a copy for whoever is pinned, so that a family of
 * processes would grow, here, to what it takes without sharing. The one is as fast as the other [measured].
 */

/* A new descriptor, of the address space that the process has now. -ESRCH, or another negative errno. */
int process_memory_open(pid_t pid);

/* As many whole pages as can be read from `vaddr` on, of `size` bytes: 0 when not even the first, or when the address
 * space is no more. Negative errno. */
ssize_t process_memory_read(int fd, uint64_t vaddr, void *to, size_t size);

/* The pages of spans one after the other, as far as they can be read: how many pages, 0 when not even the first.
 * Negative errno. */
ssize_t process_memory_read_spans(int fd, const struct page_span *spans, uint32_t n_spans, void *to);
