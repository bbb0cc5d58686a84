/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-restore CGROUP IMAGES HOLD [tcp-close] [shell-job]: restore a process tree that stands in IMAGES. Becomes
 * `criu restore`, after it has let go of everything of phaul's that CRIU does not replace by the tree's own: the
 * restored tasks are our descendants.
 *
 * It enters CGROUP, and the root of every other hierarchy, so that no cgroup of the daemon stays with the tree. HOLD is
 * CRIU's action script, which finds $PHAUL_HOLD_SOCKET and $PHAUL_RECORD in the environment. When criu ends the root of
 * the tree becomes a child of process 1.
 *
 * A shell job hangs on a terminal and a session that were not moved. Both come from here (terminal.c), and so this
 * program stays for such a tree as its shell would: parent of its root, leader of its session.
 */
#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cleanup.h"
#include "haulers/process/phaul-restore.h"
#include "haulers/unconfined.h"

/* Into the root of every hierarchy, then into the one cgroup. */
static int leave_cgroups(const char *cgroup, struct error *err)
{
        char buffer[4096];
        struct mntent entry;

        AUTO_FILE FILE *f = setmntent("/proc/self/mounts", "re");
        while (f && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                const size_t n = strlen(entry.mnt_dir);

                if (strcmp(entry.mnt_type, "cgroup") != 0 && strcmp(entry.mnt_type, "cgroup2") != 0)
                        continue;
                if (strncmp(cgroup, entry.mnt_dir, n) == 0 && cgroup[n] == '/')
                        continue;
                int r = cgroup_write(entry.mnt_dir, "cgroup.procs", "0");
                if (r < 0 && r != -ENOENT && r != -EROFS)
                        return error_errno(err, -r, "cannot leave the daemon's cgroup in %s", entry.mnt_dir);
        }
        int r = cgroup_write(cgroup, "cgroup.procs", "0");
        return r < 0 ? error_errno(err, -r, "cannot enter %s", cgroup) : 0;
}

static int become_plain(const char *cgroup, struct error *err)
{
        int r = unconfined_check(err);
        if (r == 0)
                r = leave_cgroups(cgroup, err);
        (void)umask(022);
        if (r == 0 && chdir("/") < 0)
                r = error_errno(err, errno, "cannot go to /");
        unconfined_forget_oom_score();
        return r;
}

int main(int argc, char *argv[])
{
        struct criu_restore_options options = {.log_file = "restore.log", .tcp_established = true};
        struct error err = {0};
        bool usage = argc < 4;

        for (int i = 1; i < argc && !usage; i++) {
                if (i < 4)
                        usage = argv[i][0] != '/';
                else if (strcmp(argv[i], "tcp-close") == 0)
                        options.tcp_close = true;
                else if (strcmp(argv[i], "shell-job") == 0)
                        options.shell_job = true;
                else
                        usage = true;
        }
        if (usage) {
                (void)fprintf(stderr, "usage: phaul-restore CGROUP IMAGES HOLD [tcp-close] [shell-job]\n");
                return 2;
        }
        options.tcp_established = !options.tcp_close;
        options.images = argv[2];
        options.action_script = argv[3];

        int r = become_plain(argv[1], &err);
        if (r == 0 && options.shell_job)
                return restore_at_terminal(&options);
        if (r == 0)
                r = criu_restore_exec(&options, &err);
        (void)fprintf(stderr, "%s\n", err.text);
        return r == 0 ? 0 : 1;
}
