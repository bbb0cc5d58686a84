/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json_text.h"

/* Is `line` (up to its newline) an assignment of `key`, as liblxc reads lines: blanks around key and "=" mean nothing?
 */
static bool assigns(const char *line, const char *key)
{
        size_t n = strlen(key);

        while (*line == ' ' || *line == '\t')
                line++;
        if (strncmp(line, key, n) != 0)
                return false;
        line += n;
        while (*line == ' ' || *line == '\t')
                line++;
        return *line == '=';
}

/*
 * liblxc takes the last assignment, and an include may hold one as well: ours goes to the end, the file's own go away.
 * The old spelling "lxc.rootfs" is refused by every liblxc that is supported here, and would only confuse.
 */
int lxc_config_rewrite(const char *text, const char *rootfs, char **ret, struct error *err)
{
        size_t size = strlen(text) + strlen(rootfs) + 64;

        if (size > LXC_CONFIG_MAX)
                return error_set_kind(err, ERROR_REFUSED, EFBIG, "the configuration is too large");
        if (strpbrk(rootfs, "\n\r"))
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "malformed path of a root file system");
        AUTO_FREE char *out = malloc(size);
        if (!out)
                return error_set(err, ENOMEM, "out of memory");
        size_t used = 0;
        for (const char *line = text; *line;) {
                size_t n = strcspn(line, "\n");
                if (line[n] == '\n')
                        n++;
                if (!assigns(line, "lxc.rootfs.path") && !assigns(line, "lxc.rootfs")) {
                        memcpy(out + used, line, n);
                        used += n;
                }
                line += n;
        }
        if (used && out[used - 1] != '\n')
                out[used++] = '\n';
        (void)snprintf(out + used, size - used, "lxc.rootfs.path = %s\n", rootfs);
        *ret = TAKE_PTR(out);
        return 0;
}

const char *lxc_network_name(const json_t *network, size_t position, char buffer[static 16])
{
        const char *name = json_text(network, "name");

        if (name[0])
                (void)snprintf(buffer, 16, "%s", name);
        else
                (void)snprintf(buffer, 16, "eth%u", (unsigned)(position % 1000));
        return buffer;
}
