/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/released.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"

/* Only what bears the migration's id: a link may also say where something was left in its place. */
static int remove_aside(int dir, const char *link, const char *id, struct error *err)
{
        char place[PATH_MAX], name[ID_LENGTH + 32];

        ssize_t n = readlinkat(dir, link, place, sizeof(place) - 1);
        if (n <= 0 || place[0] != '/')
                return 0;
        place[n] = '\0';
        (void)snprintf(name, sizeof(name), "/.phaul-released-%s", id);
        return strcmp(strrchr(place, '/'), name) == 0 ? fd_remove_tree(AT_FDCWD, place, err) : 0;
}

int released_remove(const char *state, const char *id, struct error *err)
{
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/released/%s", state, id) >= (int)sizeof(path))
                return error_set(err, ENAMETOOLONG, "the path of released files is too long");
        AUTO_DIR DIR *dir = opendir(path);
        for (const struct dirent *e; dir && (e = readdir(dir));) {
                int r = remove_aside(dirfd(dir), e->d_name, id, err);
                if (r < 0)
                        return r;
        }
        return fd_remove_tree(AT_FDCWD, path, err);
}
