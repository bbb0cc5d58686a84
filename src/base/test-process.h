/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* Processes that the tests of this folder work on: children that tell a story and check themselves. */
struct child {
        pid_t pid;
        int out; /* what it says; a byte '+' is the sign that it has begun */
};

/* `story` runs in the child, says "+" when it is ready, and may return (0) or _exit(). It dies with us. */
void start(struct child *child, void (*story)(int out));

/* Its exit status; -1 when a signal killed it. */
int end(struct child *child);
void kill_child(struct child *child);

/* In the child. */
void say(int out, const char *text);

/*
 * One whose threads compute with all kinds of registers, deep stacks and system calls, and compare: until it is ended,
 * with 0 if nothing was ever wrong.
 */
void start_busy(struct child *child);
int end_busy(struct child *child);

/* Entries in its /proc/PID/fd. */
size_t count_descriptors(pid_t pid);
