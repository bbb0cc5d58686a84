/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define MAPS_MAX (32U << 20)
#define FILES_MAX 65536

void process_files_done(struct process_files *files)
{
        for (size_t i = 0; i < files->n; i++)
                free(files->files[i].path);
        free(files->files);
        *files = (struct process_files){0};
}

void process_files_move(struct process_files *to, struct process_files *from)
{
        *to = *from;
        *from = (struct process_files){0};
}

static int add(struct process_files *list, const char *path, enum process_file_use use, const struct stat *st)
{
        if (list->n == list->room) {
                size_t room = list->room ? list->room * 2 : 64;
                struct process_file *grown = room <= FILES_MAX ? reallocarray(list->files, room, sizeof(*grown)) : NULL;
                if (!grown)
                        return -ENOMEM;
                list->files = grown;
                list->room = room;
        }
        char *copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        list->files[list->n++] =
                (struct process_file){.path = copy, .use = use, .mode = st->st_mode, .size = (uint64_t)st->st_size};
        return 0;
}

/* What is deleted or has never had a name goes into CRIU's images; what the kernel makes up is there as well. */
static bool has_name(const char *path)
{
        static const char *const none[] = {"/proc/", "/sys/", "/dev/pts/", "/memfd:", "/SYSV", "/[aio]"};
        static const char deleted[] = " (deleted)";
        size_t n = strlen(path);

        if (path[0] != '/' || (n > sizeof(deleted) - 1 && strcmp(path + n - (sizeof(deleted) - 1), deleted) == 0))
                return false;
        for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
                if (strncmp(path, none[i], strlen(none[i])) == 0)
                        return false;
        return strcmp(path, "/dev/tty") != 0 && strcmp(path, "/dev/ptmx") != 0;
}

/* By the link in /proc, so that it is the file that is meant and not another that has its name now. */
static int add_link(struct process_files *list, const char *link, enum process_file_use use)
{
        char path[PATH_MAX];
        struct stat st;

        ssize_t n = readlink(link, path, sizeof(path) - 1);
        if (n < 0 || stat(link, &st) < 0)
                return 0; /* closed meanwhile */
        path[n] = '\0';
        if (!has_name(path))
                return 0;
        if (S_ISDIR(st.st_mode))
                use = FILE_DIRECTORY;
        else if (!S_ISREG(st.st_mode))
                use = FILE_OTHER;
        return add(list, path, use, &st);
}

static bool is_written(const char *fdinfo)
{
        AUTO_FREE char *text = NULL;

        if (fd_read_file(AT_FDCWD, fdinfo, 65536, &text, NULL) < 0)
                return false;
        const char *flags = strstr(text, "flags:");
        return flags && (strtoul(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) != O_RDONLY;
}

static int add_open(struct process_files *list, pid_t pid)
{
        char path[300], info[300];
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        for (struct dirent *e; dir && r == 0 && (e = readdir(dir));) {
                if (!isdigit((unsigned char)e->d_name[0]))
                        continue;
                (void)snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", (int)pid, e->d_name);
                (void)snprintf(info, sizeof(info), "/proc/%d/fdinfo/%.20s", (int)pid, e->d_name);
                r = add_link(list, path, is_written(info) ? FILE_WRITTEN : FILE_READ);
        }
        return r;
}

/* "7f00-7f10 r-xp 00000000 fe:01 1234    /usr/lib/libc.so.6" */
static int add_mapped(struct process_files *list, pid_t pid)
{
        AUTO_FREE char *text = NULL;
        char path[64], last[PATH_MAX] = "", mode[8];
        int r = 0;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        if (fd_read_file(AT_FDCWD, path, MAPS_MAX, &text, NULL) < 0)
                return 0;
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line && r == 0;
             line = strtok_r(NULL, "\n", &save)) {
                const char *name = strchr(line, '/');
                struct stat st;

                if (!name || sscanf(line, "%*s %7s", mode) != 1 || !has_name(name))
                        continue;
                bool written = mode[1] == 'w' && mode[3] == 's';
                if ((strcmp(name, last) == 0 && !written) || stat(name, &st) < 0 || !S_ISREG(st.st_mode))
                        continue;
                (void)snprintf(last, sizeof(last), "%s", name);
                r = add(list, name, written ? FILE_WRITTEN : FILE_CODE, &st);
        }
        return r;
}

static int by_path(const void *a, const void *b)
{
        const struct process_file *x = a, *y = b;
        int order = strcmp(x->path, y->path);

        /* The strongest use of a path comes first: it is the letter that is last in the alphabet. */
        return order ? order : (int)y->use - (int)x->use;
}

static void sort(struct process_files *list)
{
        size_t used = 0;

        if (list->n)
                qsort(list->files, list->n, sizeof(*list->files), by_path);
        for (size_t i = 0; i < list->n; i++) {
                if (used && strcmp(list->files[i].path, list->files[used - 1].path) == 0)
                        free(list->files[i].path);
                else
                        list->files[used++] = list->files[i];
        }
        list->n = used;
}

int process_files_collect(const struct process_set *pids, struct process_files *ret, struct error *err)
{
        static const struct {
                const char *name;
                enum process_file_use use;
        } links[] = {{"exe", FILE_CODE}, {"cwd", FILE_DIRECTORY}, {"root", FILE_DIRECTORY}};
        CLEANUP(process_files_done) struct process_files list = {0};
        char path[64];
        int r = 0;

        for (size_t i = 0; r == 0 && i < pids->n; i++) {
                for (size_t k = 0; r == 0 && k < sizeof(links) / sizeof(links[0]); k++) {
                        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pids->pids[i], links[k].name);
                        r = add_link(&list, path, links[k].use);
                }
                if (r == 0)
                        r = add_mapped(&list, pids->pids[i]);
                if (r == 0)
                        r = add_open(&list, pids->pids[i]);
                if (list.n > FILES_MAX / 4) /* thousands of processes share what they map */
                        sort(&list);
        }
        if (r < 0)
                return error_errno(err, -r, "cannot list the files of the tree");
        sort(&list);
        process_files_move(ret, &list);
        return 0;
}
