/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "haulers/lxc/lxc.h"

bool lxc_config_has_address(const char *config, const char *address)
{
        const size_t n = strlen(address);

        for (const char *line = config; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                const char *start = line + strspn(line, " \t");
                const char *end = line + strcspn(line, "\n"), *at = memchr(line, '=', (size_t)(end - line));
                if (!at || strncmp(start, "lxc.net.", 8) != 0)
                        continue;
                at += 1 + strspn(at + 1, " \t");
                if (at + n <= end && strncasecmp(at, address, n) == 0 && strchr("/ \t\n", at[n]))
                        return true;
        }
        return false;
}

bool lxc_address_taken(const char *lxcpath, const char *address, char ret_owner[static NAME_MAX_LENGTH + 1])
{
        struct dirent *entry;
        bool taken = false;

        AUTO_DIR DIR *dir = opendir(lxcpath);
        while (dir && !taken && (entry = readdir(dir))) {
                AUTO_FREE char *text = NULL;
                char path[300];
                (void)snprintf(path, sizeof(path), "%s/config", entry->d_name);
                if (!name_is_valid(entry->d_name) || fd_read_file(dirfd(dir), path, LXC_CONFIG_MAX, &text, NULL) < 0)
                        continue;
                taken = lxc_config_has_address(text, address);
                if (taken)
                        (void)snprintf(ret_owner, NAME_MAX_LENGTH + 1, "%.*s", NAME_MAX_LENGTH, entry->d_name);
        }
        return taken;
}

/* "name (enforce)" on each line; names may hold blanks. */
bool lxc_profile_loaded(const char *profiles, const char *profile)
{
        const size_t n = strlen(profile);

        for (const char *line = profiles; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, profile, n) == 0 && strncmp(line + n, " (", 2) == 0)
                        return true;
        }
        return false;
}
