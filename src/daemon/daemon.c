/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/caller.h"
#include "daemon/descriptors.h"
#include "daemon/hosts.h"
#include "daemon/migrations.h"
#include "daemon/peers.h"
#include "daemon/receptions.h"

static int make_directory(const char *base, const char *name, mode_t mode, struct error *err)
{
        char path[PATH_MAX + 32];

        (void)snprintf(path, sizeof(path), "%s%s", base, name);
        int r = fd_mkdir_p(path, mode);
        return r < 0 && r != -EEXIST ? error_errno(err, -r, "cannot make %s", path) : 0;
}

static int make_directories(const struct places *p, struct error *err)
{
        int r = make_directory(p->trust, "", 0755, err);

        if (r == 0)
                r = make_directory(p->state, "", 0700, err);
        if (r == 0)
                r = make_directory(p->state, "/migrations", 0700, err);
        if (r == 0)
                r = make_directory(p->state, "/released", 0700, err);
        if (r == 0)
                r = make_directory(p->runtime, "", 0755, err);
        if (r == 0)
                r = make_directory(p->runtime, "/sessions", 0700, err);
        return r;
}

/* Held as long as we live; inherited by nobody. */
static int take_lock(struct daemon *d, struct error *err)
{
        char path[PATH_MAX + 32];

        (void)snprintf(path, sizeof(path), "%s/phauld.lock", d->places.runtime);
        d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (d->lock_fd < 0)
                return error_errno(err, errno, "cannot open %s", path);
        if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK
                               ? error_set_kind(err, ERROR_REFUSED, EBUSY, "phauld runs already: %s is locked", path)
                               : error_errno(err, errno, "cannot lock %s", path);
        return 0;
}

static int listen_http(struct daemon *d, struct error *err)
{
        struct http_options options = {
                .group = caller_group(), .check_callers = true, .heartbeat_ms = HTTP_HEARTBEAT_MS};
        struct sockaddr_un at = {.sun_family = AF_UNIX};

        if (snprintf(at.sun_path, sizeof(at.sun_path), "%s/phauld.sock", d->places.runtime) >= (int)sizeof(at.sun_path))
                return error_set(err, ENAMETOOLONG, "path of the runtime directory too long");
        AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_errno(err, errno, "cannot make a socket");
        (void)unlink(at.sun_path); /* we hold the lock: it is a dead one's */
        mode_t old = umask(0177);
        int bound = bind(fd, (const struct sockaddr *)&at, sizeof(at));
        int saved = errno;
        (void)umask(old);
        if (bound < 0)
                return error_errno(err, saved, "cannot listen at %s", at.sun_path);
        if (options.group != (gid_t)-1 && chown(at.sun_path, 0, options.group) < 0)
                log_warning("cannot give %s to group phaul: %s", at.sun_path, strerrordesc_np(errno));
        /* As long a queue as the kernel gives: on a Unix socket a full one refuses whoever does not wait, libcurl too.
         */
        if (chmod(at.sun_path, 0660) < 0 || listen(fd, SOMAXCONN) < 0)
                return error_errno(err, errno, "cannot listen at %s", at.sun_path);
        return http_new(d->loop, TAKE_FD(fd), &options, api_handle, d, &d->http, err);
}

static int open_history(struct daemon *d, struct error *err)
{
        char path[PATH_MAX + 32];

        (void)snprintf(path, sizeof(path), "%s/history.db", d->places.state);
        mode_t old = umask(0077);
        int r = history_open(path, &d->history, err);
        (void)umask(old);
        return r;
}

int daemon_new(struct loop *loop, const struct places *places, const struct hauler *const *kinds, struct daemon **ret,
               struct error *err)
{
        CLEANUP(daemon_free_ptr) struct daemon *d = calloc(1, sizeof(*d));

        if (!d)
                return error_set(err, ENOMEM, "out of memory");
        d->lock_fd = -1;
        d->loop = loop;
        d->places = *places;
        d->haulers = kinds;
        (void)snprintf(d->net_program, sizeof(d->net_program), "%s/phaul-net", places->libexec);
        d->link_environment.program = d->net_program;

        int r = config_load(places->config_file, &d->config, err);
        if (r == 0)
                r = make_directories(&d->places, err);
        if (r == 0)
                r = take_lock(d, err);
        if (r == 0)
                r = trust_init(d->places.trust, d->config->host_name, err);
        if (r == 0) {
                r = events_new((uint64_t)clock_wall_ms() * 1000, EVENTS_MAX, &d->events);
                if (r < 0)
                        r = error_errno(err, -r, "cannot keep events");
        }
        if (r == 0)
                r = open_history(d, err);
        if (r == 0)
                r = hosts_new(d, &d->hosts, err);
        if (r == 0)
                r = migrations_new(d, &d->migrations, err);
        if (r == 0)
                r = migrations_recover(d->migrations, err);
        if (r == 0)
                r = peers_new(d, &d->peers, err);
        if (r == 0 && receptions_new(d, &d->receptions) < 0)
                r = error_set(err, ENOMEM, "out of memory");
        if (r == 0)
                r = listen_http(d, err);
        if (r == 0)
                r = descriptors_new(d, &d->descriptors, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

bool daemon_is_busy(const struct daemon *d)
{
        return receptions_busy(d->receptions) || descriptors_busy(d->descriptors) || migrations_busy(d->migrations);
}

void daemon_free(struct daemon *d)
{
        if (!d)
                return;
        /* Who may still answer a request goes before the server that holds the requests. */
        receptions_free(d->receptions);
        descriptors_free(d->descriptors);
        peers_free(d->peers);
        hosts_free(d->hosts);
        migrations_free(d->migrations);
        http_free(d->http);
        history_free(d->history);
        events_free(d->events);
        config_free(d->config);
        pairing_close(&d->pairing);
        if (d->lock_fd >= 0)
                (void)close(d->lock_fd);
        free(d);
}
