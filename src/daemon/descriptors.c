/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/name.h"
#include "daemon/caller.h"
#include "daemon/receptions.h"

#define PACKET_MAX 512

struct client {
        struct descriptors *owner;
        struct client *next;
        int fd;
        uid_t uid;
        struct source *io, *limit;
        struct tunnel_lane lanes[2]; /* -1: not here */
        struct reception *reception; /* whose end it waits for */
        bool refused;                /* nothing more is taken; it shall read why, so it hangs up and not we */
};

struct ticket {
        struct descriptors *owner;
        struct ticket *next;
        char id[ID_LENGTH + 1];
        uid_t uid;
        struct source *limit;
        struct tunnel_lane lanes[2];
};

struct descriptors {
        struct daemon *daemon;
        int fd;
        gid_t group;
        struct source *source;
        struct client *clients;
        struct ticket *tickets;
        unsigned n_tickets;
};

void descriptors_close_lanes(struct tunnel_lane lanes[static 2])
{
        for (size_t i = 0; i < 2; i++) {
                if (lanes[i].out >= 0 && lanes[i].out != lanes[i].in)
                        (void)close(lanes[i].out);
                if (lanes[i].in >= 0)
                        (void)close(lanes[i].in);
                lanes[i] = (struct tunnel_lane){-1, -1};
        }
}

static void client_free(struct client *c)
{
        for (struct client **p = &c->owner->clients; *p; p = &(*p)->next)
                if (*p == c) {
                        *p = c->next;
                        break;
                }
        if (c->reception)
                reception_forget(c->reception);
        source_free(c->io);
        source_free(c->limit);
        (void)close(c->fd);
        descriptors_close_lanes(c->lanes);
        free(c);
}

static void ticket_free(struct ticket *t)
{
        for (struct ticket **p = &t->owner->tickets; *p; p = &(*p)->next)
                if (*p == t) {
                        *p = t->next;
                        t->owner->n_tickets--;
                        break;
                }
        source_free(t->limit);
        descriptors_close_lanes(t->lanes);
        free(t);
}

static void on_client_limit(void *context)
{
        client_free(context);
}

static void on_ticket_limit(void *context)
{
        ticket_free(context);
}

/* Takes `packet`. A client that does not read its answer has itself to blame. */
static void say(const struct client *c, json_t *packet)
{
        AUTO_FREE char *text = packet ? json_dumps(packet, JSON_COMPACT) : NULL;

        json_decref(packet);
        if (text)
                (void)fd_send_packet(c->fd, text, strlen(text), -1);
}

/* Closed with packets of the client's unread, the socket would lose the answer. */
static void refuse(struct client *c, const struct error *err)
{
        const bool hurry = !c->limit;

        say(c, json_pack("{s:s, s:s, s:s}", "event", "refused", "kind", error_kind_name(err->kind), "text", err->text));
        c->refused = true;
        descriptors_close_lanes(c->lanes);
        if (hurry)
                client_free(c);
}

/* -- what is taken ------------------------------------------------------------------------------------------------ */

static int check_socket(int fd, struct error *err)
{
        struct sockaddr_storage address;
        socklen_t size = sizeof(int), address_size = sizeof(address);
        int type = 0, listening = 0, domain = 0;

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
                return error_errno(err, errno, "cannot look at a socket");
        if (type != SOCK_STREAM || listening || (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6) ||
            getpeername(fd, (struct sockaddr *)&address, &address_size) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "a descriptor is a socket, but not a connected stream socket (Unix, IPv4, IPv6)");
        return 0;
}

static int check_descriptor(int fd, bool in, bool out, struct error *err)
{
        struct stat st;
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fstat(fd, &st) < 0)
                return error_errno(err, errno, "cannot look at a descriptor");
        if (S_ISSOCK(st.st_mode))
                return check_socket(fd, err);
        const int access = flags & O_ACCMODE;
        if (S_ISFIFO(st.st_mode) && !(in && out) && (access == O_RDWR || access == (in ? O_RDONLY : O_WRONLY)))
                return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL, "a descriptor is neither a connected stream socket nor %s",
                              in && out ? "two pipes" : "a pipe of that direction");
}

static bool same_socket(int one, int other)
{
        struct stat a, b;

        return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool complete(const struct client *c, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                if (c->lanes[i].in < 0 || c->lanes[i].out < 0)
                        return false;
        return true;
}

static int take_lane(struct client *c, const json_t *packet, int given, struct error *err)
{
        AUTO_FD int fd = given;
        const char *direction = json_string_value(json_object_get(packet, "direction")) ?: "";
        const json_t *number = json_object_get(packet, "lane");
        json_int_t lane = json_integer_value(number);
        const bool in = strcmp(direction, "out") != 0, out = strcmp(direction, "in") != 0;

        if (!json_is_integer(number) || lane < 0 || lane > 1 || fd < 0 || (in && out && strcmp(direction, "both") != 0))
                return error_set_kind(err, ERROR_USAGE, EBADMSG, "malformed request");
        struct tunnel_lane *l = &c->lanes[lane], *other = &c->lanes[!lane];
        if ((in && l->in >= 0) || (out && l->out >= 0))
                return error_set_kind(err, ERROR_USAGE, EEXIST, "a descriptor was given twice");
        int r = check_descriptor(fd, in, out, err);
        if (r < 0)
                return r;
        if ((other->in >= 0 && same_socket(other->in, fd)) || (other->out >= 0 && same_socket(other->out, fd)))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "control and data are the same connection");
        if (in)
                l->in = fd;
        if (out)
                l->out = fd;
        (void)TAKE_FD(fd);
        return 0;
}

static int keep(struct client *c, struct error *err)
{
        struct descriptors *d = c->owner;

        if (!complete(c, 2))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "control and data are both needed");
        if (d->n_tickets >= DESCRIPTORS_TICKETS_MAX)
                return error_set_kind(err, ERROR_REFUSED, EBUSY, "too many descriptors wait to be used already");
        struct ticket *t = calloc(1, sizeof(*t));
        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        t->owner = d;
        t->uid = c->uid;
        memcpy(t->lanes, c->lanes, sizeof(t->lanes));
        int r = id_new(t->id);
        if (r == 0)
                r = loop_add_timer(d->daemon->loop, DESCRIPTORS_TICKET_MS, on_ticket_limit, t, &t->limit);
        if (r < 0) {
                free(t);
                return error_errno(err, -r, "cannot keep the descriptors");
        }
        t->next = d->tickets;
        d->tickets = t;
        d->n_tickets++;
        c->lanes[0] = c->lanes[1] = (struct tunnel_lane){-1, -1};
        say(c, json_pack("{s:s}", "ticket", t->id));
        return 0;
}

static void on_over(const struct error *err, void *context)
{
        struct client *c = context;

        c->reception = NULL;
        say(c, json_pack("{s:s, s:s, s:s}", "event", "over", "kind", error_kind_name(err->kind), "text", err->text));
        client_free(c);
}

static int receive(struct client *c, struct error *err)
{
        const unsigned n = c->lanes[1].in >= 0 || c->lanes[1].out >= 0 ? 2 : 1;

        if (!complete(c, n) || c->reception)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "a descriptor is missing");
        int r = receptions_add(c->owner->daemon->receptions, c->lanes, n, on_over, c, &c->reception, err);
        descriptors_close_lanes(c->lanes);
        if (r < 0)
                return r;
        source_free(TAKE_PTR(c->limit)); /* it may take as long as it takes */
        say(c, json_pack("{s:s}", "event", "taken"));
        return 0;
}

/* -- talking ------------------------------------------------------------------------------------------------------ */

static void on_packet(int fd, uint32_t events, void *context)
{
        struct client *c = context;
        char text[PACKET_MAX];
        struct error err = {0};
        int given = -1;

        (void)events;
        ssize_t n = fd_recv_packet(fd, text, sizeof(text), &given);
        if (n == -EAGAIN)
                return;
        if (n <= 0) {
                client_free(c);
                return;
        }
        if (c->refused) {
                if (given >= 0)
                        (void)close(given);
                return;
        }
        json_t *packet = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        const char *what = json_string_value(json_object_get(packet, "do")) ?: "";
        int r;
        if (strcmp(what, "lane") == 0) {
                r = take_lane(c, packet, given, &err);
                given = -1;
        } else if (strcmp(what, "keep") == 0) {
                r = keep(c, &err);
        } else if (strcmp(what, "receive") == 0) {
                r = receive(c, &err);
        } else {
                r = error_set_kind(&err, ERROR_USAGE, EBADMSG, "malformed request");
        }
        json_decref(packet);
        if (given >= 0)
                (void)close(given);
        if (r < 0)
                refuse(c, &err);
}

/* Those who talk, or those who were refused and have not hung up. */
static unsigned count(const struct descriptors *d, bool refused)
{
        unsigned n = 0;

        for (const struct client *c = d->clients; c; c = c->next)
                n += c->refused == refused && !c->reception;
        return n;
}

static void on_connect(int listen_fd, uint32_t events, void *context)
{
        struct descriptors *d = context;
        struct error err = {0};
        uid_t uid;
        AUTO_FD int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (fd < 0 || count(d, true) >= DESCRIPTORS_REFUSED_MAX)
                return;
        if (caller_check(fd, d->group, &uid, &err) < 0) {
                log_warning("descriptors: %s", err.text);
                return;
        }
        const bool full = count(d, false) >= DESCRIPTORS_CLIENTS_MAX;
        struct client *c = calloc(1, sizeof(*c));
        if (!c)
                return;
        *c = (struct client){
                .owner = d, .next = d->clients, .fd = TAKE_FD(fd), .uid = uid, .lanes = {{-1, -1}, {-1, -1}}};
        d->clients = c;
        if (loop_add_io(d->daemon->loop, c->fd, EPOLLIN, on_packet, c, &c->io) < 0 ||
            loop_add_timer(d->daemon->loop, DESCRIPTORS_TALK_MS, on_client_limit, c, &c->limit) < 0) {
                client_free(c);
        } else if (full) {
                (void)error_set_kind(&err, ERROR_REFUSED, EBUSY, "too many hand descriptors to %s already",
                                     d->daemon->config->host_name);
                refuse(c, &err);
        }
}

int descriptors_new(struct daemon *daemon, struct descriptors **ret, struct error *err)
{
        CLEANUP(descriptors_free_ptr) struct descriptors *d = calloc(1, sizeof(*d));
        struct sockaddr_un at = {.sun_family = AF_UNIX};

        if (!d)
                return error_set(err, ENOMEM, "out of memory");
        d->fd = -1;
        d->daemon = daemon;
        d->group = caller_group();
        if (snprintf(at.sun_path, sizeof(at.sun_path), "%s/descriptors.sock", daemon->places.runtime) >=
            (int)sizeof(at.sun_path))
                return error_set(err, ENAMETOOLONG, "path of the runtime directory too long");
        d->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (d->fd < 0)
                return error_errno(err, errno, "cannot make a socket");
        (void)unlink(at.sun_path); /* we hold the lock: it is a dead one's */
        mode_t old = umask(0177);
        int bound = bind(d->fd, (const struct sockaddr *)&at, sizeof(at));
        int saved = errno;
        (void)umask(old);
        if (bound < 0)
                return error_errno(err, saved, "cannot listen at %s", at.sun_path);
        if (d->group != (gid_t)-1 && chown(at.sun_path, 0, d->group) < 0)
                log_warning("cannot give %s to group phaul: %s", at.sun_path, strerrordesc_np(errno));
        if (chmod(at.sun_path, 0660) < 0 || listen(d->fd, DESCRIPTORS_CLIENTS_MAX) < 0)
                return error_errno(err, errno, "cannot listen at %s", at.sun_path);
        int r = loop_add_io(daemon->loop, d->fd, EPOLLIN, on_connect, d, &d->source);
        if (r < 0)
                return error_errno(err, -r, "cannot watch %s", at.sun_path);
        *ret = TAKE_PTR(d);
        return 0;
}

void descriptors_free(struct descriptors *d)
{
        if (!d)
                return;
        while (d->clients)
                client_free(d->clients);
        while (d->tickets)
                ticket_free(d->tickets);
        source_free(d->source);
        if (d->fd >= 0)
                (void)close(d->fd);
        free(d);
}

int descriptors_redeem(struct descriptors *d, const char *id, uid_t uid, struct tunnel_lane lanes[static 2],
                       struct error *err)
{
        for (struct ticket *t = d->tickets; t; t = t->next) {
                if (strcmp(t->id, id) != 0 || t->uid != uid)
                        continue;
                memcpy(lanes, t->lanes, sizeof(t->lanes));
                t->lanes[0] = t->lanes[1] = (struct tunnel_lane){-1, -1};
                ticket_free(t);
                return 0;
        }
        return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "these descriptors were not handed over, or are used up");
}

bool descriptors_busy(const struct descriptors *d)
{
        return d->clients || d->tickets;
}
