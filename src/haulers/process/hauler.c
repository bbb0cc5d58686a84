/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/connections.h"
#include "haulers/process/copy.h"

#include <errno.h>

/* A process tree of the host itself; see process.h. Its network is the host's: it has no ports. */
const struct hauler process_hauler = {
        .kind = "pid",
        .label = "process tree",
        .list = process_list,
        .examine = process_examine,
        .agreed = process_agreed,
        .gather = process_gather,
        .limit = process_limit,
        .dumped = process_dumped,
        .dump_options = process_dump_options,
        .network_lock = process_network_lock,
        .frozen = process_frozen,
        .disarm = process_disarm,
        .rearm = process_rearm,
        .release = process_release,
        .verify = process_verify,
        .prepare = process_prepare,
        .network_expect = process_network_expect,
        .restore = process_restore,
        .publish = process_publish,
        .restore_verdict = process_restore_verdict,
        .alive = process_alive,
        .gone = process_gone,
        .put_down = process_put_down,
        .arrived = process_arrived,
        .keep = process_keep,
        .discard = process_discard,
        .restore_free = process_restore_free,
        .done = process_done,
};

/* Every process is one; `phaul ps` shows them anyway, with what they belong to. Cgroups of those that have ended go. */
int process_list(json_t **ret, struct error *err)
{
        process_home_sweep();
        *ret = json_array();
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}
