/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/tar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

#define BLOCK 512

struct header {
        char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100];
        char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

static const char zeros[2 * BLOCK];

int tar_add(int fd, const char *name, const void *data, size_t size, int64_t modified_s)
{
        struct header h = {.mode = "0000600", .uid = "0000000", .gid = "0000000", .type = '0', .magic = "ustar"};
        unsigned sum = 0;

        if (strlen(name) >= sizeof(h.name))
                return -ENAMETOOLONG;
        if (size > 077777777777ULL || modified_s < 0 || modified_s > 077777777777LL)
                return -EFBIG;
        memcpy(h.name, name, strlen(name));
        memcpy(h.version, "00", 2);
        memcpy(h.user, "root", 4);
        memcpy(h.group, "root", 4);
        (void)snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)size);
        (void)snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long)modified_s);
        memset(h.sum, ' ', sizeof(h.sum)); /* counted as blanks */
        for (size_t i = 0; i < sizeof(h); i++)
                sum += ((const unsigned char *)&h)[i];
        (void)snprintf(h.sum, sizeof(h.sum), "%06o", sum & 0777777);

        int r = fd_write_all(fd, &h, sizeof(h));
        if (r == 0)
                r = fd_write_all(fd, data, size);
        if (r == 0 && size % BLOCK)
                r = fd_write_all(fd, zeros, BLOCK - size % BLOCK);
        return r;
}

int tar_end(int fd)
{
        return fd_write_all(fd, zeros, sizeof(zeros));
}
