/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "preflight/scan.h"

#define SYSTEMCTL_MS 2000

/* The last part that ends in ".service" of systemd's own line: "0::/system.slice/web.service" (or "1:name=systemd:").
 */
const char *unit_of(const char *cgroup, char *buffer, size_t size)
{
        static const char suffix[] = ".service";

        buffer[0] = '\0';
        for (const char *line = cgroup; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, "0::", 3) != 0 && !strstr(line, ":name=systemd:"))
                        continue;
                const char *end = line + strcspn(line, "\n");
                for (const char *part = line; (part = memchr(part, '/', (size_t)(end - part)));) {
                        part++;
                        size_t n = strcspn(part, "/\n");
                        if (n >= sizeof(suffix) && n < size && memcmp(part + n - 8, suffix, 8) == 0)
                                (void)snprintf(buffer, size, "%.*s", (int)n, part);
                }
        }
        return buffer;
}

/* "Restart=always": all but no and on-success take a kill for a failure. */
static bool starts_again(const char *shown)
{
        const char *restart = strstr(shown, "Restart=");

        restart = restart ? restart + strlen("Restart=") : "no";
        return strncmp(restart, "no\n", 3) != 0 && strcmp(restart, "no") != 0 &&
               strncmp(restart, "on-success", 10) != 0;
}

void unit_scan(struct scan *s, pid_t pid)
{
        AUTO_FREE char *cgroup = NULL, *shown = NULL;
        char path[64], unit[256];
        struct error ignored = {0};

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        if (fd_read_file(AT_FDCWD, path, 65536, &cgroup, NULL) < 0 || !*unit_of(cgroup, unit, sizeof(unit)))
                return;
        const char *const argv[] = {"systemctl", "show", "--property=Restart", "--", unit, NULL};
        const struct spawn_options options = {.argv = argv, .die_with_parent = true};
        /* Where there is no systemctl there is nobody who would start it again. */
        if (spawn_capture(&options, SYSTEMCTL_MS, 4096, &shown, &ignored) == 0 && starts_again(shown))
                findings_note(&s->findings, PROBLEM_RESTARTED, "process %d in %s", (int)pid, unit);
        else
                findings_note(&s->findings, PROBLEM_UNIT, "process %d in %s", (int)pid, unit);
}
