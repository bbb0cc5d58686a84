/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/process_image.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/proc_status.h"
#include "criu/page_server.h"

#define DEPTH_MAX 32 /* of pid namespaces, in Linux */

/* Its pids, from our namespace inwards: ret[0] is what we know it by. How many, or a negative errno. */
static int read_pids(pid_t pid, pid_t *ret, size_t max)
{
        AUTO_FREE char *status = NULL;

        int r = proc_status_read(pid, &status);
        if (r == 0)
                r = proc_status_pids(status, "NSpid", ret, max);
        return r == -EBADMSG || (r > 0 && ret[r - 1] == 0) ? -ESRCH : r;
}

int process_image_depth(pid_t root, size_t *ret)
{
        pid_t pids[DEPTH_MAX + 1];

        int n = read_pids(root, pids, DEPTH_MAX + 1);
        if (n < 0)
                return n;
        *ret = (size_t)n - 1;
        return 0;
}

int process_image_find(pid_t pid, size_t depth, uint64_t *ret)
{
        pid_t pids[DEPTH_MAX + 1];

        int n = read_pids(pid, pids, DEPTH_MAX + 1);
        if (n < 0)
                return n;
        if ((size_t)n <= depth)
                return -ESRCH;
        *ret = PAGE_IMAGE(PAGE_IMAGE_TASK, pids[depth]);
        return 0;
}
