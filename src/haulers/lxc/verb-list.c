/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/name.h"

#define QUERY_MS 1000
#define TOTAL_MS 4000

static json_t *list_names(void *context)
{
        char **names = NULL;
        json_t *list = json_array();

        (void)context;
        int n = list_all_containers(lxc_path(), &names, NULL);
        for (int i = 0; i < n; i++)
                if (list)
                        (void)json_array_append_new(list, json_string(names[i]));
        return list;
}

/* All of one container; the part that only reads files comes first in liblxc, the monitor is asked last. */
static json_t *query(void *name)
{
        json_t *answer = ask_state(name);
        struct lxc_container *c = answer ? lxc_container_new(name, lxc_path()) : NULL;

        if (!c)
                return answer;
        AUTO_FREE char *autostart = item(c, "lxc.start.auto");
        json_t *rootfs = describe_rootfs(c);
        (void)json_object_set_new(answer, "autostart", json_boolean(autostart && strcmp(autostart, "1") == 0));
        (void)json_object_set_new(answer, "defined", json_boolean(c->is_defined(c)));
        (void)json_object_set(answer, "rootfs", json_object_get(rootfs, "path"));
        (void)json_object_set(answer, "backing", json_object_get(rootfs, "backing"));
        json_decref(rootfs);
        return answer;
}

int verb_list(int argc, char **argv, json_t **ret, struct error *err)
{
        uint64_t deadline = clock_ms() + TOTAL_MS;
        json_t *names, *name, *list = json_array();
        size_t i;

        (void)argc;
        (void)argv;
        names = guarded(QUERY_MS, list_names, NULL);
        if (!names || !list) {
                json_decref(list);
                json_decref(names);
                return error_set(err, EIO, "cannot list the containers in %s", lxc_path());
        }
        json_array_foreach(names, i, name)
        {
                char id[256];
                uint64_t now = clock_ms();
                json_t *entry = NULL;

                if (!name_is_valid(json_string_value(name)))
                        continue;
                (void)snprintf(id, sizeof(id), "%s", json_string_value(name));
                if (now < deadline)
                        entry = guarded(deadline - now < QUERY_MS ? (int)(deadline - now) : QUERY_MS, query, id);
                if (!entry)
                        entry = json_pack("{ss ss si}", "id", id, "state", "unknown", "init_pid", 0);
                (void)json_array_append_new(list, entry);
        }
        json_decref(names);
        *ret = list;
        return 0;
}

int verb_state(int argc, char **argv, json_t **ret, struct error *err)
{
        (void)argc;
        if (!name_is_valid(argv[0]))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        json_t *answer = guarded(QUERY_MS, ask_state, argv[0]);
        if (!answer)
                answer = json_pack("{ss ss si}", "id", argv[0], "state", "unknown", "init_pid", 0);
        if (!answer)
                return error_set(err, ENOMEM, "out of memory");
        *ret = answer;
        return 0;
}
