/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "memory/test-tracker.h"
#include "memory/tracker.h"

/* A story has a servant and a tracker of the kind that is set before; to be made and ended around it. */
extern enum tracker_kind kind;
extern struct servant servant;
extern struct tracker *tracker;
int set_up(void **state);
int tear_down(void **state);
#define ask(...) servant_ask(&servant, __VA_ARGS__)
#define STORY(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* Must work. */
void attach_to(pid_t pid);
/* Pages of a range that are clean. */
uint64_t clean_of(pid_t pid, uint64_t start, uint64_t pages);
uint64_t clean(uint64_t start, uint64_t pages);
