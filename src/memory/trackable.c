/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/trackable.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

int trackable_pagemap(pid_t pid, struct error *err)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && (errno == ENOENT || errno == ESRCH))
                return error_set(err, ESRCH, "process %d is gone", (int)pid);
        return fd < 0 ? error_errno(err, errno, "cannot open %s", path) : fd;
}

static int unknown_descriptors(pid_t pid, int code, struct error *err)
{
        if (code == ESRCH || code == ENOENT)
                return error_set(err, ESRCH, "process %d is gone", (int)pid);
        if (code == ENOMEM)
                return error_set(err, ENOMEM, "out of memory");
        return error_set(err, EOPNOTSUPP, "what process %d has open cannot be looked at: %s", (int)pid,
                         strerrordesc_np(code));
}

/* Those whose descriptors tell that memory is written by others than the processor, or protected by others than us. */
int trackable_descriptors(pid_t pid, struct error *err)
{
        char path[64], target[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        AUTO_DIR DIR *dir = opendir(path);
        if (!dir)
                return unknown_descriptors(pid, errno, err);
        for (;;) {
                errno = 0;
                const struct dirent *entry = readdir(dir);
                if (!entry)
                        return errno ? unknown_descriptors(pid, errno, err) : 0;
                if (entry->d_name[0] == '.')
                        continue;
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
                if (n < 0 && errno == ENOENT)
                        continue; /* closed since it was listed */
                if (n < 0)
                        return unknown_descriptors(pid, errno, err);
                target[n] = '\0';
                if (strcmp(target, "anon_inode:[userfaultfd]") == 0)
                        return error_set(err, EOPNOTSUPP, "process %d uses a userfaultfd itself", (int)pid);
                if (strcmp(target, "anon_inode:[io_uring]") == 0)
                        return error_set(err, EOPNOTSUPP, "process %d uses io_uring, which writes unseen", (int)pid);
        }
}

/*
 * Memory that has no file behind it. A page that a private mapping of a file gives back (MADV_DONTNEED) leaves its
 * protection behind as a marker, and is the file's contents again: in swap by its looks, or, from the fault of a write
 * until that write is done, even present and not written. As it could not be called clean, there is no use in sending
 * it beforehand. Without a file nothing is left behind.
 */
static void keep_suitable(struct address_space *space)
{
        size_t n = 0;

        for (size_t i = 0; i < space->n; i++) {
                const struct area *a = &space->areas[i];
                if (a->private && a->readable && !a->special && !area_is_file(a))
                        space->areas[n++] = *a;
        }
        space->n = n;
}

int trackable_mappings(pid_t pid, struct address_space *ret, struct error *err)
{
        struct process_facts facts = {0};

        int r = process_facts_read(pid, &facts, err);
        if (r < 0)
                return r;
        if (facts.pinned)
                return error_set(err, EOPNOTSUPP,
                                 "devices may write to %" PRIu64 " bytes of process %d that are pinned", facts.pinned,
                                 (int)pid);
        r = address_space_read(pid, ret, err);
        if (r == 0 && ret->obstacle)
                r = error_set(err, EOPNOTSUPP, "process %d cannot be tracked: %s", (int)pid, ret->obstacle);
        if (r == 0)
                keep_suitable(ret);
        return r;
}
