/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "haulers/lxc/lxc.h"

#define SUBID_MAX (1 << 20)
#define RANGES_MAX 64

bool lxc_is_idmapped(const json_t *info)
{
        return json_array_size(json_object_get(info, "idmaps")) > 0;
}

/* "u 0 100000 65536", "b" for both kinds. */
static bool parse_map(const json_t *line, struct lxc_idmap *ret)
{
        unsigned long inside, outside, count;
        const char *text = json_string_value(line);
        char kind;

        if (!text || sscanf(text, "%c %lu %lu %lu", &kind, &inside, &outside, &count) != 4)
                return false;
        if ((kind != 'u' && kind != 'g' && kind != 'b') || inside > UINT32_MAX || outside > UINT32_MAX || count < 1 ||
            count > UINT32_MAX - inside || count > UINT32_MAX - outside)
                return false;
        *ret = (struct lxc_idmap){
                .kind = kind, .inside = (uint32_t)inside, .outside = (uint32_t)outside, .count = (uint32_t)count};
        return true;
}

static bool is_of(const struct lxc_idmap *map, char kind)
{
        return map->kind == kind || map->kind == 'b';
}

/* The id outside of root inside. */
static int find_root(const json_t *info, char kind, uint32_t *ret)
{
        const json_t *line;
        struct lxc_idmap map;
        size_t i;

        json_array_foreach(json_object_get(info, "idmaps"), i, line)
        {
                if (!parse_map(line, &map))
                        return -EINVAL;
                if (is_of(&map, kind) && map.inside == 0) {
                        *ret = map.outside;
                        return 0;
                }
        }
        return -ENOENT;
}

int lxc_idmap_root(const json_t *info, uid_t *ret_uid, gid_t *ret_gid, struct error *err)
{
        uint32_t uid = 0, gid = 0;

        if (find_root(info, 'u', &uid) < 0 || find_root(info, 'g', &gid) < 0)
                return error_set_kind(err, ERROR_REFUSED, EOPNOTSUPP,
                                      "lxc.idmap gives the container no user and no group 0");
        *ret_uid = uid;
        *ret_gid = gid;
        return 0;
}

/* A directory (taken over) and what is in it; rounds of memory have directories of their own, and links to them. */
static int show(int fd, gid_t gid)
{
        AUTO_DIR DIR *dir = fdopendir(fd);
        const struct dirent *e;
        struct stat st;

        if (!dir) {
                (void)close(fd);
                return -ENOMEM;
        }
        while ((e = readdir(dir))) {
                if (strcmp(e->d_name, "..") == 0)
                        continue;
                if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return -errno;
                if (S_ISLNK(st.st_mode))
                        continue;
                if (fchownat(dirfd(dir), e->d_name, 0, gid, AT_SYMLINK_NOFOLLOW) < 0 ||
                    fchmodat(dirfd(dir), e->d_name, S_ISDIR(st.st_mode) ? 0750 : 0640, 0) < 0)
                        return -errno;
                if (!S_ISDIR(st.st_mode) || strcmp(e->d_name, ".") == 0)
                        continue;
                int below = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                int r = below < 0 ? -errno : show(below, gid);
                if (r < 0)
                        return r;
        }
        return 0;
}

/*
 * CRIU opens images as a task of the container that has lost its power over this host: first still as root, then as the
 * container's root. So they belong to root, and to the group of the other. Nobody else gets to them by that: the
 * directories above are closed.
 */
int lxc_idmap_images(const json_t *info, const char *images, struct error *err)
{
        uid_t uid;
        gid_t gid;

        if (!lxc_is_idmapped(info))
                return 0;
        int r = lxc_idmap_root(info, &uid, &gid, err);
        if (r < 0)
                return r;
        int fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = fd < 0 ? -errno : show(fd, gid);
        return r < 0 ? error_errno(err, -r, "cannot show images in %s to the container", images) : 0;
}

/* -- what shadow has handed out ----------------------------------------------------------------------------------- */

/* As liblxc has it: set-id root or with the capability, in its place of the path. */
static bool is_privileged(const char *program)
{
        AUTO_FREE char *copy = strdup(SPAWN_PATH);
        char path[PATH_MAX], *save = NULL;
        struct stat st;

        for (char *d = copy ? strtok_r(copy, ":", &save) : NULL; d; d = strtok_r(NULL, ":", &save)) {
                (void)snprintf(path, sizeof(path), "%s/%s", d, program);
                if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111))
                        return (st.st_mode & S_ISUID) || getxattr(path, "security.capability", NULL, 0) > 0;
        }
        return false;
}

/* Does a line "root:first:count" (or "0:…") of the text cover all of `map`? */
static bool covers(const char *text, const struct lxc_idmap *map)
{
        for (const char *line = text; *line;) {
                size_t n = strcspn(line, "\n");
                const char *rest = strncmp(line, "root:", 5) == 0 ? line + 5
                                   : strncmp(line, "0:", 2) == 0  ? line + 2
                                                                  : NULL;
                unsigned long first, count;
                if (rest && sscanf(rest, "%lu:%lu", &first, &count) == 2 && map->outside >= first &&
                    map->outside - first <= count && map->count <= count - (map->outside - first))
                        return true;
                line += n + (line[n] == '\n');
        }
        return false;
}

/* One of /etc/subuid, /etc/subgid; false and a text when a range is missing. */
static bool file_covers(const json_t *info, const char *path, char kind, char *text, size_t size)
{
        AUTO_FREE char *content = NULL;
        const json_t *line;
        struct lxc_idmap map;
        size_t i;

        if (fd_read_file(AT_FDCWD, path, SUBID_MAX, &content, NULL) < 0)
                content = strdup("");
        json_array_foreach(json_object_get(info, "idmaps"), i, line)
        {
                if (!content || !parse_map(line, &map))
                        return false;
                /* Ids of its own need no range. */
                if (is_of(&map, kind) && !(map.outside == 0 && map.count == 1) && !covers(content, &map)) {
                        (void)snprintf(text, size,
                                       "%s gives root no range %u to %u, which lxc.idmap needs: add the line "
                                       "root:%u:%u",
                                       path, map.outside, map.outside + map.count - 1, map.outside, map.count);
                        return false;
                }
        }
        return true;
}

bool lxc_idmap_allowed(const json_t *info, char *text, size_t size)
{
        struct error err = {0};
        uid_t uid;
        gid_t gid;

        if (lxc_idmap_root(info, &uid, &gid, &err) < 0) {
                (void)snprintf(text, size, "%s", err.text);
                return false;
        }
        if (!is_privileged("newuidmap") || !is_privileged("newgidmap")) {
                (void)snprintf(text, size, "ids from %u on are the container's (this host hands out no ranges)", uid);
                return true;
        }
        (void)snprintf(text, size, "lxc.idmap cannot be understood");
        if (!file_covers(info, "/etc/subuid", 'u', text, size) || !file_covers(info, "/etc/subgid", 'g', text, size))
                return false;
        (void)snprintf(text, size, "ids from %u on are the container's", uid);
        return true;
}
