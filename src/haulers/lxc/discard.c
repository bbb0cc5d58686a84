/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/format.h"
#include "network/network.h"

#define KILL_MS 10000

/* A leftover's name taken apart and found to be one that prepare() could have made. */
struct leftover {
        char *base;       /* LXCPATH/NAME */
        char *lxcpath;    /* as it is now */
        const char *name; /* within base */
        char token[ID_LENGTH + 1];
};

static int take_apart(const char *text, struct leftover *l, struct error *err)
{
        const char *hash = strrchr(text, '#');

        if (!hash || !id_is_valid(hash + 1))
                return error_set(err, EINVAL, "'%.256s' is not a leftover of ours", text);
        memcpy(l->token, hash + 1, ID_LENGTH + 1);
        l->base = strndup(text, (size_t)(hash - text));
        if (!l->base)
                return error_set(err, ENOMEM, "out of memory");
        int r = lxc_tool_path(&l->lxcpath, err);
        if (r < 0)
                return r;
        char *slash = strrchr(l->base, '/');
        size_t n = strlen(l->lxcpath);
        if (!slash || (size_t)(slash - l->base) != n || strncmp(l->base, l->lxcpath, n) != 0 ||
            !name_is_valid(slash + 1))
                return error_set(err, EINVAL, "'%.256s' does not lie in %s", l->base, l->lxcpath);
        l->name = slash + 1;
        return 0;
}

/* 1 if LXCPATH/NAME carries the token: then it, and all that runs under its name, is ours. */
static int is_ours(const struct leftover *l)
{
        AUTO_FREE char *marker = format_new("%s/.phaul-%s", l->base, l->token);

        return marker ? access(marker, F_OK) == 0 : -ENOMEM;
}

static int discard_mount(const struct leftover *l, struct error *err)
{
        AUTO_FREE char *path = format_new("%s/rootfs", l->base);

        if (!path)
                return error_set(err, ENOMEM, "out of memory");
        while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
                ;
        return errno == EINVAL || errno == ENOENT ? 0 : error_errno(err, errno, "cannot unmount %s", path);
}

static int discard_interfaces(const struct leftover *l, struct error *err)
{
        char name[16];
        int r = 0;

        for (unsigned i = 0; r == 0 && i < LXC_NETWORKS_MAX; i++) {
                lxc_veth_name(l->token, i, name);
                r = network_delete(name, err);
        }
        return r;
}

/*
 * Out of sight in one step, then taken apart: a crash in between leaves nothing that looks like a container, and the
 * token in the new name tells the next call what to go on with.
 */
static int discard_directory(const struct leftover *l, struct error *err)
{
        AUTO_FREE char *doomed = format_new("%s/.phaul-discard-%s", l->lxcpath, l->token);

        if (!doomed)
                return error_set(err, ENOMEM, "out of memory");
        int ours = is_ours(l);
        if (ours == 1) {
                int r = lxc_cgroup_kill(l->name, KILL_MS, err);
                if (r == 0)
                        r = discard_mount(l, err);
                if (r < 0)
                        return r;
                if (rename(l->base, doomed) < 0)
                        return error_errno(err, errno, "cannot put %s away", l->base);
        } else if (ours == 0) {
                /* We died between making and marking it: then it is empty. Anything else is somebody else's. */
                (void)rmdir(l->base);
        }
        return fd_remove_tree(AT_FDCWD, doomed, err);
}

int lxc_discard(const char *what, const char *name, struct error *err)
{
        struct leftover l = {0};

        int r = take_apart(name, &l, err);
        if (r == 0) {
                if (strcmp(what, "directory") == 0)
                        r = discard_directory(&l, err);
                else if (strcmp(what, "interface") == 0)
                        r = discard_interfaces(&l, err);
                else if (strcmp(what, "container") == 0 || strcmp(what, "cgroup") == 0)
                        r = is_ours(&l) == 1 ? lxc_cgroup_kill(l.name, KILL_MS, err) : 0;
                else if (strcmp(what, "mount") == 0)
                        r = is_ours(&l) == 1 ? discard_mount(&l, err) : 0;
                else
                        r = error_set(err, EINVAL, "'%.64s' is nothing that an LXC container leaves", what);
        }
        free(l.base);
        free(l.lxcpath);
        return r;
}
