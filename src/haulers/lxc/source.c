/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"

#define MONITOR_MS 10000

/* ------------------------------------------------------------------------------------------------------------- dump */

static int fill_roots(struct lxc_private *p, struct criu_dump_options *options)
{
        const json_t *entry, *cgroups = json_object_get(p->info, "cgroups");
        size_t i;

        free(p->roots);
        p->roots = calloc(json_array_size(cgroups) + 1, sizeof(*p->roots));
        if (!p->roots)
                return -ENOMEM;
        json_array_foreach(cgroups, i, entry)
        {
                const char *controllers = json_text(entry, "controllers");
                p->roots[i].controllers = controllers[0] ? controllers : NULL;
                p->roots[i].path = json_text(entry, "path");
        }
        options->cgroup_roots = p->roots;
        options->n_cgroup_roots = json_array_size(cgroups);
        return 0;
}

/* As liblxc does it: the key is the place inside, the value a name by which the restore finds what belongs there; on a
 * restore liblxc gives CRIU that name again, together with the path on its own host. */
static int fill_mounts(struct lxc_private *p, struct criu_dump_options *options)
{
        const json_t *entry, *mounts = json_object_get(p->info, "mounts");
        size_t i, n = json_array_size(mounts);

        free(p->mounts);
        p->mounts = calloc(n + 1, sizeof(*p->mounts));
        if (!p->strings)
                p->strings = calloc(n + 1, sizeof(*p->strings));
        if (!p->mounts || !p->strings)
                return -ENOMEM;
        json_array_foreach(mounts, i, entry)
        {
                if (i >= p->n_strings) {
                        p->strings[i] = format_new("/%s", json_text(entry, "target"));
                        if (!p->strings[i])
                                return -ENOMEM;
                        p->n_strings++;
                }
                p->mounts[i].key = p->strings[i];
                p->mounts[i].value = json_text(entry, "target");
        }
        options->mounts = p->mounts;
        options->n_mounts = n;
        return 0;
}

/* The options of liblxc's own exec_criu(), so that its restore finds what it expects. */
int lxc_dump_options(struct workload *w, struct criu_dump_options *options, struct error *err)
{
        static const char *const enable_fs[] = {"hugetlbfs", "tracefs", NULL};
        struct lxc_private *p = w->private_data;

        if (fill_roots(p, options) < 0 || fill_mounts(p, options) < 0)
                return error_set(err, ENOMEM, "out of memory");
        options->pid = w->init_pid;
        options->enable_fs = enable_fs;
        options->tcp_established = true;
        options->tcp_skip_in_flight = true;
        options->file_locks = true;
        options->link_remap = true;
        options->force_irmap = true;
        options->external_mounts_auto = true;
        options->external_sharing = true;
        options->external_masters = true;
        options->manage_cgroups_full = true;
        return 0;
}

/* ---------------------------------------------------------------------------------------------------------- release */

/*
 * Where the container lies. Found anew: after a crash nothing is left of what examine() knew but name and description.
 */
struct place {
        char *lxcpath, *base;
        json_t *description;
};

static void place_done(struct place *place)
{
        free(place->lxcpath);
        free(place->base);
        json_decref(place->description);
}

static int find_place(const struct workload *w, struct place *place, struct error *err)
{
        if (!name_is_valid(w->id))
                return error_set(err, EINVAL, "that is not the name of a container");
        int r = lxc_tool_path(&place->lxcpath, err);
        if (r < 0)
                return r;
        place->base = format_new("%s/%s", place->lxcpath, w->id);
        place->description = w->description ? json_loads(w->description, 0, NULL) : NULL;
        return place->base ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* The dead take a moment to be gone, and then the monitor cleans up: cgroups, hooks. One that does not is helped along.
 */
static int wait_for_end(const char *name, struct error *err)
{
        uint64_t deadline = clock_ms() + MONITOR_MS;

        while (lxc_cgroup_populated(name, true) && clock_ms() < deadline)
                (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        if (lxc_cgroup_populated(name, false))
                return error_set(err, EBUSY, "container '%s' still has tasks", name);
        return lxc_cgroup_kill(name, MONITOR_MS, err);
}

static int write_note(const char *directory, const struct place *place, struct error *err)
{
        AUTO_FREE char *path = format_new("%s/phaul-released.txt", directory);
        AUTO_FREE char *text = format_new(
                "This container was migrated away. It was defined in %s; its root file system is %s.\n"
                "Directories named here that lie elsewhere were left where they are.\n"
                "If they are shared with the host it went to, they are in use there: two must not run on them.\n"
                "To go back: rename config.released to config if it is called so, and move this directory to %s.\n",
                place->base, json_text(place->description, "rootfs"), place->base);

        if (!path || !text)
                return error_set(err, ENOMEM, "out of memory");
        int r = fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        return r < 0 ? error_errno(err, -r, "cannot write %s", path) : 0;
}

/*
 * From COMMIT on the container must not be started here by anybody, lxc-autostart after a reboot included: its
 * configuration goes under a name that no tool of LXC looks for.
 */
static int rename_config(struct workload *w, const char *from, const char *to, struct error *err)
{
        struct place place = {0};

        int r = find_place(w, &place, err);
        AUTO_FD int dir = r == 0 ? open(place.base, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (r == 0 && dir < 0)
                r = error_errno(err, errno, "cannot open %s", place.base);
        /* Done before: then the name it comes from is gone. */
        if (r == 0 && faccessat(dir, from, F_OK, 0) == 0 && (renameat(dir, from, dir, to) < 0 || fsync(dir) < 0))
                r = error_errno(err, errno, "cannot rename %s/%s", place.base, from);
        place_done(&place);
        return r;
}

int lxc_disarm(struct workload *w, struct error *err)
{
        return rename_config(w, "config", LXC_CONFIG_DISARMED, err);
}

int lxc_rearm(struct workload *w, struct error *err)
{
        return rename_config(w, LXC_CONFIG_DISARMED, "config", err);
}

/*
 * `released` is on another file system: nothing is copied, the directory stays in lxcpath under a hidden name, without
 * a file that any tool of LXC would take for a configuration, and `released` gets a link to it.
 */
static int put_aside(const struct place *place, const char *released, struct error *err)
{
        AUTO_FREE char *copy = strdup(released);
        if (!copy)
                return error_set(err, ENOMEM, "out of memory");
        AUTO_FREE char *aside = format_new("%s/.phaul-released-%s", place->lxcpath, basename(copy));
        AUTO_FREE char *config = format_new("%s/" LXC_CONFIG_DISARMED, place->base);
        AUTO_FREE char *renamed = format_new("%s/config.released", place->base);
        AUTO_FREE char *link = format_new("%s/container", released);

        if (!aside || !config || !renamed || !link)
                return error_set(err, ENOMEM, "out of memory");
        int r = fd_mkdir_p(released, 0700);
        if (r < 0)
                return error_errno(err, -r, "cannot make %s", released);
        if (symlink(aside, link) < 0 && errno != EEXIST)
                return error_errno(err, errno, "cannot make %s", link);
        r = write_note(released, place, err);
        if (r < 0)
                return r;
        if (rename(config, renamed) < 0 && errno != ENOENT)
                return error_errno(err, errno, "cannot rename %s", config);
        return rename(place->base, aside) < 0 ? error_errno(err, errno, "cannot put %s aside", place->base) : 0;
}

static int move_away(const struct place *place, const char *released, struct error *err)
{
        struct stat st;

        if (lstat(place->base, &st) < 0 && errno == ENOENT)
                return 0; /* done before */
        AUTO_FREE char *copy = strdup(released);
        if (!copy)
                return error_set(err, ENOMEM, "out of memory");
        int r = fd_mkdir_p(dirname(copy), 0700);
        if (r < 0)
                return error_errno(err, -r, "cannot make the directory of %s", released);
        r = write_note(place->base, place, err);
        if (r < 0)
                return r;
        /* An empty directory that is there already is replaced. Out of LXC's sight the configuration may have its name
         * again. */
        if (rename(place->base, released) == 0) {
                AUTO_FREE char *from = format_new("%s/" LXC_CONFIG_DISARMED, released);
                AUTO_FREE char *to = format_new("%s/config", released);
                return !from || !to || (rename(from, to) < 0 && errno != ENOENT)
                               ? error_set(err, EIO, "cannot name the configuration in %s", released)
                               : 0;
        }
        if (errno == EXDEV)
                return put_aside(place, released, err);
        return error_errno(err, errno, "cannot move %s to %s", place->base, released);
}

int lxc_release(struct workload *w, const char *released, struct error *err)
{
        struct place place = {0};

        int r = wait_for_end(w->id, err);
        if (r == 0)
                r = find_place(w, &place, err);
        if (r == 0)
                r = move_away(&place, released, err);
        place_done(&place);
        return r;
}
