/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What liblxc finds as "criu" when it restores a container with a user namespace and veth networks: the real one, in a
 * network namespace of its own.
 *
 * CRIU (4.2.1, criu/net.c, userns_restore_one_link()) makes such a veth pair from its own network namespace and names
 * the index that the interface has inside. The kernel looks that index up where the request comes from, and where it
 * is taken, as 2 is on every host, it takes the request for a change of that other interface: EOPNOTSUPP. In a fresh
 * namespace no index but 1 is taken. The engine brings the outer ends over while the copy is held
 * (network_bring_over()).
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/spawn.h"

int main(int argc, char **argv)
{
        if (argc > 1 && strcmp(argv[1], "restore") == 0 && unshare(CLONE_NEWNET) < 0) {
                (void)fprintf(stderr, "cannot make a network namespace: %s\n", strerror(errno));
                return 127;
        }
        /* Not ourselves again. */
        if (setenv("PATH", SPAWN_PATH, 1) < 0)
                return 127;
        (void)execvp("criu", argv);
        (void)fprintf(stderr, "cannot execute criu: %s\n", strerror(errno));
        return 127;
}
