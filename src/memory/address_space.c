/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/address_space.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "base/proc_status.h"

#define MAPS_MAX (64U << 20)
#define AREAS_MAX (1U << 20)

static bool starts_with(const char *text, const char *prefix)
{
        return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Hexadecimal and decimal numbers as they stand in the file: no sign, no white space, and something after them. */
static bool take_number(const char **text, int base, char after, uint64_t *ret)
{
        char *end;

        if (strchr("+- \t\n", **text))
                return false;
        errno = 0;
        *ret = strtoull(*text, &end, base);
        if (errno || end == *text || *end != after)
                return false;
        *text = end + 1;
        return true;
}

/* What the name of a mapping tells. Names in brackets are the kernel's, but for heaps, stacks and those given by
 * prctl(). */
static void judge_name(const char *name, struct area *a, struct address_space *space)
{
        a->stack = starts_with(name, "[stack]");
        a->special = name[0] == '[' && !a->stack && !starts_with(name, "[heap]") && !starts_with(name, "[anon:") &&
                     !starts_with(name, "[stack:");
        if (starts_with(name, "/[aio]"))
                space->obstacle = "it has a context of asynchronous I/O, which writes unseen";
        else if (starts_with(name, "anon_inode:[io_uring]"))
                space->obstacle = "it uses io_uring, which writes unseen";
}

/* "START-END rwxp OFFSET MAJOR:MINOR INODE   NAME" */
static int parse_line(const char *line, struct area *a, struct address_space *space)
{
        uint64_t offset, major_number, minor_number;

        *a = (struct area){0};
        if (!take_number(&line, 16, '-', &a->start) || !take_number(&line, 16, ' ', &a->end) || a->start >= a->end)
                return -EBADMSG;
        if (strnlen(line, 5) < 5 || line[4] != ' ')
                return -EBADMSG;
        a->readable = line[0] == 'r';
        a->writable = line[1] == 'w';
        a->executable = line[2] == 'x';
        a->private = line[3] == 'p';
        line += 5;
        if (!take_number(&line, 16, ' ', &offset) || !take_number(&line, 16, ':', &major_number) ||
            !take_number(&line, 16, ' ', &minor_number))
                return -EBADMSG;
        /* A line without a name may end after the number. */
        const char *number = line;
        if (!take_number(&line, 10, ' ', &a->inode) && !take_number(&number, 10, '\n', &a->inode))
                return -EBADMSG;
        a->device = makedev((unsigned)major_number, (unsigned)minor_number);
        judge_name(line + strspn(line, " "), a, space);
        return 0;
}

/* After all others. The kernel gives the file out in pieces of a page or so: a mapping that grew together with one of
 * the last piece meanwhile is told a second time, as a whole. What was told stays as it was told then. */
static int add_area(struct address_space *space, struct area *a)
{
        uint64_t told = space->n ? space->areas[space->n - 1].end : 0;

        if (a->end <= told)
                return 0;
        if (a->start < told)
                a->start = told;
        if (space->n == space->room) {
                size_t room = space->room ? space->room * 2 : 256;
                struct area *grown = room <= AREAS_MAX ? reallocarray(space->areas, room, sizeof(*grown)) : NULL;
                if (!grown)
                        return -ENOMEM;
                space->areas = grown;
                space->room = room;
        }
        space->areas[space->n++] = *a;
        return 0;
}

int address_space_parse(const char *maps, struct address_space *ret)
{
        CLEANUP(address_space_done) struct address_space space = {0};

        for (const char *line = maps; *line;) {
                struct area a;
                const char *end = strchr(line, '\n');
                int r = end ? parse_line(line, &a, &space) : -EBADMSG;
                if (r == 0)
                        r = add_area(&space, &a);
                if (r < 0)
                        return r;
                line = end + 1;
        }
        *ret = space;
        space = (struct address_space){0};
        return 0;
}

void address_space_done(struct address_space *space)
{
        free(space->areas);
        *space = (struct address_space){0};
}

static int read_proc(pid_t pid, const char *name, size_t limit, char **ret, struct error *err)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        int r = fd_read_file(AT_FDCWD, path, limit, ret, NULL);
        if (r == -ENOENT || r == -ESRCH)
                return error_set(err, ESRCH, "process %d is gone", (int)pid);
        return r < 0 ? error_errno(err, -r, "cannot read %s", path) : 0;
}

int address_space_read(pid_t pid, struct address_space *ret, struct error *err)
{
        AUTO_FREE char *text = NULL;

        int r = read_proc(pid, "maps", MAPS_MAX, &text, err);
        if (r < 0)
                return r;
        if (!*text)
                return error_set(err, ESRCH, "process %d has no memory (any more)", (int)pid);
        r = address_space_parse(text, ret);
        return r < 0 ? error_errno(err, -r, "cannot understand /proc/%d/maps", (int)pid) : 0;
}

bool process_has_memory(pid_t pid)
{
        char path[64], first;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd >= 0 && read(fd, &first, 1) == 1;
}

int process_facts_parse(const char *status, struct process_facts *ret)
{
        const char *state = proc_status_value(status, "State"),
                   *features = proc_status_value(status, "x86_Thread_features");

        if (!state || !proc_status_value(status, "Pid"))
                return -EBADMSG;
        *ret = (struct process_facts){
                .state = *state,
                .tracer = (pid_t)proc_status_number(status, "TracerPid"),
                .seccomp = proc_status_number(status, "Seccomp") != 0,
                .pinned = proc_status_number(status, "VmPin") * 1024,
        };
        if (features) {
                const char *found = strstr(features, "shstk");
                ret->shadow_stack = found && found < features + strcspn(features, "\n");
        }
        return 0;
}

int process_facts_read(pid_t pid, struct process_facts *ret, struct error *err)
{
        AUTO_FREE char *text = NULL;

        int r = proc_status_read(pid, &text);
        if (r < 0)
                return error_errno(err, -r, "cannot read /proc/%d/status", (int)pid);
        r = process_facts_parse(text, ret);
        if (r < 0)
                return error_errno(err, -r, "cannot understand /proc/%d/status", (int)pid);
        if (ret->state == 'Z' || ret->state == 'X')
                return error_set(err, ESRCH, "process %d is dead", (int)pid);
        return 0;
}
