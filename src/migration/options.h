/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * What a person may ask of a migration beyond "this, there". One table says it for all: the API's `options` object, the
 * flags of `phaul migrate`, request.json, and the offer on the wire. Whoever adds an option adds a member here, a row
 * in options.c, a property in docs/openapi.yaml and a line in phaul(1).
 */
enum migration_mode { MODE_LIVE, MODE_RESTART };
enum migration_files { MOVE_TREE, MOVE_SHARED };
enum migration_diverge { DIVERGE_STOP, DIVERGE_THROTTLE, DIVERGE_POSTCOPY };
enum migration_tracker {
        TRACKER_WANTED_AUTO, /* the best of those that are possible */
        TRACKER_WANTED_UFFD_WP,
        TRACKER_WANTED_SOFT_DIRTY,
        TRACKER_WANTED_HASH,
        TRACKER_WANTED_NONE,
};

#define MIGRATION_STOP_TIMEOUT_S 60
#define MIGRATION_MAX_DOWNTIME_MS 300

struct migration_options {
        enum migration_mode mode;
        bool no_start; /* restart: defined there, but left stopped; also set for a workload that is stopped here */
        uint64_t stop_timeout_s; /* restart: how long its own shutdown may take, 0: MIGRATION_STOP_TIMEOUT_S */
        enum migration_files files;
        enum migration_tracker tracker; /* live: of written memory; without one all memory goes while frozen */
        uint64_t max_downtime_ms;       /* live: rounds go on until it is predicted, 0: MIGRATION_MAX_DOWNTIME_MS */
        enum migration_diverge diverge; /* live: what is done when rounds gain nothing and that is not reached */
        bool postcopy;                  /* live: what rounds left stays on the source until it runs on the target */
        char images_dir[160];           /* instead of a private tmpfs, on both hosts; "" for that */
        bool keep_images, verbose, force, skip_cpu_check, skip_criu_check;
        uint64_t bandwidth;     /* bytes per second for memory and files together, 0: no cap */
        uint64_t streams;       /* connections side by side for memory, 0: as many as there are processors, up to 4 */
        uint64_t timeout_s;     /* abort when not committed by then, 0: none */
        char via[64];           /* numeric address to use instead of the paired one, "" for none */
        bool shell_job;         /* the tree belongs to the session and terminal of a shell outside of it */
        bool tcp_close;         /* established connections are closed, not kept */
        bool copy_files;        /* files that are missing or different on the target are brought there */
        char dst_pidfile[1024]; /* file on the target for the pid, "" for none */
        char pid_root[1024];    /* root directory of the tree's processes, whose files travel; "" for the host's own */
        bool unshare; /* memory shared by copy on write comes late on the target, too, and is shared no more */
        bool new_pid_namespace; /* on the target the tree gets a pid namespace, where its pids are free */
};

enum option_type {
        OPTION_FLAG,    /* bool */
        OPTION_NUMBER,  /* uint64_t from min to max */
        OPTION_RATE,    /* the same, bytes per second; people may write 100M */
        OPTION_WORD,    /* int: the place in `words` */
        OPTION_ADDRESS, /* char[]: numeric IPv4 or IPv6 */
        OPTION_PATH,    /* char[]: absolute, without "." and ".." and control characters */
};

struct option_info {
        const char *key;      /* in JSON; with '-' for '_' the flag of the command line, unless `flag` is set */
        const char *flag;     /* without dashes */
        const char *argument; /* "SECONDS"; NULL for a flag */
        const char *help;     /* one line for people */
        enum option_type type;
        uint64_t min, max;
        const char *const *words; /* NULL-terminated */
        const char *kinds;        /* kinds it makes sense for, "lxc pid"; NULL: all */
        size_t offset, size;      /* of the member */
};

/* All options, ended by a NULL key. */
extern const struct option_info migration_option_table[];

/* The flag of the command line, without dashes: "timeout", "no-start". Returns `buffer`. */
const char *migration_option_flag(const struct option_info *info, char *buffer, size_t size);

/*
 * From the API's object (NULL: none). Everything is checked: a key that is not known, not for this kind (NULL: any), or
 * a value out of range is ERROR_USAGE, and *ret is untouched.
 */
int migration_options_parse(const json_t *object, const char *kind, struct migration_options *ret, struct error *err);

/* May memory stay on the source until it runs on the target? */
static inline bool migration_options_postcopy(const struct migration_options *options)
{
        return options->mode == MODE_LIVE && (options->postcopy || options->diverge == DIVERGE_POSTCOPY);
}

/* The object again, without what is as by default. New reference; NULL when out of memory. */
json_t *migration_options_json(const struct migration_options *options);

const char *migration_mode_name(enum migration_mode mode);
