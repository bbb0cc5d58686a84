/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/files.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * SHA-256, cut to 128 bits. Of a file of more than 64 MiB only 256 pieces are read, evenly spread: a pre-flight must
 * not take minutes, and what is wanted is to tell another version, not a forged one.
 */
#define PIECE (256U << 10)
#define WHOLE_MAX (64ULL << 20)
#define PIECES 256

static void free_digest(EVP_MD_CTX **context)
{
        EVP_MD_CTX_free(*context);
}

static int digest_content(EVP_MD_CTX *context, int fd, uint64_t size)
{
        const uint64_t step = size > WHOLE_MAX ? (size - PIECE) / (PIECES - 1) : PIECE;

        AUTO_FREE void *buffer = malloc(PIECE);
        if (!buffer)
                return -ENOMEM;
        for (uint64_t at = 0; at < size; at += step) {
                ssize_t n = pread(fd, buffer, PIECE, (off_t)at);
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break; /* it has shrunk */
                if (EVP_DigestUpdate(context, buffer, (size_t)n) != 1)
                        return -EIO;
        }
        return 0;
}

int process_file_digest(const char *path, uint64_t *ret_size, char ret[static 33])
{
        unsigned char sum[EVP_MAX_MD_SIZE];
        struct stat st;

        AUTO_FD int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return errno == ELOOP ? -EINVAL : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        CLEANUP(free_digest) EVP_MD_CTX *context = EVP_MD_CTX_new();
        if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1)
                return -ENOMEM;
        int r = digest_content(context, fd, (uint64_t)st.st_size);
        if (r < 0)
                return r;
        if (EVP_DigestFinal_ex(context, sum, NULL) != 1)
                return -EIO;
        for (size_t i = 0; i < 16; i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", sum[i]);
        *ret_size = (uint64_t)st.st_size;
        return 0;
}
