/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "preflight/scan.h"

/*
 * What inotify and fanotify watch. The kernel tells a file handle; CRIU opens it to find a path that can be watched
 * again, and where the file system cannot open handles it looks for the inode in a few directories where watches are
 * common (criu/fsnotify.c, criu/irmap.c). The same is tried here.
 */
#define MOUNTS_MAX (16U << 20)
#define SEARCH_MAX 20000 /* files looked at, for all watches together */
#define DEPTH_MAX 16

static const char *const hints[] = {"/etc",
                                    "/var/spool",
                                    "/var/log",
                                    "/usr/share/dbus-1/services",
                                    "/usr/share/dbus-1/system-services",
                                    "/var/lib/polkit-1/localauthority",
                                    "/usr/share/polkit-1/actions",
                                    "/lib/udev",
                                    NULL};

bool watch_parse(const char *line, struct watch *ret)
{
        char handle[2 * WATCH_HANDLE_MAX + 1];
        const char *ino = strstr(line, " ino:"), *sdev = strstr(line, " sdev:"),
                   *bytes = strstr(line, " fhandle-bytes:");
        const char *type = strstr(line, " fhandle-type:"), *data = strstr(line, " f_handle:");

        *ret = (struct watch){0};
        if ((strncmp(line, "inotify ", 8) != 0 && strncmp(line, "fanotify ", 9) != 0) || !sdev)
                return false; /* a mark on a mount, or no mark at all */
        /* As the kernel packs it: 20 bits of minor. */
        const unsigned long device = strtoul(sdev + 6, NULL, 16);
        ret->device = makedev(device >> 20, device & 0xfffff);
        ret->whole = !ino;
        ret->inode = ino ? strtoull(ino + 5, NULL, 16) : 0;
        if (!bytes || !type || !data || sscanf(data, " f_handle:%256[0-9a-f]", handle) != 1)
                return true;
        ret->handle_bytes = (unsigned)strtoul(bytes + 15, NULL, 16);
        ret->handle_type = (int)strtoul(type + 14, NULL, 16);
        if (ret->handle_bytes > WATCH_HANDLE_MAX || strlen(handle) < 2UL * ret->handle_bytes) {
                ret->handle_bytes = 0;
                return true;
        }
        for (unsigned i = 0; i < ret->handle_bytes; i++) {
                const char digits[3] = {handle[2 * i], handle[2 * i + 1], '\0'};
                ret->handle[i] = (unsigned char)strtoul(digits, NULL, 16);
        }
        return true;
}

/* "\040" and the like, in place. */
static void unescape(char *text)
{
        char *to = text;

        for (const char *p = text; *p; p++)
                if (p[0] == '\\' && isdigit((unsigned char)p[1]) && isdigit((unsigned char)p[2]) &&
                    isdigit((unsigned char)p[3])) {
                        *to++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
                        p += 3;
                } else {
                        *to++ = *p;
                }
        *to = '\0';
}

static bool opens_at(int root, const char *point, const struct watch *w)
{
        union {
                struct file_handle handle;
                char room[sizeof(struct file_handle) + WATCH_HANDLE_MAX];
        } u = {0};

        AUTO_FD int mount = openat(root, point[1] ? point + 1 : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
        if (mount < 0)
                return false;
        u.handle.handle_bytes = w->handle_bytes;
        u.handle.handle_type = w->handle_type;
        memcpy(u.handle.f_handle, w->handle, w->handle_bytes);
        AUTO_FD int fd = open_by_handle_at(mount, &u.handle, O_PATH | O_CLOEXEC);
        return fd >= 0;
}

/* By each mount of that file system that the task sees. */
static bool opens(const char *mountinfo, int root, const struct watch *w)
{
        char point[4096];

        if (!w->handle_bytes)
                return false;
        for (const char *line = mountinfo; line && *line; line = strchr(line, '\n'), line += line != NULL) {
                unsigned major, minor;
                if (sscanf(line, "%*s %*s %u:%u %*s %4095s", &major, &minor, point) != 3 ||
                    makedev(major, minor) != w->device || point[0] != '/')
                        continue;
                unescape(point);
                if (opens_at(root, point, w))
                        return true;
        }
        return false;
}

static uint64_t hint_key(uint64_t root, uint64_t device, uint64_t inode)
{
        return shared_key(root, shared_key(device, inode));
}

static int add_hints(struct hints *h, uint64_t root, int parent, const char *name, unsigned depth)
{
        struct dirent *entry;
        struct stat st;

        if (h->seen >= SEARCH_MAX || depth > DEPTH_MAX || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return 0;
        h->seen++;
        int r = number_set_add(&h->files, hint_key(root, st.st_dev, st.st_ino));
        if (r < 0 || !S_ISDIR(st.st_mode))
                return r;
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        AUTO_DIR DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        if (!dir) {
                if (fd >= 0)
                        (void)close(fd);
                return 0;
        }
        while (r == 0 && (entry = readdir(dir)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        r = add_hints(h, root, fd, entry->d_name, depth + 1);
        return r;
}

/* 1, 0 or -ENOMEM. A root is searched once, however many watches there are. */
static int hinted(struct hints *h, int root, const struct watch *w)
{
        struct stat st;
        int r = 0;

        if (fstat(root, &st) < 0)
                return 0;
        if (st.st_ino == w->inode && st.st_dev == w->device)
                return 1;
        const uint64_t key = shared_key(st.st_dev, st.st_ino);
        if (!number_set_has(&h->roots, key)) {
                r = number_set_add(&h->roots, key);
                number_set_sort(&h->roots);
                for (size_t i = 0; r == 0 && hints[i]; i++)
                        r = add_hints(h, key, root, hints[i] + 1, 0);
                number_set_sort(&h->files);
        }
        return r < 0 ? r : number_set_has(&h->files, hint_key(key, w->device, w->inode));
}

static int judge(struct scan *s, const struct task *t, int fd, const char *mountinfo, int root, const struct watch *w)
{
        if (w->whole) {
                findings_note(&s->findings, PROBLEM_WATCH, "process %d (%s) fd %d, a whole file system", (int)t->pid,
                              t->comm, fd);
                return 0;
        }
        int r = opens(mountinfo, root, w) ? 1 : hinted(&s->hints, root, w);
        if (r == 0)
                findings_note(&s->findings, PROBLEM_WATCH, "process %d (%s) fd %d, inode %llu of device %u:%u",
                              (int)t->pid, t->comm, fd, (unsigned long long)w->inode, major(w->device),
                              minor(w->device));
        return r < 0 ? r : 0;
}

int watches_judge(struct scan *s, const struct task *t, int fd)
{
        AUTO_FREE char *text = NULL, *mountinfo = NULL;
        char path[64], *save = NULL;
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)t->pid, fd);
        if (fd_read_file(AT_FDCWD, path, MOUNTS_MAX, &text, NULL) < 0)
                return 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)t->pid);
        (void)fd_read_file(AT_FDCWD, path, MOUNTS_MAX, &mountinfo, NULL);
        (void)snprintf(path, sizeof(path), "/proc/%d/root", (int)t->pid);
        AUTO_FD int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        for (char *line = strtok_r(text, "\n", &save); line && r == 0; line = strtok_r(NULL, "\n", &save)) {
                struct watch w;
                if (watch_parse(line, &w))
                        r = judge(s, t, fd, mountinfo, root, &w);
        }
        return r;
}
