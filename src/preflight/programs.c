/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/spawn.h"
#include "preflight/scan.h"

#define CRIU_MS 5000

/* Programs of 32 bits on a machine of 64: CRIU carries them only if it was compiled to and the kernel lets it. */
bool program_is_compat(const char *exe)
{
        unsigned char ident[EI_NIDENT];

        if (sizeof(void *) != 8)
                return false;
        AUTO_FD int fd = open(exe, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        return fd >= 0 && read(fd, ident, sizeof(ident)) == (ssize_t)sizeof(ident) &&
               memcmp(ident, ELFMAG, SELFMAG) == 0 && ident[EI_CLASS] == ELFCLASS32;
}

/* Asked once, and only when there is one. */
static bool criu_carries_them(struct scan *s)
{
        static const char *const argv[] = {"criu", "check", "--feature", "compat_cr", NULL};
        const struct spawn_options options = {.argv = argv, .merge_stderr = true, .die_with_parent = true};
        AUTO_FREE char *ignored = NULL;

        if (s->compat == COMPAT_UNKNOWN)
                s->compat = spawn_capture(&options, CRIU_MS, 4096, &ignored, NULL) == 0 ? COMPAT_CARRIED : COMPAT_NOT;
        return s->compat == COMPAT_CARRIED;
}

void program_judge(struct scan *s, const struct task *t)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)t->pid);
        if (program_is_compat(path))
                findings_note(&s->findings, criu_carries_them(s) ? PROBLEM_COMPAT : PROBLEM_COMPAT_REFUSED,
                              "process %d (%s)", (int)t->pid, t->comm);
}
