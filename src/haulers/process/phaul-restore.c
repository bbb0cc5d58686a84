/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-restore CGROUP IMAGES HOLD [tcp-close] [shell-job] [pid-namespace=PID] [root=DIR]: restore a process tree that
 * stands in IMAGES. Becomes `criu restore`, after it has let go of everything of phaul's that CRIU does not replace by
 * the tree's own: the restored tasks are our descendants.
 *
 * It enters CGROUP, and the root of every other hierarchy, so that no cgroup of the daemon stays with the tree. HOLD is
 * CRIU's action script, which finds $PHAUL_HOLD_SOCKET and $PHAUL_RECORD in the environment. When criu ends the root of
 * the tree becomes a child of process 1.
 *
 * A shell job hangs on a terminal and a session that were not moved. Both come from here (keeper.c), and so this
 * program stays for such a tree as its shell would: parent of its root, leader of its session. And so it does as
 * process 1 of a new pid namespace; PID is where numbers begin there that the tree does not have. DIR becomes the root
 * of a mount namespace that is in the images.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
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

#define ENTER_TRIES 20

/* It is made here, and again when somebody who sweeps empty ones takes it away before we are in it. */
static int enter(const char *cgroup, struct error *err)
{
        AUTO_FREE char *copy = strdup(cgroup);
        const char *all = copy ? dirname(copy) : NULL;
        int r = -ENOMEM;

        for (int attempt = 0; all && r < 0 && attempt < ENTER_TRIES; attempt++) {
                (void)mkdir(all, 0755);
                if (mkdir(cgroup, 0755) < 0 && errno != EEXIST) {
                        r = -errno;
                        continue;
                }
                r = cgroup_write(cgroup, "cgroup.procs", "0");
        }
        return r < 0 ? error_errno(err, -r, "cannot enter %s", cgroup) : 0;
}

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
        return enter(cgroup, err);
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

static bool parse_word(const char *word, struct criu_restore_options *options, struct keep *keep)
{
        static const char namespace[] = "pid-namespace=";

        if (strcmp(word, "tcp-close") == 0) {
                options->tcp_close = true;
        } else if (strcmp(word, "shell-job") == 0) {
                options->shell_job = keep->terminal = true;
        } else if (strncmp(word, "root=/", strlen("root=/")) == 0) {
                options->root = word + strlen("root=");
        } else if (strncmp(word, namespace, sizeof(namespace) - 1) == 0) {
                char *end;
                long pid = strtol(word + sizeof(namespace) - 1, &end, 10);
                keep->first_pid = *end == '\0' && pid > 1 && pid < INT_MAX ? (pid_t)pid : 0;
                return keep->first_pid != 0;
        } else {
                return false;
        }
        return true;
}

int main(int argc, char *argv[])
{
        struct criu_restore_options options = {.log_file = "restore.log", .tcp_established = true};
        struct keep keep = {0};
        struct error err = {0};
        bool usage = argc < 4;

        for (int i = 1; i < argc && !usage; i++)
                usage = i < 4 ? argv[i][0] != '/' : !parse_word(argv[i], &options, &keep);
        if (usage) {
                (void)fprintf(stderr, "usage: phaul-restore CGROUP IMAGES HOLD [tcp-close] [shell-job] "
                                      "[pid-namespace=PID] [root=DIR]\n");
                return 2;
        }
        options.tcp_established = !options.tcp_close;
        options.images = argv[2];
        options.action_script = argv[3];

        int r = become_plain(argv[1], &err);
        if (r == 0 && (keep.terminal || keep.first_pid))
                return restore_kept(&options, &keep);
        if (r == 0)
                r = criu_restore_exec(&options, &err);
        (void)fprintf(stderr, "%s\n", err.text);
        return r == 0 ? 0 : 1;
}
