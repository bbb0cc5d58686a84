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
                .pid = s->workload.init_pid,
                .directory = s->paths.hooks,
                .actions = (const char *const *)s->actions,
        };
        struct error err = {0};

        if (network_hooks(event, &context, &err) < 0)
                session_log(s, "warning", "%s", err.text);
}
