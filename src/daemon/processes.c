/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"

#define COMMAND_MAX 1024
#define KERNEL_THREAD 0x00200000U /* PF_KTHREAD in the flags of /proc/PID/stat */
#define PROCESSES_MAX 65536

struct host {
        int proc;
        ino_t pid_namespace;
        int64_t boot_ms;
        long ticks, page;
};

static int read_text(int proc, const char *pid, const char *file, size_t limit, char **ret, size_t *ret_size)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "%s/%s", pid, file);
        return fd_read_file(proc, path, limit, ret, ret_size);
}

/* The hierarchy that tells containers apart: v1's freezer (systemd does not split it), else v2's. */
static char *cgroup_of(int proc, const char *pid)
{
        AUTO_FREE char *text = NULL;
        char *best = NULL;

        if (read_text(proc, pid, "cgroup", 65536, &text, NULL) < 0)
                return NULL;
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *controllers = strchr(line, ':');
                char *path = controllers ? strchr(controllers + 1, ':') : NULL;
                if (!path)
                        continue;
                *path++ = '\0';
                bool freezer = strcmp(controllers + 1, "freezer") == 0;
                if (freezer || (controllers[1] == '\0' && !best))
                        best = path;
                if (freezer)
                        break;
        }
        return best ? strdup(best) : NULL;
}

static json_t *text_or_quoted(const char *text)
{
        char quoted[COMMAND_MAX * 4 + 8];
        json_t *value = json_string(text);

        return value ? value : json_string(name_quote(text, quoted, sizeof(quoted)));
}

static json_t *command_of(int proc, const char *pid, const char *name)
{
        AUTO_FREE char *text = NULL;
        size_t size = 0;

        int r = read_text(proc, pid, "cmdline", COMMAND_MAX * 64, &text, &size);
        if (r < 0 || size == 0)
                return text_or_quoted(name);
        while (size > 0 && text[size - 1] == '\0')
                size--;
        if (size > COMMAND_MAX)
                size = COMMAND_MAX;
        for (size_t i = 0; i < size; i++)
                if (text[i] == '\0')
                        text[i] = ' ';
        text[size] = '\0';
        return text_or_quoted(text);
}

static json_t *user_of(uid_t uid)
{
        char buffer[1024], number[16];
        struct passwd entry, *found = NULL;

        if (getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) == 0 && found)
                return text_or_quoted(found->pw_name);
        (void)snprintf(number, sizeof(number), "%u", (unsigned)uid);
        return json_string(number);
}

static json_t *process_of(const struct host *h, const char *pid)
{
        AUTO_FREE char *stat_text = NULL;
        AUTO_FREE char *cgroup = NULL;
        struct stat st, ns;
        char path[64], state;
        int ppid;
        unsigned flags;
        unsigned long long started;
        long resident;

        if (read_text(h->proc, pid, "stat", 4096, &stat_text, NULL) < 0 || fstatat(h->proc, pid, &st, 0) < 0)
                return NULL;
        char *name = strchr(stat_text, '('), *end = strrchr(stat_text, ')');
        if (!name || !end || end < name)
                return NULL;
        *end++ = '\0';
        if (sscanf(end, " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu %*u %ld",
                   &state, &ppid, &flags, &started, &resident) != 5)
                return NULL;
        if (flags & KERNEL_THREAD || state == 'Z' || state == 'X')
                return NULL;

        (void)snprintf(path, sizeof(path), "%s/ns/pid", pid);
        bool foreign = fstatat(h->proc, path, &ns, 0) == 0 && h->pid_namespace && ns.st_ino != h->pid_namespace;
        cgroup = cgroup_of(h->proc, pid);
        json_int_t started_ms = h->boot_ms + (json_int_t)(started * 1000 / (unsigned long long)h->ticks);
        return json_pack("{s:i, s:i, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:b}", "pid", atoi(pid), "ppid", ppid, "name",
                         text_or_quoted(name + 1), "command", command_of(h->proc, pid, name + 1), "user",
                         user_of(st.st_uid), "uid", (json_int_t)st.st_uid, "memory_bytes",
                         (json_int_t)resident * h->page, "started_ms", started_ms, "cgroup",
                         text_or_quoted(cgroup ? cgroup : "/"), "foreign", (int)foreign);
}

static int64_t boot_time(int proc)
{
        AUTO_FREE char *text = NULL;

        if (fd_read_file(proc, "stat", 1U << 20, &text, NULL) < 0)
                return 0;
        const char *line = strstr(text, "\nbtime ");
        return line ? strtoll(line + 7, NULL, 10) * 1000 : 0;
}

json_t *processes_list(const char *proc)
{
        AUTO_DIR DIR *dir = opendir(proc);
        json_t *list = json_array();
        struct stat ns;

        if (!dir || !list)
                return list;
        struct host h = {.proc = dirfd(dir), .ticks = sysconf(_SC_CLK_TCK), .page = sysconf(_SC_PAGESIZE)};
        h.boot_ms = boot_time(h.proc);
        if (fstatat(h.proc, "self/ns/pid", &ns, 0) == 0)
                h.pid_namespace = ns.st_ino;
        for (struct dirent *e; (e = readdir(dir)) && json_array_size(list) < PROCESSES_MAX;) {
                size_t n = strlen(e->d_name);
                if (n == 0 || n > 10 || strspn(e->d_name, "0123456789") != n || atoi(e->d_name) == getpid())
                        continue; /* we ourselves are only here to look */
                json_t *process = process_of(&h, e->d_name);
                if (process)
                        (void)json_array_append_new(list, process);
        }
        return list;
}

/* systemd inside a container moves its init into a scope of its own: the container is one above. */
static void container_cgroup(const char *cgroup, char *ret, size_t size)
{
        static const char scope[] = "/init.scope";
        size_t n = strlen(cgroup), m = sizeof(scope) - 1;

        if (n > m && strcmp(cgroup + n - m, scope) == 0)
                n -= m;
        (void)snprintf(ret, size, "%.*s", (int)n, cgroup);
}

static bool within(const char *cgroup, const char *container)
{
        size_t n = strlen(container);

        return n > 1 && strncmp(cgroup, container, n) == 0 && (cgroup[n] == '\0' || cgroup[n] == '/');
}

static json_t *owner_of(const json_t *process, json_t *workloads)
{
        const char *cgroup = json_string_value(json_object_get(process, "cgroup"));
        size_t i, longest = 0;
        json_t *w, *best = NULL;

        json_array_foreach(workloads, i, w)
        {
                const char *container = json_string_value(json_object_get(w, "cgroup"));
                if (container && cgroup && within(cgroup, container) && strlen(container) > longest) {
                        longest = strlen(container);
                        best = w;
                }
        }
        return best;
}

json_t *processes_group(json_t *processes, json_t *workloads)
{
        json_t *rest = json_array(), *w, *p;
        size_t i, k;

        json_array_foreach(workloads, i, w)
        {
                json_int_t init = json_integer_value(json_object_get(w, "init_pid"));
                char container[4096] = "";
                (void)json_object_set_new(w, "processes", json_array());
                json_array_foreach(processes, k, p)
                {
                        const char *cgroup = json_string_value(json_object_get(p, "cgroup"));
                        if (init > 0 && cgroup && json_integer_value(json_object_get(p, "pid")) == init)
                                container_cgroup(cgroup, container, sizeof(container));
                }
                (void)json_object_set_new(w, "cgroup", json_string(container));
        }
        json_array_foreach(processes, k, p)
        {
                json_t *owner = owner_of(p, workloads);
                (void)json_array_append(owner ? json_object_get(owner, "processes") : rest, p);
        }
        json_array_foreach(processes, k, p)
        {
                (void)json_object_del(p, "cgroup");
        }
        json_array_foreach(workloads, i, w)
        {
                (void)json_object_del(w, "cgroup");
        }
        return rest;
}
