/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "haulers/hauler.h"

/*
 * What can be seen of a workload, of any kind, that CRIU cannot carry; and what of two hosts must fit together. Nothing
 * is touched: /proc is read, no task is stopped or traced. docs/preflight.md has every item.
 */

/* What is to be looked at. */
struct preflight_subject {
        pid_t init;         /* root of the tree */
        const char *cgroup; /* directory of its freezer; tasks found there beside the tree are outsiders. May be NULL */
        const char *criu;   /* its version here, for what depends on it; "" when it is not known */
        bool shell_job;     /* its terminal stays, and it gets a new one */
        uint64_t ghost_limit; /* largest deleted file that CRIU takes along, bytes; 0: its default of 1 MiB */
};

/*
 * Look at all tasks and report. It happens in a child that is given `timeout_ms`, because reading /proc may wait for a
 * hung task; when that takes longer the item "tasks" says so, beside what was found until then. Fails only when the
 * child cannot be had.
 */
int preflight_scan(const struct preflight_subject *subject, int timeout_ms, hauler_report_fn report, void *context,
                   struct error *err);

/*
 * What the other host has to know of this one to compare: {arch, kernel, criu, time_ms, cpu: {vendor, model, flags,
 * xsave, xfeatures}}. `criu` is the version, "" when it does not work. New reference; NULL when out of memory.
 */
json_t *preflight_host(const char *criu);

/* Compare the source's preflight_host() with ours, on the target: items cpu, criu, clock. What a peer sent is checked.
 */
void preflight_compare(const json_t *source, const json_t *target, hauler_report_fn report, void *context);

/* The same when nothing is restored, only started: the architecture alone, item cpu. */
void preflight_compare_architecture(const json_t *source, const json_t *target, hauler_report_fn report, void *context);

/* A link as it was measured. */
struct preflight_link {
        uint64_t round_us;         /* there and back */
        uint64_t bytes_per_second; /* through everything: encryption, both hosts */
        uint64_t cap;              /* what the person allows, 0: all of it */
        uint64_t floor_ms;         /* of a downtime without memory, 0: PREFLIGHT_FLOOR_MS */
        bool tracked;              /* memory goes in rounds while the workload runs */
};

/*
 * Item link: the downtime is at least what CRIU takes for an empty container (as it was before, else
 * PREFLIGHT_FLOOR_MS), and the memory over the link where it is moved while frozen.
 */
#define PREFLIGHT_FLOOR_MS 250
void preflight_predict(const struct preflight_link *link, uint64_t memory_bytes, uint64_t file_bytes,
                       hauler_report_fn report, void *context);

/* Ask CRIU itself whether it works (item criu), and what is known of it with this kernel. "" when it does not work. */
void preflight_criu(char ret_version[static 32], hauler_report_fn report, void *context);

/*
 * The known bad pairs of a CRIU and a kernel, which `criu check` does not find. NULL: none is known. Otherwise why not,
 * and what to do; *ret_grade says whether it is certain.
 */
const char *preflight_bad_pair(const char *criu, const char *kernel, enum grade *ret_grade);
