/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/name.h"
#include "haulers/unconfined.h"

/* Stop and start a container as lxc-stop and lxc-start do. */

#define LIMIT_MAX_S 86400

enum { WORKER_DONE = 0, WORKER_FAILED = 1, WORKER_BAD_CONFIG = 2 };

static int check_name(const char *name, struct error *err)
{
        return name_is_valid(name) ? 0
                                   : error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
}

/*
 * Its own shutdown first: the signal of lxc.signal.halt, or what its init is seen to expect; liblxc's kill after that.
 * CONFIG is where its configuration is meanwhile; one that is not there leaves liblxc's defaults.
 */
int verb_stop(int argc, char **argv, json_t **ret, struct error *err)
{
        char *end;
        long limit = strtol(argv[2], &end, 10);

        (void)argc;
        int r = check_name(argv[0], err);
        if (r < 0)
                return r;
        if (*end || limit < 1 || limit > LIMIT_MAX_S || argv[1][0] != '/')
                return error_set_kind(err, ERROR_USAGE, EINVAL, "malformed limit or path");
        struct lxc_container *c = lxc_container_new(argv[0], lxc_path());
        if (!c)
                return error_set(err, EINVAL, "liblxc does not take the name '%s'", argv[0]);
        if (access(argv[1], R_OK) == 0 && !c->load_config(c, argv[1])) {
                (void)lxc_container_put(c);
                return error_set(err, EINVAL, "liblxc cannot load %s", argv[1]);
        }
        bool orderly = !c->is_running(c) || c->shutdown(c, (int)limit);
        bool stopped = orderly || c->stop(c);
        (void)lxc_container_put(c);
        if (!stopped)
                return error_set(err, EIO, "liblxc could not stop '%s'", argv[0]);
        *ret = json_pack("{ss sb}", "id", argv[0], "orderly", orderly);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

static bool clean_environment(void)
{
        return clearenv() == 0 &&
               setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1) == 0 &&
               setenv("HOME", "/root", 1) == 0 && setenv("LANG", "C.UTF-8", 1) == 0;
}

/* Our log, and nothing else: that of the configuration would swallow what lxc_start_may_have_run() looks for. */
static bool log_to(struct lxc_container *c, const char *name, const char *path)
{
        struct lxc_log log = {.name = name,
                              .lxcpath = lxc_path(),
                              .file = path,
                              .level = "INFO",
                              .prefix = "phaul-lxc",
                              .quiet = true};

        return lxc_log_init(&log) == 0 && access(path, W_OK) == 0 && c->set_config_item(c, "lxc.log.level", "INFO") &&
               c->set_config_item(c, "lxc.log.file", path);
}

static _Noreturn void worker(const char *name, const char *log)
{
        if (!leave_everything() || !clean_environment())
                _exit(WORKER_FAILED);
        struct lxc_container *c = lxc_container_new(name, lxc_path());
        if (!c || !c->is_defined(c))
                _exit(WORKER_BAD_CONFIG);
        if (log && !log_to(c, name, log))
                _exit(WORKER_FAILED);
        if (c->is_running(c))
                _exit(WORKER_DONE);
        (void)c->want_daemonize(c, true);
        _exit(c->start(c, 0, NULL) ? WORKER_DONE : WORKER_FAILED);
}

int verb_start(int argc, char **argv, json_t **ret, struct error *err)
{
        const char *log = argc > 1 ? argv[1] : NULL;
        char complaint[1024] = "";
        int status;

        int r = check_name(argv[0], err);
        if (r == 0 && log && log[0] != '/')
                r = error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not an absolute path", log);
        if (r == 0)
                r = unconfined_check(err);
        if (r < 0)
                return r;
        pid_t pid = fork();
        if (pid < 0)
                return error_errno(err, errno, "cannot fork");
        if (pid == 0)
                worker(argv[0], log);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_errno(err, errno, "cannot wait for liblxc");
        if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_BAD_CONFIG)
                return error_set(err, EINVAL, "liblxc cannot load the configuration of '%s'", argv[0]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != WORKER_DONE) {
                if (log)
                        first_complaint(log, complaint, sizeof(complaint));
                return error_set(err, EIO, "liblxc could not start '%s'%s%s", argv[0], complaint[0] ? ": " : "",
                                 complaint);
        }
        *ret = json_pack("{ss}", "id", argv[0]);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}
