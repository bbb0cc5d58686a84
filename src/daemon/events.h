/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * The last EVENTS_MAX events, as text of a server-sent stream, and the readers that follow them. Ids only grow, also
 * over a restart (they begin at the wall clock in microseconds), so that a client that comes back with an id of an
 * earlier phauld gets everything that is there.
 */
#define EVENTS_MAX 10000
#define EVENTS_BYTES_MAX (16U << 20)

struct events;

int events_new(uint64_t first_id, size_t max, struct events **ret);
void events_free(struct events *events);
DEFINE_CLEANUP(struct events, events_free)

/* Adds one; takes `data` (an object; NULL counts as out of memory). `migration` (may be NULL) is for filters. */
int events_publish(struct events *events, const char *name, const char *migration, json_t *data);

uint64_t events_last_id(const struct events *events);

/* A reader, at a place of its own. `wake` is called when there is more after a read that gave 0. */
struct event_reader;
int event_reader_new(struct events *events, bool resume, uint64_t last_id, const char *migration, void (*wake)(void *),
                     void *context, struct event_reader **ret);
void event_reader_free(struct event_reader *reader);

/* Up to `size` bytes of stream text; 0: nothing yet. A reader that was overtaken gets an event "gap" first. */
size_t event_reader_read(struct event_reader *reader, char *buffer, size_t size);

/* All waiting readers get a comment, so that dead connections are noticed. */
void events_heartbeat(struct events *events);
