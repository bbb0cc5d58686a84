/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"

#define STATE_MS 2000
#define CONFIG_MAX (1 << 20)

/* /proc/PID/cgroup as it looks from within the cgroup namespace of `pid`: relative to the payload's own directories. */
static char *cgroups_from_inside(pid_t pid)
{
        char path[64];
        char *text = NULL;

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/cgroup", (int)pid);
        AUTO_FD int theirs = open(path, O_RDONLY | O_CLOEXEC);
        AUTO_FD int ours = open("/proc/self/ns/cgroup", O_RDONLY | O_CLOEXEC);
        if (theirs < 0 || ours < 0 || setns(theirs, CLONE_NEWCGROUP) < 0)
                return NULL;
        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        if (fd_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
                text = NULL;
        if (setns(ours, CLONE_NEWCGROUP) < 0) {
                free(text);
                return NULL;
        }
        return text;
}

/* "N:controllers:path" -> controllers and path, within `line`. */
static bool split_line(char *line, char **ret_controllers, char **ret_path)
{
        char *first = strchr(line, ':');
        char *second = first ? strchr(first + 1, ':') : NULL;

        if (!second)
                return false;
        *second = '\0';
        *ret_controllers = first + 1;
        *ret_path = second + 1;
        return true;
}

/*
 * The payload's directory in every hierarchy. Init may sit below it (systemd makes init.scope): the part of the path
 * that init sees itself is cut off the end.
 */
static json_t *describe_cgroups(pid_t pid)
{
        char path[64];
        AUTO_FREE char *outside = NULL;
        json_t *list = json_array();
        char *save_out = NULL, *save_in = NULL;

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        AUTO_FREE char *inside = cgroups_from_inside(pid);
        if (!inside || fd_read_file(AT_FDCWD, path, 65536, &outside, NULL) < 0)
                return list;
        char *out = strtok_r(outside, "\n", &save_out);
        char *in = strtok_r(inside, "\n", &save_in);
        for (; out && in && list; out = strtok_r(NULL, "\n", &save_out), in = strtok_r(NULL, "\n", &save_in)) {
                char *controllers, *full, *same, *below;

                if (!split_line(out, &controllers, &full) || !split_line(in, &same, &below) ||
                    strcmp(controllers, same) != 0)
                        continue;
                size_t n = strlen(full), m = strlen(below);
                if (strcmp(below, "/") != 0 && m < n && strcmp(full + n - m, below) == 0)
                        full[n - m] = '\0';
                /* A hierarchy that liblxc does not use has everything at its root. */
                if (strcmp(full, "/") == 0)
                        continue;
                (void)json_array_append_new(list, json_pack("{ss ss}", "controllers", controllers, "path", full));
        }
        return list;
}

static json_t *describe_includes(const char *config)
{
        json_t *list = json_array();
        AUTO_FREE char *copy = strdup(config);
        char *save = NULL;

        for (char *line = copy ? strtok_r(copy, "\n", &save) : NULL; line && list; line = strtok_r(NULL, "\n", &save)) {
                char value[4096];
                if (sscanf(line, " lxc.include = %4095[^\n]", value) == 1)
                        (void)json_array_append_new(list, json_string(value));
        }
        return list;
}

int verb_inspect(int argc, char **argv, json_t **ret, struct error *err)
{
        AUTO_FREE char *file = NULL, *config = NULL;

        (void)argc;
        if (!name_is_valid(argv[0]))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        struct lxc_container *c = lxc_container_new(argv[0], lxc_path());
        if (!c)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "liblxc cannot read the configuration of '%s'",
                                      argv[0]);
        int r = 0;
        if (!c->is_defined(c))
                r = error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no container '%s' in %s", argv[0],
                                   lxc_path());
        file = r == 0 ? c->config_file_name(c) : NULL;
        if (r == 0) {
                r = file ? fd_read_file(AT_FDCWD, file, CONFIG_MAX, &config, NULL) : -ENOMEM;
                if (r < 0)
                        r = error_errno(err, -r, "cannot read the configuration of '%s'", argv[0]);
        }
        json_t *answer = r == 0 ? guarded(STATE_MS, ask_state, argv[0]) : NULL;
        if (r == 0 && !answer)
                r = error_set_kind(err, ERROR_REFUSED, ETIMEDOUT, "the monitor of '%s' does not answer", argv[0]);
        if (r == 0) {
                pid_t pid = (pid_t)json_integer_value(json_object_get(answer, "init_pid"));

                r |= json_object_set_new(answer, "version", json_string(lxc_get_version()));
                r |= json_object_set_new(answer, "lxcpath", json_string(lxc_path()));
                r |= json_object_set_new(answer, "config", json_string(config));
                r |= json_object_set_new(answer, "includes", describe_includes(config));
                r |= json_object_set_new(answer, "cgroups", pid > 0 ? describe_cgroups(pid) : json_array());
                if (r)
                        r = error_set_kind(err, ERROR_REFUSED, EINVAL, "the configuration of '%s' is not valid UTF-8",
                                           argv[0]);
        }
        if (r == 0)
                r = describe_config(c, answer, err);
        (void)lxc_container_put(c);
        if (r < 0)
                json_decref(answer);
        else
                *ret = answer;
        return r;
}
