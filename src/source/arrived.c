/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>

#include "pages/service.h"
#include "source/source.h"

/*
 * A workload that has just come here runs before its memory is in place. Nobody may take that from it meanwhile: what
 * is still to come would be missing in a dump, and read as zeros on the next host.
 */

static bool settled(void *context)
{
        struct session *s = context;
        char directory[sizeof(s->paths.runtime) + 16];

        (void)snprintf(directory, sizeof(directory), "%s/sessions", s->paths.runtime);
        return s->cancel_requested || !page_service_brings(directory, s->workload.init_pid);
}

int source_await_memory(struct session *s, struct error *err)
{
        if (!s->workload.init_pid || settled(s))
                return 0;
        session_log(s, "info", "it has just come here: waiting until its memory is in place");
        int r = session_wait(s, WAIT_THROUGH, settled, s, s->request.options.timeout_s * 1000,
                             "putting the memory of the migration before in place", err);
        if (r == 0 && s->cancel_requested)
                r = error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        return r;
}
