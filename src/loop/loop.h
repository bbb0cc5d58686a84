/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * A thin layer over sd-event: descriptors, timers, children by pidfd. One loop belongs to one thread. Sources are freed
 * with source_free() (NULL is fine, also from within their own callback); a loop frees none of them.
 * Callbacks return nothing: what went wrong is state of the object that owns them.
 */
struct loop;
struct source;

int loop_new(struct loop **ret);
void loop_free(struct loop *loop);

/* `events` is EPOLLIN, EPOLLOUT, …; the descriptor stays the caller's and must outlive the source. */
typedef void (*loop_io_fn)(int fd, uint32_t events, void *context);
int loop_add_io(struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *context, struct source **ret);
int source_set_events(struct source *source, uint32_t events);

/* Once, `after_ms` from now; source_set_timer() arms it again. */
typedef void (*loop_timer_fn)(void *context);
int loop_add_timer(struct loop *loop, uint64_t after_ms, loop_timer_fn fn, void *context, struct source **ret);
int source_set_timer(struct source *source, uint64_t after_ms);

/* Child of ours: reaped by the loop, then `fn` gets the wait status (as of waitpid()). */
typedef void (*loop_child_fn)(pid_t pid, int status, void *context);
int loop_add_child(struct loop *loop, pid_t pid, loop_child_fn fn, void *context, struct source **ret);

/* The signal must be blocked in all threads; loop_add_signal() blocks it in the calling one. */
typedef void (*loop_signal_fn)(int signal, void *context);
int loop_add_signal(struct loop *loop, int signal, loop_signal_fn fn, void *context, struct source **ret);

void source_free(struct source *source);

/* Wait up to `timeout_ms` (-1: for ever) and dispatch one round. 0, or negative errno. */
int loop_run_once(struct loop *loop, int timeout_ms);

DEFINE_CLEANUP(struct loop, loop_free)
DEFINE_CLEANUP(struct source, source_free)
