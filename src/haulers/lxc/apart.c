/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What liblxc finds as "criu" when it restores a container for which liblxc and CRIU do not fit together: the real one,
 * with what is missing.
 *
 * PHAUL_CRIU_APART: in a network namespace of its own, for a container with a user namespace and veth networks. CRIU
 * (4.2.1, criu/net.c, userns_restore_one_link()) makes such a veth pair from its own network namespace and names the
 * index that the interface has inside. The kernel looks that index up where the request comes from, and where it is
 * taken, as 2 is on every host, it takes the request for a change of that other interface: EOPNOTSUPP. In a fresh
 * namespace no index but 1 is taken. The engine brings the outer ends over while the copy is held
 * (network_bring_over()).
 *
 * PHAUL_CRIU_WITHIN: memory comes after the tasks run, and they have mapped ids. CRIU runs with criu/lazy-within.c.
 *
 * PHAUL_CRIU_LSM: the AppArmor profile of a container that is to have a generated one. liblxc (6.0.4, criu.c,
 * exec_criu()) hands on what the configuration says, "generated", which is no profile; each task fails when it takes
 * it on, too late for CRIU to notice.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/spawn.h"

/* Beside us, where the others of ours are. */
static int load_library(void)
{
        const char *directory = secure_getenv("PHAUL_LIBEXECDIR");
        const char *before = getenv("LD_PRELOAD");
        AUTO_FREE char *libraries = NULL;

        if (asprintf(&libraries, "%s/lazy-within.so%s%s", directory ? directory : PHAUL_LIBEXECDIR, before ? " " : "",
                     before ? before : "") < 0) {
                libraries = NULL;
                return -1;
        }
        return setenv("LD_PRELOAD", libraries, 1);
}

int main(int argc, char **argv)
{
        const char *apart = getenv("PHAUL_CRIU_APART"), *profile = getenv("PHAUL_CRIU_LSM");
        char label[4096];

        if (argc > 1 && strcmp(argv[1], "restore") == 0) {
                if (apart && unshare(CLONE_NEWNET) < 0) {
                        (void)fprintf(stderr, "cannot make a network namespace: %s\n", strerror(errno));
                        return 127;
                }
                if (getenv("PHAUL_CRIU_WITHIN") && load_library() < 0) {
                        (void)fprintf(stderr, "out of memory\n");
                        return 127;
                }
                for (int i = 2; profile && i + 1 < argc; i++)
                        if (strcmp(argv[i], "--lsm-profile") == 0) {
                                if (snprintf(label, sizeof(label), "apparmor:%s", profile) >= (int)sizeof(label))
                                        return 127;
                                argv[i + 1] = label;
                        }
        }
        /* Not ourselves again. */
        if (setenv("PATH", SPAWN_PATH, 1) < 0)
                return 127;
        (void)execvp("criu", argv);
        (void)fprintf(stderr, "cannot execute criu: %s\n", strerror(errno));
        return 127;
}
