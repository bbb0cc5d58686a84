/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

#define REQUEST_MAX 65536
#define ACTIONS_MAX 16
#define FLOOR_MAX_MS (24ULL * 3600 * 1000)

static int copy_text(const json_t *object, const char *key, char *ret, size_t size, const char *standard)
{
        const char *text = json_string_value(json_object_get(object, key)) ?: standard;

        return text && snprintf(ret, size, "%s", text) < (int)size ? 0 : -EINVAL;
}

static int parse_actions(const json_t *list, char ***ret)
{
        size_t n = json_array_size(list);

        if (n > ACTIONS_MAX)
                return -E2BIG;
        char **actions = calloc(n + 1, sizeof(*actions));
        if (!actions)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const char *text = json_string_value(json_array_get(list, i));
                actions[i] = text ? strdup(text) : NULL;
                if (!actions[i]) {
                        for (size_t k = 0; k < i; k++)
                                free(actions[k]);
                        free(actions);
                        return text ? -ENOMEM : -EINVAL;
                }
        }
        *ret = actions;
        return 0;
}

static int parse(const json_t *o, struct session_request *r, struct session_places *places, char ***ret_actions)
{
        char side[16], mode[16], host[NAME_MAX_LENGTH + 1] = "";
        int bad = 0;

        (void)gethostname(host, sizeof(host) - 1);
        bad |= copy_text(o, "id", r->id, sizeof(r->id), NULL);
        bad |= copy_text(o, "side", side, sizeof(side), NULL);
        /* On the target the offer brings these. */
        bool source = strcmp(side, "source") == 0;
        bad |= copy_text(o, "kind", r->kind, sizeof(r->kind), source ? NULL : "");
        bad |= copy_text(o, "name", r->name, sizeof(r->name), source ? NULL : "");
        bad |= copy_text(o, "target_name", r->target_name, sizeof(r->target_name), r->name);
        bad |= copy_text(o, "peer", r->peer, sizeof(r->peer), NULL);
        bad |= copy_text(o, "self", r->self, sizeof(r->self), host);
        bad |= way_parse(o, source, &r->way);
        const bool unknown = r->way.kind == WAY_SSH || r->way.kind == WAY_DESCRIPTORS;
        bad |= copy_text(o, "peer_fingerprint", r->peer_fingerprint, sizeof(r->peer_fingerprint), unknown ? "" : NULL);
        bad |= copy_text(o, "mode", mode, sizeof(mode), "live");
        bad |= copy_text(o, "runtime_dir", places->runtime, sizeof(places->runtime), "/run/phaul");
        bad |= copy_text(o, "config_dir", places->configuration, sizeof(places->configuration),
                         PHAUL_SYSCONFDIR "/phaul");
        bad |= copy_text(o, "state_dir", places->state, sizeof(places->state), "/var/lib/phaul");
        bad |= copy_text(o, "hook_directory", places->hooks, sizeof(places->hooks), "");
        bad |= copy_text(o, "libexec_dir", places->libexec, sizeof(places->libexec), PHAUL_LIBEXECDIR);
        r->floor_ms = (uint64_t)json_integer_value(json_object_get(o, "floor_ms"));
        bad |= migration_options_parse(json_object_get(o, "options"), source ? r->kind : NULL, &r->options, NULL);
        if (bad || r->floor_ms > FLOOR_MAX_MS || !id_is_valid(r->id) || !name_is_valid(r->peer) ||
            strlen(r->peer_fingerprint) != (unknown ? 0 : FINGERPRINT_LENGTH))
                return -EINVAL;
        if (source && (!kind_is_valid(r->kind) || !name_is_valid(r->name) || !name_is_valid(r->target_name)))
                return -EINVAL;
        if (!source && strcmp(side, "target") != 0)
                return -EINVAL;
        r->side = source ? SIDE_SOURCE : SIDE_TARGET;
        r->check_only = strcmp(mode, "check") == 0;
        return parse_actions(json_object_get(o, "actions"), ret_actions);
}

int request_read(const char *directory, struct session_request *ret, struct session_places *ret_places,
                 char ***ret_actions, struct error *err)
{
        AUTO_FREE char *text = NULL;
        size_t size;
        char path[600];

        if (snprintf(path, sizeof(path), "%s/request.json", directory) >= (int)sizeof(path))
                return error_set(err, ENAMETOOLONG, "the path of the migration is too long");
        int r = fd_read_file(AT_FDCWD, path, REQUEST_MAX, &text, &size);
        if (r < 0)
                return error_errno(err, -r, "cannot read %s", path);
        json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
        r = json_is_object(object) ? parse(object, ret, ret_places, ret_actions) : -EINVAL;
        json_decref(object);
        return r < 0 ? error_set(err, -r, "%s is not a valid request", path) : 0;
}
