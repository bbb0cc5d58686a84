/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "preflight/scan.h"

/*
 * systemd sees a unit end when its main process does, or, where it knows of none, when the last process of its cgroup
 * does. Only then it starts it again.
 */
#define SYSTEMCTL_MS 2000
#define CGROUP_MAX 65536

static const char suffix[] = ".service";

/* The part of one line that names a service, and where its path ends; the last of them. */
static void find_in(const char *path, const char *end, struct unit *ret)
{
        for (const char *part = path; (part = memchr(part, '/', (size_t)(end - part)));) {
                part++;
                const size_t n = strcspn(part, "/\n"), whole = (size_t)(part - path) + n;
                if (n < sizeof(suffix) || memcmp(part + n - (sizeof(suffix) - 1), suffix, sizeof(suffix) - 1) != 0 ||
                    n >= sizeof(ret->name) || whole >= sizeof(ret->path))
                        continue;
                /* What lies below "user@1000.service" is a unit of that user's own manager. */
                unsigned uid;
                ret->user = sscanf(ret->name, "user@%u.service", &uid) == 1;
                ret->uid = ret->user ? (uid_t)uid : 0;
                (void)snprintf(ret->name, sizeof(ret->name), "%.*s", (int)n, part);
                (void)snprintf(ret->path, sizeof(ret->path), "%.*s", (int)whole, path);
        }
}

/* systemd's own line: "0::/system.slice/web.service", or "1:name=systemd:/system.slice/web.service". */
bool unit_find(const char *cgroup, struct unit *ret)
{
        *ret = (struct unit){0};
        for (const char *line = cgroup; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, "0::", 3) != 0 && !strstr(line, ":name=systemd:"))
                        continue;
                const char *end = line + strcspn(line, "\n"), *path = memchr(line, '/', (size_t)(end - line));
                if (path)
                        find_in(path, end, ret);
        }
        return ret->name[0] != '\0';
}

static bool unit_of(pid_t pid, struct unit *ret)
{
        AUTO_FREE char *cgroup = NULL;
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        return fd_read_file(AT_FDCWD, path, CGROUP_MAX, &cgroup, NULL) == 0 && unit_find(cgroup, ret);
}

/* Whether somebody of that unit does not belong to the tree. */
static bool has_others(const struct unit *unit, const struct border *border)
{
        struct dirent *entry;
        struct unit other;

        AUTO_DIR DIR *proc = opendir("/proc");
        while (proc && (entry = readdir(proc))) {
                const pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
                if (pid > 0 && unit_of(pid, &other) && strcmp(other.path, unit->path) == 0 &&
                    border_where(border, pid) == BORDER_OUTSIDE)
                        return true;
        }
        return false;
}

/* "Restart=always": all but no and on-success take a kill for a failure. */
static bool starts_again(const char *shown)
{
        const char *restart = strstr(shown, "Restart=");

        restart = restart ? restart + strlen("Restart=") : "no";
        return strncmp(restart, "no\n", 3) != 0 && strcmp(restart, "no") != 0 &&
               strncmp(restart, "on-success", 10) != 0;
}

pid_t unit_main_pid(const char *shown)
{
        const char *pid = strstr(shown, "MainPID=");

        return pid ? (pid_t)strtol(pid + strlen("MainPID="), NULL, 10) : 0;
}

enum problem unit_judge(const char *shown, bool stays)
{
        if (stays)
                return PROBLEM_UNIT_STAYS;
        return starts_again(shown) ? PROBLEM_RESTARTED : PROBLEM_UNIT;
}

/* A user's manager answers that user; nobody has to be logged in for it. */
static int ask(const struct unit *unit, char **ret)
{
        const char *argv[] = {"systemctl", "show", "--property=Restart,MainPID", "--", unit->name, NULL, NULL};
        char runtime[64];
        const char *const env[] = {runtime, NULL};
        struct spawn_options options = {.argv = argv, .env = env, .die_with_parent = true};
        struct spawn_user user;
        struct error ignored = {0};

        (void)snprintf(runtime, sizeof(runtime), "XDG_RUNTIME_DIR=/run/user/%u", (unsigned)unit->uid);
        if (!unit->user) {
                options.env = NULL;
        } else {
                if (spawn_user_find(unit->uid, &user, &ignored) < 0)
                        return -ENOENT;
                options.user = &user;
                argv[5] = argv[4];
                argv[4] = argv[3];
                argv[3] = "--user";
        }
        return spawn_capture(&options, SYSTEMCTL_MS, 4096, ret, &ignored);
}

void unit_scan(struct scan *s, pid_t root, const struct pid_list *tree)
{
        AUTO_FREE char *shown = NULL;
        struct number_set inside = {0};
        const struct border border = {.root = root, .tree = &inside};
        struct unit unit;

        /* Where there is no systemctl there is nobody who would start it again. */
        if (!unit_of(root, &unit))
                return;
        if (ask(&unit, &shown) != 0 || !shown || tree_set(tree, &inside) < 0) {
                findings_note(&s->findings, PROBLEM_UNIT, "process %d in %s", (int)root, unit.name);
                number_set_done(&inside);
                return;
        }
        const pid_t main_pid = unit_main_pid(shown);
        const bool stays =
                main_pid > 0 ? border_where(&border, main_pid) == BORDER_OUTSIDE : has_others(&unit, &border);
        findings_note(&s->findings, unit_judge(shown, stays), "process %d in %s", (int)root, unit.name);
        number_set_done(&inside);
}
