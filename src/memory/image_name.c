/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "memory/image_stream.h"

bool image_name_is_pages(const char *name)
{
        return strncmp(name, "pages-", 6) == 0 || strncmp(name, "pagemap-", 8) == 0;
}

bool image_name_is_valid(const char *name)
{
        static const char *const suffix = ".img";
        size_t length = strnlen(name, IMAGE_NAME_MAX + 1);

        if (strcmp(name, "tty.info") == 0)
                return true;
        /* Dots are needed for tmpfs-dev-57.tar.gz.img. */
        if (length > IMAGE_NAME_MAX || length <= strlen(suffix) || name[0] < 'a' || name[0] > 'z')
                return false;
        if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != length || strstr(name, ".."))
                return false;
        return strcmp(name + length - strlen(suffix), suffix) == 0;
}
