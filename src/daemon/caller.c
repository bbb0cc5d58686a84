/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/caller.h"

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

static bool in_group(int fd, gid_t primary, gid_t group)
{
        gid_t groups[256];
        socklen_t size = sizeof(groups);

        if (group == (gid_t)-1)
                return false;
        if (primary == group)
                return true;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
                return false;
        for (size_t i = 0; i < size / sizeof(groups[0]); i++)
                if (groups[i] == group)
                        return true;
        return false;
}

int caller_check(int fd, gid_t group, uid_t *ret_uid, struct error *err)
{
        struct ucred who;
        socklen_t size = sizeof(who);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
                return error_set_kind(err, ERROR_DENIED, EACCES, "cannot find out who calls");
        *ret_uid = who.uid;
        if (who.uid == 0 || in_group(fd, who.gid, group))
                return 0;
        return error_set_kind(err, ERROR_DENIED, EACCES, "user %u may not use phauld: root or group phaul only",
                              (unsigned)who.uid);
}

gid_t caller_group(void)
{
        struct group entry, *found = NULL;
        char buffer[4096];

        if (getgrnam_r("phaul", &entry, buffer, sizeof(buffer), &found) != 0 || !found)
                return (gid_t)-1;
        return found->gr_gid;
}
