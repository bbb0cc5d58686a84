/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/fault_point.h"

#include <stdio.h>
#include <unistd.h>

#define WAIT_MS 60000

static bool released(void *context)
{
        return access(context, F_OK) < 0;
}

void fault_point(struct session *s, const char *place)
{
        char path[400];

        (void)snprintf(path, sizeof(path), "%s/faults/%s-%s", s->paths.runtime,
                       s->request.side == SIDE_SOURCE ? "source" : "target", place);
        if (released(path))
                return;
        (void)session_wait(s, WAIT_INTERRUPTIBLE, released, path, WAIT_MS, "a fault point", NULL);
}
