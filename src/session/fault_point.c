/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/fault_point.h"

#include <stdio.h>
#include <unistd.h>

#define WAIT_MS 180000

static bool released(void *context)
{
        return access(context, F_OK) < 0;
}

static void name_file(const struct session *s, const char *place, char ret[static 400])
{
        (void)snprintf(ret, 400, "%s/faults/%s-%s", s->paths.runtime,
                       s->request.side == SIDE_SOURCE ? "source" : "target", place);
}

bool fault_is_wanted(const struct session *s, const char *place)
{
        char path[400];

        name_file(s, place, path);
        return access(path, F_OK) == 0;
}

void fault_point(struct session *s, const char *place)
{
        char path[400];

        name_file(s, place, path);
        if (released(path))
                return;
        (void)session_wait(s, WAIT_INTERRUPTIBLE, released, path, WAIT_MS, "a fault point", NULL);
}
