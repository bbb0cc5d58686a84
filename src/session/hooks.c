/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/hooks.h"

void session_hooks(struct session *s, enum network_event event)
{
        const bool source = s->request.side == SIDE_SOURCE;
        const struct network_hook_context context = {
                .kind = s->request.kind,
                .id = s->request.id,
                .name = source ? s->request.name : s->request.target_name,
                .peer = s->request.peer,
                /* one in the host's network has no addresses of its own */
                .pid = s->hauler && s->hauler->ports ? s->workload.init_pid : 0,
                .addresses = s->workload.addresses,
                .directory = s->paths.hooks,
                .actions = (const char *const *)s->actions,
        };
        struct error err = {0};

        if (network_hooks(event, &context, &err) < 0)
                session_log(s, "warning", "%s", err.text);
}
