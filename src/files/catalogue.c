/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"

/* XATTR_LIST_MAX and XATTR_SIZE_MAX of the kernel. */
#define XATTRS_MAX 65536

/* FNV-1a with a final mix, so that sums of hashes stay apart. */
static uint64_t hash(uint64_t h, const void *data, size_t size)
{
        const unsigned char *p = data;

        for (size_t i = 0; i < size; i++)
                h = (h ^ p[i]) * UINT64_C(0x100000001B3);
        return h ^ h >> 29;
}

/* The order of attributes is the file system's; a sum does not depend on it. ACLs are among them. */
static int hash_xattrs(const char *name, uint64_t *ret)
{
        char names[XATTRS_MAX], value[XATTRS_MAX];
        uint64_t sum = 0;

        ssize_t size = llistxattr(name, names, sizeof(names));
        if (size < 0)
                return errno == ENOTSUP || errno == ENOSYS ? 0 : -errno;
        for (const char *p = names; p < names + size; p += strlen(p) + 1) {
                ssize_t n = lgetxattr(name, p, value, sizeof(value));
                if (n < 0)
                        n = 0;
                sum += hash(hash(UINT64_C(0xCBF29CE484222325), p, strlen(p) + 1), value, (size_t)n);
        }
        *ret += sum;
        return 0;
}

int catalogue_attributes(int dir_fd, const char *name, const struct statx *st, struct catalogue_attributes *ret)
{
        struct catalogue_attributes a = {
                .mode = st->stx_mode,
                .uid = st->stx_uid,
                .gid = st->stx_gid,
                .mtime = st->stx_mtime.tv_sec,
                .mtime_ns = st->stx_mtime.tv_nsec,
        };

        if (fchdir(dir_fd) < 0)
                return -errno;
        if (S_ISREG(st->stx_mode))
                a.size = st->stx_size;
        else if (S_ISCHR(st->stx_mode) || S_ISBLK(st->stx_mode))
                a.size = (uint64_t)st->stx_rdev_major << 32 | st->stx_rdev_minor;
        if (S_ISLNK(st->stx_mode)) {
                char target[PATH_MAX];
                ssize_t n = readlink(name, target, sizeof(target));
                if (n < 0)
                        return -errno;
                a.fingerprint = hash(0, target, (size_t)n);
        }
        int r = hash_xattrs(name, &a.fingerprint);
        if (r == 0)
                *ret = a;
        return r;
}

bool catalogue_same(const struct catalogue_attributes *a, const struct catalogue_attributes *b)
{
        return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->size == b->size &&
               a->mtime == b->mtime && a->mtime_ns == b->mtime_ns && a->fingerprint == b->fingerprint;
}

int catalogue_flush(struct catalogue_stream *s)
{
        if (s->error == 0 && s->end > 0)
                s->error = fd_write_all(s->fd, s->data, s->end);
        s->written += s->end;
        s->end = 0;
        return s->error;
}

void catalogue_put(struct catalogue_stream *s, const void *data, size_t size)
{
        if (s->error < 0)
                return;
        if (size > sizeof(s->data) - s->end && catalogue_flush(s) < 0)
                return;
        if (size > sizeof(s->data)) {
                s->error = -EMSGSIZE;
                return;
        }
        memcpy(s->data + s->end, data, size);
        s->end += size;
}

void catalogue_put_number(struct catalogue_stream *s, uint64_t value, size_t bytes)
{
        unsigned char b[8];

        for (size_t i = 0; i < bytes; i++)
                b[i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
        catalogue_put(s, b, bytes);
}

int catalogue_get(struct catalogue_stream *s, void *data, size_t size)
{
        unsigned char *to = data;

        while (s->error == 0 && size > 0) {
                if (s->start == s->end) {
                        size_t most = s->bounded && s->left < sizeof(s->data) ? (size_t)s->left : sizeof(s->data);
                        if (most == 0) {
                                s->error = -EPROTO;
                                break;
                        }
                        ssize_t n = read(s->fd, s->data, most);
                        if (n < 0 && errno == EINTR)
                                continue;
                        if (n <= 0) {
                                s->error = n < 0 ? -errno : -ECONNRESET;
                                break;
                        }
                        s->left -= s->bounded ? (size_t)n : 0;
                        s->start = 0;
                        s->end = (size_t)n;
                }
                size_t part = s->end - s->start < size ? s->end - s->start : size;
                memcpy(to, s->data + s->start, part);
                s->start += part;
                to += part;
                size -= part;
        }
        return s->error;
}

uint64_t catalogue_get_number(struct catalogue_stream *s, size_t bytes)
{
        unsigned char b[8] = {0};
        uint64_t value = 0;

        if (catalogue_get(s, b, bytes) < 0)
                return 0;
        for (size_t i = 0; i < bytes; i++)
                value = value << 8 | b[i];
        return value;
}
