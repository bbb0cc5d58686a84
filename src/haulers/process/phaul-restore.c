/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-restore CGROUP IMAGES HOLD: restore a process tree that stands in IMAGES. Becomes `criu restore`, after it has
 * let go of everything of phaul's that CRIU does not replace by the tree's own: the restored tasks are our descendants.
 *
 * It enters CGROUP, and the root of every other hierarchy, so that no cgroup of the daemon stays with the tree. HOLD is
 * CRIU's action script, which finds $PHAUL_HOLD_SOCKET and $PHAUL_RECORD in the environment. When criu ends the root of
 * the tree becomes a child of process 1.
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
#include "criu/criu.h"
#include "haulers/unconfined.h"

/* Into the root of every hierarchy, then into the one cgroup. */
static int leave_cgroups(const char *cgroup, struct error *err)
{
        char buffer[4096];
        struct mntent entry;

        AUTO_FILE FILE *f = setmntent("/proc/self/mounts", "re");
        while (f && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                if (strcmp(entry.mnt_type, "cgroup") != 0 && strcmp(entry.mnt_type, "cgroup2") != 0)
                        continue;
                if (strncmp(cgroup, entry.mnt_dir, strlen(entry.mnt_dir)) == 0 && cgroup[strlen(entry.mnt_dir)] == '/')
                        continue;
                int r = cgroup_write(entry.mnt_dir, "cgroup.procs", "0");
                if (r < 0 && r != -ENOENT && r != -EROFS)
                        return error_errno(err, -r, "cannot leave the daemon's cgroup in %s", entry.mnt_dir);
        }
        int r = cgroup_write(cgroup, "cgroup.procs", "0");
        return r < 0 ? error_errno(err, -r, "cannot enter %s", cgroup) : 0;
}

int main(int argc, char *argv[])
{
        struct error err = {0};

        if (argc != 4 || argv[1][0] != '/' || argv[2][0] != '/' || argv[3][0] != '/') {
                (void)fprintf(stderr, "usage: phaul-restore CGROUP IMAGES HOLD\n");
                return 2;
        }
        int r = unconfined_check(&err);
        if (r == 0)
                r = leave_cgroups(argv[1], &err);
        if (r == 0) {
                (void)umask(022);
                if (chdir("/") < 0)
                        r = error_errno(&err, errno, "cannot go to /");
        }
        unconfined_forget_oom_score();
        if (r == 0) {
                const struct criu_restore_options options = {.images = argv[2],
                                                             .log_file = "restore.log",
                                                             .action_script = argv[3],
                                                             .tcp_established = true};
                r = criu_restore_exec(&options, &err);
        }
        (void)fprintf(stderr, "%s\n", err.text);
        return r == 0 ? 0 : 1;
}
