/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/json_text.h"
#include "base/spawn.h"

/*
 * Stopping and starting by liblxc, for restart mode. phaul-lxc does it and ends; on a start liblxc's monitor stays.
 * A stop is over when the monitor has left as well: until then it unmounts, and runs the container's stop hooks.
 */
#define OUTPUT_MAX 65536
#define LOOK_MS 20
#define STOP_MARGIN_S 20
#define MONITOR_MS 15000
#define KILL_MS 10000
#define START_LOG_MAX (4 << 20)

struct hauler_change {
        struct loop *loop;
        struct workload *workload;
        hauler_changed_fn done;
        void *context;
        bool stops, orderly;
        pid_t pid; /* of phaul-lxc; 0 once reaped */
        int output;
        struct source *on_child, *on_look, *on_limit;
        uint64_t deadline_ms;
        struct error err;
};

static void end(struct hauler_change *c)
{
        c->done(c->orderly, &c->err, c->context);
}

/* Nothing of it may be left, whatever phaul-lxc said: the files are about to be read for the last time. */
static void look(void *context)
{
        struct hauler_change *c = context;
        const char *name = c->workload->id;

        if (lxc_cgroup_populated(name, true) && clock_ms() < c->deadline_ms) {
                (void)source_set_timer(c->on_look, LOOK_MS);
                return;
        }
        if (lxc_cgroup_populated(name, true)) {
                c->orderly = false;
                error_clear(&c->err);
                (void)lxc_cgroup_kill(name, KILL_MS, &c->err);
        } else {
                error_clear(&c->err);
        }
        end(c);
}

static void finished(pid_t pid, int status, void *context)
{
        struct hauler_change *c = context;

        (void)pid;
        c->pid = 0;
        AUTO_FREE char *output = calloc(1, OUTPUT_MAX + 1);
        ssize_t n = output ? fd_read_full(c->output, output, OUTPUT_MAX) : -ENOMEM;
        json_t *answer = n > 0 ? json_loadb(output, (size_t)n, JSON_REJECT_DUPLICATES, NULL) : NULL;

        if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && answer) {
                c->orderly = json_is_true(json_object_get(answer, "orderly"));
        } else {
                const char *text = json_text(answer, "error");
                (void)error_set(&c->err, EIO, "%s",
                                text[0]    ? text
                                : c->stops ? "phaul-lxc stop died"
                                           : "phaul-lxc start died");
        }
        json_decref(answer);
        if (!c->stops) {
                end(c);
                return;
        }
        c->deadline_ms = clock_ms() + (c->err.kind == ERROR_NONE ? MONITOR_MS : 0);
        if (loop_add_timer(c->loop, 1, look, c, &c->on_look) < 0) {
                (void)error_set(&c->err, ENOMEM, "out of memory");
                end(c);
        }
}

static int begin(struct hauler_change *c, const char *const *argv, struct error *err)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        c->output = fds[0];
        AUTO_FD int out = fds[1];
        const struct spawn_fd passed[] = {{.fd = out, .target = 1}};
        const struct spawn_options options = {
                .argv = argv, .fds = passed, .n_fds = 1, .new_session = true, .die_with_parent = true};
        int r = spawn(&options, &c->pid, NULL, err);
        if (r < 0)
                return r;
        r = loop_add_child(c->loop, c->pid, finished, c, &c->on_child);
        return r < 0 ? error_errno(err, -r, "cannot watch phaul-lxc") : 0;
}

/* A monitor that answers nobody keeps liblxc waiting for ever: then it ends here, and look() kills what is left. */
static void limit_is_up(void *context)
{
        struct hauler_change *c = context;

        if (c->pid > 0)
                (void)kill(c->pid, SIGKILL);
}

static struct hauler_change *change_new(struct loop *loop, struct workload *w, hauler_changed_fn done, void *context)
{
        struct hauler_change *c = calloc(1, sizeof(*c));

        if (c)
                *c = (struct hauler_change){
                        .loop = loop, .workload = w, .done = done, .context = context, .output = -1};
        return c;
}

int lxc_stop(struct loop *loop, struct workload *w, unsigned limit_s, hauler_changed_fn done, void *context,
             struct hauler_change **ret, struct error *err)
{
        AUTO_FREE char *lxcpath = NULL;
        char program[256], limit[16];

        int r = lxc_tool_path(&lxcpath, err);
        if (r < 0)
                return r;
        AUTO_FREE char *config = format_new("%s/%s/" LXC_CONFIG_DISARMED, lxcpath, w->id);
        struct hauler_change *c = config ? change_new(loop, w, done, context) : NULL;
        if (!c)
                return error_set(err, ENOMEM, "out of memory");
        c->stops = true;
        (void)snprintf(limit, sizeof(limit), "%u", limit_s);
        const char *const argv[] = {
                lxc_program("phaul-lxc", program, sizeof(program)), "stop", w->id, config, limit, NULL};
        r = begin(c, argv, err);
        if (r == 0 &&
            loop_add_timer(loop, ((uint64_t)limit_s + STOP_MARGIN_S) * 1000, limit_is_up, c, &c->on_limit) < 0)
                r = error_set(err, ENOMEM, "out of memory");
        if (r < 0)
                lxc_change_free(c);
        else
                *ret = c;
        return r;
}

/* What a start on the target leaves behind, see lxc_start_may_have_run(). NULL on the source. */
static char *start_log(const struct workload *w)
{
        const struct lxc_private *p = w->private_data;

        return p && p->config ? format_new("%s/phaul.log", p->base) : NULL;
}

int lxc_start(struct loop *loop, struct workload *w, hauler_changed_fn done, void *context, struct hauler_change **ret,
              struct error *err)
{
        AUTO_FREE char *log = start_log(w);
        char program[256];

        if (log && unlink(log) < 0 && errno != ENOENT)
                return error_errno(err, errno, "cannot remove %s", log);
        struct hauler_change *c = change_new(loop, w, done, context);
        if (!c)
                return error_set(err, ENOMEM, "out of memory");
        const char *const argv[] = {lxc_program("phaul-lxc", program, sizeof(program)), "start", w->id, log, NULL};
        int r = begin(c, argv, err);
        if (r < 0)
                lxc_change_free(c);
        else
                *ret = c;
        return r;
}

void lxc_change_free(struct hauler_change *c)
{
        if (!c)
                return;
        source_free(c->on_child);
        source_free(c->on_look);
        source_free(c->on_limit);
        if (c->pid > 0) {
                (void)kill(c->pid, SIGKILL);
                (void)waitpid(c->pid, NULL, 0);
        }
        if (c->output >= 0)
                (void)close(c->output);
        free(c);
}

int lxc_stopped(struct workload *w, struct error *err)
{
        AUTO_FREE char *lxcpath = NULL;
        json_t *answer = NULL;

        int r = lxc_tool_path(&lxcpath, err);
        if (r < 0)
                return r;
        r = lxc_tool(3000, &answer, err, "state", w->id, NULL);
        if (r < 0)
                return r;
        bool stopped = strcmp(json_text(answer, "state"), "stopped") == 0;
        json_decref(answer);
        AUTO_FREE char *config = format_new("%s/%s/config", lxcpath, w->id);
        if (!config)
                return error_set(err, ENOMEM, "out of memory");
        return stopped && access(config, R_OK) == 0 && !lxc_cgroup_populated(w->id, true);
}

/*
 * liblxc logs "Exec'ing" in the last moment before the container's init begins, and why it failed if it did before. No
 * log: it was never tried. A log with neither tells nothing.
 */
bool lxc_start_may_have_run(const char *log)
{
        if (strstr(log, "Exec'ing"))
                return true;
        return strstr(log, " ERROR ") == NULL;
}

int lxc_start_trace(const struct workload *w, struct error *err)
{
        AUTO_FREE char *path = start_log(w);
        AUTO_FREE char *text = NULL;

        if (!path)
                return error_set(err, ENOMEM, "out of memory");
        int r = fd_read_file(AT_FDCWD, path, START_LOG_MAX, &text, NULL);
        if (r == -ENOENT)
                return 0;
        return r < 0 ? 1 : lxc_start_may_have_run(text);
}
