/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-lxc VERB …: what needs liblxc, in a process of its own, so that hosts without LXC need nothing and the monitor
 * that liblxc forks on a restore inherits neither memory nor descriptors of a session. The answer is one JSON document
 * on standard output; a failure is {"error": text, "kind": word} with the exit code of its kind.
 */

#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

static const struct verb {
        const char *name;
        verb_fn fn;
        int least, most; /* number of arguments */
        const char *usage;
} verbs[] = {
        {"list", verb_list, 0, 0, ""},
        {"path", verb_path, 0, 0, ""},
        {"state", verb_state, 1, 1, "NAME"},
        {"inspect", verb_inspect, 1, 1, "NAME"},
        {"verify", verb_verify, 2, 2, "CONFIG NAME"},
        {"stop", verb_stop, 3, 3, "NAME CONFIG SECONDS"},
        {"start", verb_start, 1, 2, "NAME [LOG]"},
        {"restore", verb_restore, 7, 64,
         "NAME LXCPATH CONFIG IMAGES HOLD-PROGRAM HOLD-SOCKET RECORD [veth:N=NAME | overlay:LOWER:UPPER:WORK]…"},
};

const char *lxc_path(void)
{
        const char *path = lxc_get_global_config_item("lxc.lxcpath");

        return path ? path : "/var/lib/lxc";
}

int verb_path(int argc, char **argv, json_t **ret, struct error *err)
{
        const char *pattern = lxc_get_global_config_item("lxc.cgroup.pattern");

        (void)argc;
        (void)argv;
        *ret = json_pack("{ss ss ss}", "lxcpath", lxc_path(), "version", lxc_get_version(), "cgroup_pattern",
                         pattern ? pattern : "");
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int fail(const struct error *err)
{
        json_t *object = json_pack("{ss ss}", "error", err->text, "kind", error_kind_name(err->kind));

        if (object)
                (void)json_dumpf(object, stdout, JSON_COMPACT);
        (void)putchar('\n');
        json_decref(object);
        return error_exit_code(err->kind);
}

int main(int argc, char **argv)
{
        const struct verb *verb = NULL;
        struct error err = {0};
        json_t *answer = NULL;

        for (size_t i = 0; argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++)
                if (strcmp(argv[1], verbs[i].name) == 0)
                        verb = &verbs[i];
        if (!verb || argc - 2 < verb->least || argc - 2 > verb->most) {
                (void)error_set_kind(&err, ERROR_USAGE, EINVAL, "usage: phaul-lxc %s",
                                     verb ? verb->name : "list|path|state|inspect|verify|stop|start|restore …");
                if (verb)
                        (void)snprintf(err.text + strlen(err.text), sizeof(err.text) - strlen(err.text), " %s",
                                       verb->usage);
                return fail(&err);
        }
        if (geteuid() != 0) {
                (void)error_set_kind(&err, ERROR_DENIED, EPERM, "phaul-lxc must be run by root");
                return fail(&err);
        }
        if (verb->fn(argc - 2, argv + 2, &answer, &err) < 0)
                return fail(&err);
        int r = json_dumpf(answer, stdout, JSON_COMPACT);
        json_decref(answer);
        return r == 0 && putchar('\n') != EOF && fflush(stdout) == 0 ? 0 : 1;
}
