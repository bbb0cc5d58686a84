/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "criu/criu.h"

#define ARGUMENTS_MAX 32

/*
 * Does somebody serve pages there? liblxc's CRIU is asked by haulers/lxc/verb-restore.c in the same way: what is in
 * the directory decides, so that nobody on the way has to know.
 */
static bool is_served(const char *images)
{
        char path[PATH_MAX];
        struct stat st;

        return snprintf(path, sizeof(path), "%s/" CRIU_LAZY_SOCKET, images) < (int)sizeof(path) &&
               stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/*
 * The command line and not the RPC: a restore needs no words of ours on its way but the one at post-restore, and that
 * is the hold program's, which outlives the session. With `criu swrk` the death of whoever holds its socket would be an
 * answer.
 */
int criu_restore_exec(const struct criu_restore_options *o, struct error *err)
{
        const char *argv[ARGUMENTS_MAX] = {"criu",
                                           "--no-default-config",
                                           "restore",
                                           "--images-dir",
                                           o->images,
                                           "--work-dir",
                                           o->images,
                                           "--log-file",
                                           o->log_file,
                                           "-v3",
                                           "--restore-detached",
                                           "--manage-cgroups=ignore",
                                           "--file-locks"};
        size_t n = 13;

        argv[n++] = "--network-lock";
        argv[n++] = "skip";
        if (is_served(o->images))
                argv[n++] = "--lazy-pages";
        if (o->tcp_established)
                argv[n++] = "--tcp-established";
        if (o->tcp_close)
                argv[n++] = "--tcp-close";
        if (o->shell_job)
                argv[n++] = "--shell-job";
        if (o->root) {
                argv[n++] = "--root";
                argv[n++] = o->root;
        }
        if (o->action_script) {
                argv[n++] = "--action-script";
                argv[n++] = o->action_script;
        }
        argv[n] = NULL;
        (void)execvp(argv[0], (char *const *)argv);
        return error_errno(err, errno, "cannot execute criu");
}
