/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/spawn.h"
#include "cli/bundle.h"
#include "cli/cli.h"
#include "cli/redact.h"
#include "cli/tar.h"

/*
 * Everything that helps to understand a failed migration, in one archive. What phauld tells comes through the API; the
 * records of migrations, which only root may read, are read beside it: they matter most when phauld does not run. Keys
 * of /etc/phaul are not even opened, nor anything of a workload's memory, environment or files.
 */
#define RECEIVE_LOG "/run/phaul/receive.log"
#define STATE_DIR "/var/lib/phaul"
#define MIGRATIONS_MAX 20

static const char *const commands[][8] = {
        {"versions/criu.txt", "criu", "--version"},
        {"versions/rsync.txt", "rsync", "--version"},
        {"versions/lxc.txt", "lxc-info", "--version"},
        {"versions/systemd.txt", "systemctl", "--version"},
        {"kernel/criu-check.txt", "criu", "--no-default-config", "check"},
        {"kernel/criu-check-all.txt", "criu", "--no-default-config", "check", "--all"},
        {"kernel/modules.txt", "lsmod"},
        {"network/links.txt", "ip", "-details", "link", "show"},
        {"network/addresses.txt", "ip", "address", "show"},
        {"network/bridge.txt", "bridge", "link", "show"},
        {"logs/phauld.txt", "journalctl", "--unit=phauld", "--lines=2000", "--no-pager", "--output=short-iso"},
};

static const char *const files[][2] = {
        {"system/os-release.txt", "/etc/os-release"},
        {"system/memory.txt", "/proc/meminfo"},
        {"system/mounts.txt", "/proc/self/mountinfo"},
        {"system/file-systems.txt", "/proc/filesystems"},
        {"system/cgroups-of-this-process.txt", "/proc/self/cgroup"},
        {"system/cgroup-controllers.txt", "/proc/cgroups"},
        {"system/status-of-process-1.txt", "/proc/1/status"},
        {"system/ids-user.txt", "/etc/subuid"},
        {"system/ids-group.txt", "/etc/subgid"},
        {"kernel/version.txt", "/proc/version"},
        {"configuration/phaul.conf", PHAUL_SYSCONFDIR "/phaul/phaul.conf"},
        {"configuration/lxc.conf", "/etc/lxc/lxc.conf"},
};

static const char *const questions[][2] = {
        {"phaul/host.json", "/host"},
        {"phaul/hosts.json", "/hosts"},
        {"phaul/ps.json", "/workloads"},
        {"phaul/list.json", "/migrations?limit=100"},
};

/* -- the host ----------------------------------------------------------------------------------------------------- */

/* Bits of the kernel's configuration that CRIU, containers and phaul depend on. */
static bool is_interesting(const char *line, size_t n)
{
        static const char *const parts[] = {
                "CHECKPOINT", "USERFAULT", "SOFT_DIRTY", "_DIAG",   "NAMESPACES", "_NS=",     "_NS is",
                "CGROUP",     "VETH",      "BRIDGE=",    "BRIDGE ", "NF_TABLES",  "TUN=",     "OVERLAY_FS",
                "FHANDLE",    "EVENTFD",   "EPOLL",      "SECCOMP", "APPARMOR",   "IO_URING", "X86_USER_SHADOW",
        };

        for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
                if (memmem(line, n, parts[i], strlen(parts[i])))
                        return true;
        return false;
}

static void keep_interesting(char *text)
{
        char *to = text;

        for (const char *line = text; *line;) {
                size_t n = strcspn(line, "\n"), whole = n + (line[n] == '\n');
                if (is_interesting(line, n)) {
                        memmove(to, line, whole);
                        to += whole;
                }
                line += whole;
        }
        *to = '\0';
}

static void add_kernel_config(struct bundle *b)
{
        static const char *const unpack[] = {"zcat", "/proc/config.gz", NULL};
        const struct spawn_options options = {.argv = unpack, .die_with_parent = true};
        AUTO_FREE char *text = NULL;
        struct utsname name;
        char path[128];

        (void)uname(&name);
        (void)snprintf(path, sizeof(path), "/boot/config-%s", name.release);
        if (bundle_read(path, &text) < 0 &&
            (access(unpack[1], R_OK) < 0 || spawn_capture(&options, 10000, BUNDLE_TEXT_MAX, &text, NULL) != 0)) {
                bundle_miss(b, "the kernel's configuration", "neither in /boot nor in /proc/config.gz");
                return;
        }
        keep_interesting(text);
        bundle_text(b, "kernel/config.txt", text);
}

static void add_conf_d(struct bundle *b)
{
        static const char folder[] = PHAUL_SYSCONFDIR "/phaul/conf.d";
        struct dirent **entries = NULL;
        char name[128], path[PATH_MAX];

        int n = scandir(folder, &entries, NULL, alphasort);
        for (int i = 0; i < n; i++) {
                size_t length = strlen(entries[i]->d_name);
                if (length > 5 && strcmp(entries[i]->d_name + length - 5, ".conf") == 0) {
                        /* The name in the archive is ours: theirs may be anything. */
                        (void)snprintf(name, sizeof(name), "configuration/conf.d-%02d.conf", i);
                        (void)snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
                        bundle_file(b, name, path, redact_text);
                }
                free(entries[i]);
        }
        free(entries);
}

static void add_host(struct bundle *b)
{
        for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
                bundle_file(b, files[i][0], files[i][1], redact_text);
        add_conf_d(b);
        add_kernel_config(b);
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
                bundle_command(b, commands[i][0], commands[i] + 1);
        bundle_listing(b, "system/cgroups.txt", "/sys/fs/cgroup", 5, false);
        bundle_listing(b, "state/run.txt", "/run/phaul", 2, true);
        bundle_listing(b, "state/migrations.txt", STATE_DIR "/migrations", 2, true);
        bundle_listing(b, "state/released.txt", STATE_DIR "/released", 1, true);
}

/* -- phaul -------------------------------------------------------------------------------------------------------- */

static void ask(struct cli *cli, struct bundle *b, const char *name, const char *path, json_t **ret)
{
        json_t *answer = NULL;
        struct error err = {0};

        *ret = NULL;
        if (cli_call(cli, "GET", path, NULL, &answer, &err) < 0) {
                bundle_miss(b, path, err.text);
                return;
        }
        *ret = json_deep_copy(answer);
        bundle_json(b, name, answer);
        json_decref(answer);
}

/* Configuration and log of liblxc of each container. */
static void add_containers(struct bundle *b, const json_t *inventory)
{
        static const char *const argv[] = {"lxc-config", "lxc.lxcpath", NULL};
        const struct spawn_options options = {.argv = argv, .die_with_parent = true};
        AUTO_FREE char *lxcpath = NULL;
        char name[128], path[PATH_MAX];
        json_t *w;
        size_t i;

        if (spawn_capture(&options, 5000, 4096, &lxcpath, NULL) != 0)
                return;
        lxcpath[strcspn(lxcpath, "\n")] = '\0';
        json_array_foreach(json_object_get(inventory, "workloads"), i, w)
        {
                const char *id = cli_text(w, "id");
                if (strcmp(cli_text(w, "kind"), "lxc") != 0 || !name_is_valid(id))
                        continue;
                (void)snprintf(name, sizeof(name), "lxc/%s/config", id);
                (void)snprintf(path, sizeof(path), "%s/%s/config", lxcpath, id);
                bundle_file(b, name, path, redact_lxc_config);
                (void)snprintf(name, sizeof(name), "lxc/%s/phaul.log", id);
                (void)snprintf(path, sizeof(path), "%s/%s/phaul.log", lxcpath, id);
                if (access(path, F_OK) == 0)
                        bundle_file(b, name, path, redact_text);
        }
}

struct found {
        char id[ID_LENGTH + 1];
        time_t changed;
};

static int younger_first(const void *a, const void *b)
{
        const struct found *x = a, *y = b;

        return (x->changed < y->changed) - (x->changed > y->changed);
}

/* Directories of migrations here, all of them. Caller frees. */
static size_t find_migrations(struct found **ret)
{
        AUTO_DIR DIR *dir = opendir(STATE_DIR "/migrations");
        struct found *found = NULL;
        const struct dirent *e;
        struct stat st;
        size_t n = 0;

        while (dir && (e = readdir(dir))) {
                if (!id_is_valid(e->d_name) || fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                    !S_ISDIR(st.st_mode))
                        continue;
                struct found *more = reallocarray(found, n + 1, sizeof(*found));
                if (!more)
                        break;
                found = more;
                (void)snprintf(found[n].id, sizeof(found[n].id), "%.*s", ID_LENGTH, e->d_name);
                found[n++].changed = st.st_mtime;
        }
        if (n)
                qsort(found, n, sizeof(*found), younger_first);
        *ret = found;
        return n;
}

static void add_migration(struct bundle *b, const char *id)
{
        static const char *const documents[] = {"request.json", "report.json", "record"};
        char name[128], path[PATH_MAX];

        for (size_t i = 0; i < sizeof(documents) / sizeof(documents[0]); i++) {
                (void)snprintf(name, sizeof(name), "migrations/%.8s/%s", id, documents[i]);
                (void)snprintf(path, sizeof(path), STATE_DIR "/migrations/%s/%s", id, documents[i]);
                bundle_json_file(b, name, path);
        }
        (void)snprintf(name, sizeof(name), "migrations/%.8s/log", id);
        (void)snprintf(path, sizeof(path), STATE_DIR "/migrations/%s/log", id);
        bundle_file(b, name, path, redact_text);
}

static void add_migrations(struct cli *cli, struct bundle *b, const json_t *list)
{
        AUTO_FREE struct found *found = NULL;
        char name[128], path[128];
        json_t *m, *ignored;
        size_t i, asked = 0;

        if (access(STATE_DIR, R_OK | X_OK) < 0)
                bundle_miss(b, STATE_DIR "/migrations", strerrordesc_np(errno));
        size_t n = find_migrations(&found);
        for (i = 0; i < n && i < MIGRATIONS_MAX; i++)
                add_migration(b, found[i].id);
        json_array_foreach(list, i, m)
        {
                const char *id = cli_text(m, "id");
                if (!id_is_valid(id) || asked++ >= MIGRATIONS_MAX)
                        continue;
                (void)snprintf(name, sizeof(name), "migrations/%.8s/show.json", id);
                (void)snprintf(path, sizeof(path), "/migrations/%s", id);
                ask(cli, b, name, path, &ignored);
                json_decref(ignored);
        }
}

static void add_phaul(struct cli *cli, struct bundle *b)
{
        json_t *answers[sizeof(questions) / sizeof(questions[0])];
        char text[256];

        for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
                ask(cli, b, questions[i][0], questions[i][1], &answers[i]);
        (void)snprintf(text, sizeof(text), "phaul %s\nphauld %s\n", PHAUL_VERSION,
                       answers[0] ? cli_text(answers[0], "version") : "does not answer");
        bundle_text(b, "versions/phaul.txt", text);
        if (!answers[0])
                (void)fprintf(stderr, "phaul: phauld does not answer; the report has what there is without it\n");
        add_containers(b, answers[2]);
        add_migrations(cli, b, answers[3]);
        if (access(RECEIVE_LOG, R_OK) == 0) /* of a phauld that `phaul receive` started */
                bundle_file(b, "logs/receive.txt", RECEIVE_LOG, redact_text);
        for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
                json_decref(answers[i]);
}

/* -- the archive -------------------------------------------------------------------------------------------------- */

static int write_report(struct cli *cli, struct bundle *b, struct error *err)
{
        AUTO_FREE char *text = NULL;

        add_phaul(cli, b);
        add_host(b);
        if (asprintf(&text,
                     "A report of `phaul bugreport`. Keys, codes, memory, environments and command lines of workloads\n"
                     "are not in it, and what looks like a secret is [redacted]; look through it all the same before\n"
                     "you pass it on: names of hosts, users, containers and addresses are in it.\n\n"
                     "What could not be had:\n%s",
                     b->missing ? b->missing : "nothing\n") < 0)
                text = NULL;
        bundle_text(b, "README.txt", text ? text : "");
        if (b->failed == 0)
                b->failed = tar_end(b->fd);
        return b->failed < 0 ? error_errno(err, -b->failed, "cannot write the report") : 0;
}

static void name_it(struct bundle *b)
{
        char host[NAME_MAX_LENGTH + 1] = "", when[32];
        time_t now = time(NULL);
        struct tm tm;

        b->now_s = now;
        if (gethostname(host, sizeof(host) - 1) < 0 || !name_is_valid(host))
                (void)snprintf(host, sizeof(host), "host");
        if (!gmtime_r(&now, &tm) || strftime(when, sizeof(when), "%Y%m%d-%H%M%S", &tm) == 0)
                (void)snprintf(when, sizeof(when), "now");
        (void)snprintf(b->folder, sizeof(b->folder), "phaul-bugreport-%s-%s", host, when);
}

/* A file of its own, never one that is there: it might be readable by others, or a link to somewhere. */
static int open_output(const char *path, struct error *err)
{
        char quoted[160];

        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        return fd < 0 ? error_errno(err, errno, "cannot make %s", name_quote(path, quoted, sizeof(quoted))) : fd;
}

static int print_path(struct cli *cli, const char *path, struct error *err)
{
        if (!cli->json) {
                (void)printf("%s\n", path);
                return 0;
        }
        json_t *o = json_pack("{s:s}", "path", path);
        int r = cli_print_json(o, err);
        json_decref(o);
        return r;
}

int verb_bugreport(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *output = NULL;
        const struct cli_option options[] = {{.name = "output", .value = &output}, {.name = NULL}};
        struct bundle b = {.fd = STDOUT_FILENO};
        char standard[sizeof(b.folder) + 8], **rest;
        AUTO_FD int fd = -1;
        int n;

        int r = cli_options(cli, argc, argv, options, 0, 0, &rest, &n, err);
        if (r < 0)
                return r;
        name_it(&b);
        (void)snprintf(standard, sizeof(standard), "%s.tar", b.folder);
        if (!output)
                output = standard;
        bool to_stdout = strcmp(output, "-") == 0;
        if (to_stdout && isatty(STDOUT_FILENO))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "an archive does not go to a terminal");
        if (!to_stdout) {
                b.fd = fd = open_output(output, err);
                if (fd < 0)
                        return fd;
        }
        (void)signal(SIGPIPE, SIG_IGN); /* a reader that ends is an error like others */
        r = write_report(cli, &b, err);
        bundle_done(&b);
        if (r < 0 && !to_stdout)
                (void)unlink(output);
        return r == 0 && !to_stdout ? print_path(cli, output, err) : r;
}
