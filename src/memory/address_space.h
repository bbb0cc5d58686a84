/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * The memory of another process, as /proc tells it (Documentation/filesystems/proc.rst). All sizes in bytes. Whoever
 * reads a running process sees a moment that may be over.
 */

/* One mapping. */
struct area {
        uint64_t start, end;
        uint64_t device, inode; /* of its file; 0, 0 when there is none */
        bool readable, writable, executable;
        bool private;
        bool special; /* made by the kernel: vdso, vvar, … */
        bool stack;   /* of the first thread */
};

struct address_space {
        struct area *areas; /* by rising address, none over another */
        size_t n, room;
        const char *obstacle; /* a mapping that shows memory being written past the page tables, or NULL; static */
};

static inline bool area_is_file(const struct area *a)
{
        return a->inode != 0;
}

/* -ESRCH when the process is gone or has no memory (a zombie, a kernel thread). */
int address_space_read(pid_t pid, struct address_space *ret, struct error *err);

/* False for one that is gone, or dying so far that its memory is. */
bool process_has_memory(pid_t pid);

/* From the text of /proc/PID/maps; -EBADMSG, -ENOMEM. */
int address_space_parse(const char *maps, struct address_space *ret);
void address_space_done(struct address_space *space);

/* From /proc/PID/status. */
struct process_facts {
        char state;
        pid_t tracer;
        bool seccomp, shadow_stack;
        uint64_t pinned; /* bytes */
};

/* -ESRCH when it is gone or dead. */
int process_facts_read(pid_t pid, struct process_facts *ret, struct error *err);

/* From the text of that file; -EBADMSG. */
int process_facts_parse(const char *status, struct process_facts *ret);
