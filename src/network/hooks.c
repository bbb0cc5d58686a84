/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "network/network.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/spawn.h"
#include "network/hooks.h"

#define HOOKS_DIRECTORY PHAUL_SYSCONFDIR "/phaul/hooks.d"
#define HOOK_TIMEOUT_MS 10000
#define HOOK_OUTPUT_MAX 1000
#define HOOKS_MAX 256

const char *network_event_name(enum network_event event)
{
        switch (event) {
        case NETWORK_ARRIVING:
                return "arriving";
        case NETWORK_DISCARDED:
                return "discarded";
        case NETWORK_LEAVING:
                return "leaving";
        case NETWORK_ARRIVED:
                return "arrived";
        case NETWORK_STAYED:
                return "stayed";
        }
        return "unknown";
}

/* The first failure is kept, the others only counted: none of them stops anything. */
struct failures {
        struct error *err;
        int code;
        unsigned n;
};

static void failed(struct failures *failures, int code, const struct error *what)
{
        if (failures->n++ == 0) {
                failures->code = code;
                if (failures->err)
                        *failures->err = *what;
        }
}

/* As run-parts does: editors' and packages' leftovers have other characters in their names. */
static bool name_is_hook(const char *name)
{
        if (!isalnum((unsigned char)name[0]))
                return false;
        for (const char *p = name; *p; p++)
                if (!isalnum((unsigned char)*p) && !strchr("_-", *p))
                        return false;
        return true;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool only_root_writes(const struct stat *st)
{
        return st->st_uid == 0 && !(st->st_mode & S_IWOTH) && (!(st->st_mode & S_IWGRP) || st->st_gid == 0);
}

static void run_program(const char *directory, int dir_fd, const char *name, const char *const *env,
                        struct failures *failures)
{
        struct error err = {0};
        struct stat st;

        AUTO_FREE char *path = NULL;
        if (asprintf(&path, "%s/%s", directory, name) < 0) {
                path = NULL;
                failed(failures, error_set(&err, ENOMEM, "out of memory"), &err);
                return;
        }
        if (fstatat(dir_fd, name, &st, 0) < 0) {
                failed(failures, error_errno(&err, errno, "hook %s", path), &err);
                return;
        }
        if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
                return;
        if (!only_root_writes(&st)) {
                failed(failures, error_set(&err, EPERM, "hook %s was not run: others than root may change it", path),
                       &err);
                return;
        }

        const char *argv[] = {path, NULL};
        const struct spawn_options options = {.argv = argv, .env = env, .merge_stderr = true, .new_session = true};
        AUTO_FREE char *output = NULL;
        int r = spawn_capture(&options, HOOK_TIMEOUT_MS, HOOK_OUTPUT_MAX, &output, &err);
        if (r > 0) {
                output[strcspn(output, "\n")] = '\0';
                r = error_set(&err, EIO, "hook %s ended with %d%s%s", path, r, output[0] ? ": " : "", output);
        }
        if (r < 0)
                failed(failures, r, &err);
}

static void run_directory(const char *directory, const char *const *env, struct failures *failures)
{
        char *names[HOOKS_MAX];
        size_t n = 0;
        struct error err = {0};
        struct dirent *entry;
        struct stat st;

        AUTO_DIR DIR *dir = opendir(directory);
        if (!dir) {
                if (errno != ENOENT)
                        failed(failures, error_errno(&err, errno, "hooks in %s", directory), &err);
                return;
        }
        if (fstat(dirfd(dir), &st) < 0 || !only_root_writes(&st)) {
                failed(failures, error_set(&err, EPERM, "no hook was run: others than root may write to %s", directory),
                       &err);
                return;
        }
        while (n < HOOKS_MAX && (entry = readdir(dir)))
                if (name_is_hook(entry->d_name) && (names[n] = strdup(entry->d_name)))
                        n++;
        qsort(names, n, sizeof(names[0]), by_name);
        for (size_t i = 0; i < n; i++) {
                run_program(directory, dirfd(dir), names[i], env, failures);
                free(names[i]);
        }
}

static void run_action(enum network_event event, const char *action, struct failures *failures)
{
        struct error err = {0};
        const char *argument = strchr(action, ':');
        int r;

        if (strncmp(action, "ucarp:", 6) == 0 && argument[1])
                r = hook_ucarp(event, argument + 1, &err);
        else if (strncmp(action, "keepalived:", 11) == 0 && argument[1])
                r = hook_keepalived(event, argument + 1, HOOK_KEEPALIVED_DIRECTORY, &err);
        else
                r = error_set(&err, EINVAL, "hook action '%.64s' is not known", action);
        if (r < 0)
                failed(failures, r, &err);
}

static bool put(char **env, size_t *n, const char *name, const char *value)
{
        char *text;

        if (asprintf(&text, "PHAUL_%s=%s", name, value ? value : "") < 0)
                return false;
        env[(*n)++] = text;
        return true;
}

static bool on_target(enum network_event event)
{
        return event == NETWORK_ARRIVING || event == NETWORK_ARRIVED || event == NETWORK_DISCARDED;
}

int network_hooks(enum network_event event, const struct network_hook_context *context, struct error *err)
{
        struct failures failures = {.err = err};
        AUTO_FREE char *addresses = NULL;
        char *env[8] = {0};
        size_t n = 0;

        /* Virtual addresses are given up and taken over at the switchover, not before. */
        const bool switches = event != NETWORK_ARRIVING && event != NETWORK_DISCARDED;
        for (size_t i = 0; switches && context->actions && context->actions[i]; i++)
                run_action(event, context->actions[i], &failures);

        if (!context->addresses && context->pid > 0) /* a workload in the host's own network has none of its own */
                (void)network_addresses(context->pid, &addresses, NULL);
        if (put(env, &n, "EVENT", network_event_name(event)) && put(env, &n, "KIND", context->kind) &&
            put(env, &n, "ID", context->id) && put(env, &n, "NAME", context->name) &&
            put(env, &n, "PEER", context->peer) && put(env, &n, "SIDE", on_target(event) ? "target" : "source") &&
            put(env, &n, "ADDRESSES", context->addresses ? context->addresses : addresses))
                run_directory(context->directory ? context->directory : HOOKS_DIRECTORY, (const char *const *)env,
                              &failures);
        else
                failures.code = error_set(err, ENOMEM, "hooks: out of memory");
        for (size_t i = 0; i < n; i++)
                free(env[i]);

        if (failures.n > 1)
                return error_wrap(err, "%u hooks failed, the first", failures.n);
        return failures.code;
}
