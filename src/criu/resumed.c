/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "criu/criu.h"
#include "criu/stage.h"

struct log_facts {
        bool unlocked, unlocking, script_failed, killed, escaped, late;
};

/*
 * What is known of a restore's way (CRIU 4.1.1 and 4.2, criu/cr-restore.c, restore_root_task()):
 *
 *      post-restore script         without its yes nothing goes on; the yes is noted before (stage.h)
 *      "Unlock network"            network-unlock script, if the workload has a network of its own
 *      tasks are seized, then      until now each waits in the restorer for a word of CRIU that a dead one cannot give
 *      caught in rt_sigreturn      from here on only ptrace holds them: if CRIU dies, they run
 *      "Run late stage hook"       all stand before their first instruction
 *      pre-resume script           noted
 *      detached, root first        they run
 *
 * When CRIU fails on this way it kills what it holds, and says so. A line of the log is written, unbuffered, before
 * what it announces is begun. The notes outweigh the log, which may be short of room.
 */
static int judge(const struct log_facts *log, enum criu_stage stage, enum criu_hold hold)
{
        if (stage == CRIU_STAGE_NONE)
                return 0;
        if (stage == CRIU_STAGE_RESUMED || log->escaped)
                return 1;
        if (hold == CRIU_HELD_TRACING) /* nobody was detached, for the root is the first */
                return 0;
        if (log->late)
                return 1;
        if (hold == CRIU_HELD || log->killed || !log->unlocked)
                return 0;
        /* CRIU is dead. In its network-unlock script, if that was begun and neither came to its end nor failed. */
        return !(log->unlocking && !log->script_failed && stage == CRIU_STAGE_RELEASED);
}

int criu_restore_may_have_resumed(int dir_fd, const char *file, enum criu_hold hold)
{
        const enum criu_stage stage = criu_stage_get(dir_fd);
        struct log_facts facts = {0};
        char line[1024];

        AUTO_FD int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        AUTO_FILE FILE *log = fd >= 0 ? fdopen(fd, "re") : NULL;
        if (!log)
                return stage != CRIU_STAGE_NONE;
        (void)TAKE_FD(fd);

        while (fgets(line, sizeof(line), log)) {
                facts.unlocked |= strstr(line, "Unlock network") != NULL;
                facts.unlocking |= strstr(line, "Running network-unlock scripts") != NULL;
                facts.script_failed |= strstr(line, "action scripts failed") != NULL;
                facts.escaped |= strstr(line, "Can't stop all tasks on rt_sigreturn") != NULL;
                facts.late |= strstr(line, "Run late stage hook") || strstr(line, "Running pre-resume scripts");
                facts.killed |= strstr(line, "Killing processes because of failure on restore") != NULL;
        }
        return ferror(log) ? stage != CRIU_STAGE_NONE : judge(&facts, stage, hold);
}
