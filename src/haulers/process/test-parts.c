/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/test-parts.h"

#include <dirent.h>
#include <string.h>

#include "base/cleanup.h"

size_t entries(const char *directory)
{
        size_t n = 0;

        AUTO_DIR DIR *dir = opendir(directory);
        for (const struct dirent *e; dir && (e = readdir(dir));)
                n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
        return n;
}
