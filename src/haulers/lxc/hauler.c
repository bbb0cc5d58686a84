/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <stdlib.h>

void lxc_done(struct workload *w)
{
        struct lxc_private *p = w->private_data;

        if (!p)
                return;
        json_decref(p->info);
        for (size_t i = 0; i < p->n_strings; i++)
                free(p->strings[i]);
        free(p->strings);
        free(p->roots);
        free(p->mounts);
        free(p->config);
        free(p->lxcpath);
        free(p->base);
        free(p);
        w->private_data = NULL;
}

const struct hauler lxc_hauler = {
        .kind = "lxc",
        .label = "LXC container",
        .list = lxc_list,
        .examine = lxc_examine,
        .dump_options = lxc_dump_options,
        .disarm = lxc_disarm,
        .rearm = lxc_rearm,
        .release = lxc_release,
        .stop = lxc_stop,
        .start = lxc_start,
        .change_free = lxc_change_free,
        .stopped = lxc_stopped,
        .verify = lxc_verify,
        .prepare = lxc_prepare,
        .restore = lxc_restore,
        .ports = lxc_ports,
        .publish = lxc_publish,
        .restore_verdict = lxc_restore_verdict,
        .alive = lxc_alive,
        .gone = lxc_gone,
        .put_down = lxc_put_down,
        .discard = lxc_discard,
        .restore_free = lxc_restore_free,
        .done = lxc_done,
};
