/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"

#define AT(member)                                                                                                     \
        .offset = offsetof(struct migration_options, member), .size = sizeof(((struct migration_options *)0)->member)

static const char *const modes[] = {[MODE_LIVE] = "live", [MODE_RESTART] = "restart", NULL};

static const char *const movers[] = {[MOVE_TREE] = "tree", [MOVE_SHARED] = "shared", NULL};

static const char *const trackers[] = {[TRACKER_WANTED_AUTO] = "auto",
                                       [TRACKER_WANTED_UFFD_WP] = "uffd-wp",
                                       [TRACKER_WANTED_SOFT_DIRTY] = "soft-dirty",
                                       [TRACKER_WANTED_HASH] = "hash",
                                       [TRACKER_WANTED_NONE] = "none",
                                       NULL};

static const char *const diverge[] = {
        [DIVERGE_STOP] = "stop", [DIVERGE_THROTTLE] = "throttle", [DIVERGE_POSTCOPY] = "postcopy", NULL};

const struct option_info migration_option_table[] = {
        {.key = "mode",
         .argument = "MODE",
         .help = "live: it runs on meanwhile; restart: it is stopped here and started there",
         .type = OPTION_WORD,
         .words = modes,
         AT(mode)},
        {.key = "no_start", .help = "with --mode restart: leave it stopped there", .type = OPTION_FLAG, AT(no_start)},
        {.key = "stop_timeout_s",
         .flag = "stop-timeout",
         .argument = "SECONDS",
         .help = "with --mode restart: how long its own shutdown may take before it is killed (60)",
         .type = OPTION_NUMBER,
         .min = 1,
         .max = 86400,
         AT(stop_timeout_s)},
        {.key = "files",
         .argument = "MOVER",
         .help = "tree: copied; shared: both hosts have the same storage there",
         .type = OPTION_WORD,
         .words = movers,
         AT(files)},
        {.key = "tracker",
         .argument = "TRACKER",
         .help = "how written memory is found: auto, uffd-wp, soft-dirty, hash; none: all of it goes while frozen",
         .type = OPTION_WORD,
         .words = trackers,
         AT(tracker)},
        {.key = "max_downtime_ms",
         .flag = "max-downtime",
         .argument = "MS",
         .help = "rounds of memory go on until this is predicted, as long as they help (300)",
         .type = OPTION_NUMBER,
         .min = 1,
         .max = 3600000,
         AT(max_downtime_ms)},
        {.key = "diverge",
         .argument = "WHAT",
         .help = "when rounds help no more, stop: freeze it anyway; throttle: slow it down until they do; postcopy",
         .type = OPTION_WORD,
         .words = diverge,
         AT(diverge)},
        {.key = "postcopy",
         .help = "the last of its memory follows while it runs there; until then it needs both hosts",
         .type = OPTION_FLAG,
         AT(postcopy)},
        {.key = "unshare",
         .help = "resume before memory that parents and children share is in place; each gets its own copy",
         .type = OPTION_FLAG,
         AT(unshare)},
        {.key = "images_dir",
         .argument = "DIR",
         .help = "where images go on both hosts, instead of into memory",
         .type = OPTION_PATH,
         AT(images_dir)},
        {.key = "keep_images",
         .help = "keep images and logs on both hosts until `phaul forget`",
         .type = OPTION_FLAG,
         AT(keep_images)},
        {.key = "force", .help = "what the pre-flight merely judges is a warning", .type = OPTION_FLAG, AT(force)},
        {.key = "skip_cpu_check",
         .help = "go on although the processors differ",
         .type = OPTION_FLAG,
         AT(skip_cpu_check)},
        {.key = "skip_criu_check",
         .help = "do not ask CRIU whether it can work",
         .type = OPTION_FLAG,
         AT(skip_criu_check)},
        {.key = "verbose",
         .help = "print all that is logged, and keep CRIU's own logs",
         .type = OPTION_FLAG,
         AT(verbose)},
        {.key = "timeout_s",
         .flag = "timeout",
         .argument = "SECONDS",
         .help = "give up and go on here when not committed by then",
         .type = OPTION_NUMBER,
         .min = 1,
         .max = 604800,
         AT(timeout_s)},
        {.key = "bandwidth",
         .argument = "RATE",
         .help = "bytes per second, such as 100M",
         .type = OPTION_RATE,
         .min = 1000,
         .max = 1000000000000,
         AT(bandwidth)},
        {.key = "streams",
         .argument = "N",
         .help = "connections side by side for memory, 1 to 8",
         .type = OPTION_NUMBER,
         .min = 1,
         .max = 8,
         AT(streams)},
        {.key = "via",
         .argument = "ADDRESS",
         .help = "another address of the host, for the transfer",
         .type = OPTION_ADDRESS,
         AT(via)},
        {.key = "shell_job",
         .help = "the tree hangs on the terminal of a shell; it gets a new one",
         .type = OPTION_FLAG,
         .kinds = "pid",
         AT(shell_job)},
        {.key = "tcp_close",
         .help = "close established connections instead of keeping them",
         .type = OPTION_FLAG,
         .kinds = "pid",
         AT(tcp_close)},
        {.key = "copy_files",
         .help = "bring files that are missing or different on the target",
         .type = OPTION_FLAG,
         .kinds = "pid",
         AT(copy_files)},
        {.key = "dst_pidfile",
         .argument = "FILE",
         .help = "on the target: where to write the pid when it runs",
         .type = OPTION_PATH,
         .kinds = "pid",
         AT(dst_pidfile)},
        {.key = "pid_root",
         .argument = "DIR",
         .help = "root directory of the tree; all that is in it moves along",
         .type = OPTION_PATH,
         .kinds = "pid",
         AT(pid_root)},
        {.key = "new_pid_namespace",
         .help = "on the target: a pid namespace for the tree, where its pids are free",
         .type = OPTION_FLAG,
         .kinds = "pid",
         AT(new_pid_namespace)},
        {.key = NULL},
};

const char *migration_mode_name(enum migration_mode mode)
{
        return modes[mode];
}

const char *migration_option_flag(const struct option_info *info, char *buffer, size_t size)
{
        (void)snprintf(buffer, size, "%s", info->flag ? info->flag : info->key);
        for (char *p = buffer; *p; p++)
                if (*p == '_')
                        *p = '-';
        return buffer;
}

static const struct option_info *find(const char *key)
{
        for (const struct option_info *info = migration_option_table; info->key; info++)
                if (strcmp(info->key, key) == 0)
                        return info;
        return NULL;
}

/* -- values ------------------------------------------------------------------------------------------------------- */

static bool is_path(const char *text)
{
        if (text[0] != '/' || !utf8_is_valid(text, strlen(text)))
                return false;
        for (const char *p = text; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 0x7f)
                        return false;
        for (const char *part = text; part; part = strchr(part, '/')) {
                part++;
                size_t n = strcspn(part, "/");
                if ((n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
                        return false;
        }
        return true;
}

static bool is_address(const char *text)
{
        unsigned char address[16];

        return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

static int take_number(const struct option_info *info, const json_t *value, void *at, struct error *err)
{
        json_int_t n = json_integer_value(value);

        if (!json_is_integer(value) || n < 0 || (uint64_t)n < info->min || (uint64_t)n > info->max)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is %sa number from %llu to %llu",
                                      info->key, info->type == OPTION_RATE ? "bytes per second, " : "",
                                      (unsigned long long)info->min, (unsigned long long)info->max);
        *(uint64_t *)at = (uint64_t)n;
        return 0;
}

static int take_word(const struct option_info *info, const json_t *value, void *at, struct error *err)
{
        const char *text = json_string_value(value);
        char all[200] = "";

        for (int i = 0; info->words[i]; i++) {
                if (text && strcmp(text, info->words[i]) == 0) {
                        *(int *)at = i;
                        return 0;
                }
                size_t n = strlen(all);
                (void)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "", info->words[i]);
        }
        return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is one of: %s", info->key, all);
}

static int take_text(const struct option_info *info, const json_t *value, void *at, struct error *err)
{
        const char *text = json_string_value(value);
        bool address = info->type == OPTION_ADDRESS;

        if (!text || strlen(text) >= info->size || !(address ? is_address(text) : is_path(text)))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is not %s", info->key,
                                      address ? "a numeric address" : "an absolute path without '.' and '..'");
        (void)snprintf(at, info->size, "%s", text);
        return 0;
}

static int take(const struct option_info *info, const json_t *value, struct migration_options *o, struct error *err)
{
        void *at = (char *)o + info->offset;

        switch (info->type) {
        case OPTION_FLAG:
                if (!json_is_boolean(value))
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is true or false", info->key);
                *(bool *)at = json_is_true(value);
                return 0;
        case OPTION_NUMBER:
        case OPTION_RATE:
                return take_number(info, value, at, err);
        case OPTION_WORD:
                return take_word(info, value, at, err);
        default:
                return take_text(info, value, at, err);
        }
}

static bool is_for(const struct option_info *info, const char *kind)
{
        const size_t n = kind ? strlen(kind) : 0;

        if (!info->kinds || !kind)
                return true;
        for (const char *p = info->kinds; p; p = strchr(p, ' ')) {
                p += *p == ' ';
                if (strncmp(p, kind, n) == 0 && (p[n] == ' ' || p[n] == '\0'))
                        return true;
        }
        return false;
}

int migration_options_parse(const json_t *object, const char *kind, struct migration_options *ret, struct error *err)
{
        struct migration_options o = {0};
        char quoted[96];
        const char *key;
        json_t *value;

        if (object && !json_is_object(object))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "options: not an object");
        json_object_foreach((json_t *)object, key, value)
        {
                const struct option_info *info = find(key);
                if (!info)
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "options: there is no '%s'",
                                              name_quote(key, quoted, sizeof(quoted)));
                if (!is_for(info, kind))
                        return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is not for workloads of kind %s",
                                              key, kind);
                int r = take(info, value, &o, err);
                if (r < 0)
                        return r;
        }
        if (o.mode != MODE_RESTART && (o.no_start || o.stop_timeout_s))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "options: %s is for mode restart only",
                                      o.no_start ? "no_start" : "stop_timeout_s");
        *ret = o;
        return 0;
}

/* -- and back ----------------------------------------------------------------------------------------------------- */

static json_t *value_of(const struct option_info *info, const struct migration_options *o)
{
        const void *at = (const char *)o + info->offset;

        switch (info->type) {
        case OPTION_FLAG:
                return *(const bool *)at ? json_true() : NULL;
        case OPTION_NUMBER:
        case OPTION_RATE:
                return *(const uint64_t *)at ? json_integer((json_int_t) * (const uint64_t *)at) : NULL;
        case OPTION_WORD:
                return *(const int *)at ? json_string(info->words[*(const int *)at]) : NULL;
        default:
                return *(const char *)at ? json_string(at) : NULL;
        }
}

json_t *migration_options_json(const struct migration_options *options)
{
        json_t *object = json_object();

        for (const struct option_info *info = migration_option_table; object && info->key; info++) {
                json_t *value = value_of(info, options);
                if (value && json_object_set_new(object, info->key, value) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}
