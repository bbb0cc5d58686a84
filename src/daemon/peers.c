/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/peers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/hosts.h"
#include "daemon/inventory.h"
#include "daemon/migrations.h"

#define ANSWER_PART (64U * 1024)
#define INVENTORY_ANSWER_MAX (3U << 20) /* below what phaul-net queues */

struct caller {
        struct peers *peers;
        struct caller *next;
        struct link *link;
        struct source *limit;
        struct link_peer peer;
        bool up, greeted;
        bool is_guest;     /* through a tunnel; known by nothing but that */
        struct peer guest; /* without its certificate */
        uint32_t purpose;
        struct exchange *exchange;
        struct inventory *inventory;
};

struct peers {
        struct daemon *daemon;
        int fds[CONFIG_LISTEN_MAX];
        struct source *sources[CONFIG_LISTEN_MAX];
        size_t n;
        struct caller *first;
        unsigned callers;
};

static void caller_free(struct caller *c)
{
        for (struct caller **p = &c->peers->first; *p; p = &(*p)->next)
                if (*p == c) {
                        *p = c->next;
                        c->peers->callers--;
                        break;
                }
        inventory_free(c->inventory);
        exchange_free(c->exchange);
        link_free(c->link);
        source_free(c->limit);
        free(c);
}

static void on_limit(void *context)
{
        caller_free(context);
}

/* -- queries ------------------------------------------------------------------------------------------------------ */

static void answer_failure(struct caller *c, const struct error *err)
{
        struct message *m = message_new(MSG_ANSWER);

        message_put_text(m, FIELD_KIND, error_kind_name(err->kind));
        message_put_text(m, FIELD_TEXT, err->text);
        message_put_u32(m, FIELD_LAST, 1);
        (void)link_send(c->link, m);
}

/* In parts; all ASCII, so that no character is cut in two. Takes `answer`. */
static void answer(struct caller *c, json_t *document)
{
        AUTO_FREE char *text = document ? json_dumps(document, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        AUTO_FREE char *part = malloc(ANSWER_PART + 1);
        struct error err = {0};

        json_decref(document);
        if (!text || !part) {
                (void)error_set(&err, ENOMEM, "out of memory");
                answer_failure(c, &err);
                return;
        }
        for (size_t done = 0, size = strlen(text); done < size;) {
                size_t n = size - done < ANSWER_PART ? size - done : ANSWER_PART;
                struct message *m = message_new(MSG_ANSWER);
                memcpy(part, text + done, n);
                part[n] = '\0';
                done += n;
                message_put_text(m, FIELD_BODY, part);
                message_put_u32(m, FIELD_LAST, done == size);
                if (link_send(c->link, m) < 0)
                        return;
        }
}

static void on_inventory(json_t *result, void *context)
{
        struct caller *c = context;

        c->inventory = NULL;
        /* Containers matter more than thousands of processes. */
        if (result && json_dumpb(result, NULL, 0, JSON_COMPACT | JSON_ENSURE_ASCII) > INVENTORY_ANSWER_MAX) {
                json_t *workloads = json_object_get(result, "workloads"), *w;
                size_t i;
                (void)json_object_set_new(result, "processes", json_array());
                json_array_foreach(workloads, i, w)
                {
                        (void)json_object_set_new(w, "processes", json_array());
                }
                (void)json_array_append_new(json_object_get(result, "warnings"),
                                            json_string("too many processes to be sent: only containers are shown"));
        }
        answer(c, result);
}

static void query_status(struct caller *c)
{
        const struct daemon *d = c->peers->daemon;

        answer(c, json_pack("{s:s, s:s, s:i, s:i}", "host", d->config->host_name, "version", PHAUL_VERSION,
                            "migrations_in_progress", (int)migrations_in_progress(d->migrations), "wire",
                            WIRE_VERSION_MAX));
}

/* A target that holds a prepared copy and lost its source asks what was decided. */
static int query_handover(struct caller *c, const struct message *m, struct error *err)
{
        char id[65], record[32];

        if (message_get_text(m, FIELD_MIGRATION, id, sizeof(id)) < 0 || !id_is_valid(id))
                return error_set_kind(err, ERROR_USAGE, EBADMSG, "malformed query");
        int r = migrations_record(c->peers->daemon->migrations, id, c->peer.fingerprint, record, sizeof(record), err);
        if (r == 0)
                answer(c, json_pack("{s:s}", "record", record));
        return r;
}

static void take_query(struct caller *c, const struct message *m)
{
        struct daemon *d = c->peers->daemon;
        char what[65], kind[65] = "";
        struct error err = {0};
        int r = 0;

        AUTO_FREE char *argument = NULL;
        if (message_dup_text_at(m, FIELD_ARGUMENT, 0, &argument) == 0)
                (void)snprintf(kind, sizeof(kind), "%s", argument);
        if (message_get_text(m, FIELD_WHAT, what, sizeof(what)) < 0)
                r = error_set_kind(&err, ERROR_USAGE, EBADMSG, "malformed query");
        else if (strcmp(what, "status") == 0)
                query_status(c);
        else if (strcmp(what, "handover") == 0)
                r = query_handover(c, m, &err);
        else if (strcmp(what, "inventory") != 0)
                r = error_set_kind(&err, ERROR_USAGE, EINVAL, "unknown query");
        else if (c->inventory)
                r = error_set_kind(&err, ERROR_REFUSED, EBUSY, "one query at a time");
        else
                r = inventory_start(d->loop, d->haulers, d->config->host_name, kind[0] ? kind : NULL, on_inventory, c,
                                    &c->inventory, &err);
        if (r < 0)
                answer_failure(c, &err);
}

/* -- pairing ------------------------------------------------------------------------------------------------------ */

static void take_pair_open(struct caller *c, const struct message *m)
{
        struct daemon *d = c->peers->daemon;
        const struct pair_self self = {
                .trust_dir = d->places.trust, .name = d->config->host_name, .port = d->config->port};
        struct message *reply = NULL;
        struct error err = {0};

        if (exchange_offer(&d->pairing, &self, clock_ms(), m, &c->exchange, &reply, &err) < 0) {
                log_warning("pairing from %s: %s", c->peer.address, err.text);
                caller_free(c);
        } else if (link_send(c->link, reply) < 0)
                caller_free(c);
}

static void take_pair_proof(struct caller *c, const struct message *m)
{
        struct daemon *d = c->peers->daemon;
        CLEANUP(peer_done) struct peer peer = {0};
        struct error err = {0};

        int r = exchange_accept(c->exchange, &d->pairing, clock_ms(), m, &peer, &err);
        if (r == 0) {
                /* An IPv4 caller on a socket for both: its address alone is what to call back. */
                const char *mapped = "::ffff:", *address = c->peer.address;
                if (strncmp(address, mapped, strlen(mapped)) == 0 && strchr(address, '.'))
                        address += strlen(mapped);
                (void)snprintf(peer.address, sizeof(peer.address), "%s", address);
                r = hosts_store(d, &peer, &err);
        }
        if (r < 0) {
                log_warning("pairing from %s: %s", c->peer.address, err.text);
                caller_free(c);
                return;
        }
        (void)link_send(c->link, message_new(MSG_PAIR_DONE));
}

/* -- dispatch ----------------------------------------------------------------------------------------------------- */

static void refuse(struct caller *c, const struct error *err)
{
        log_warning("connection from %s refused: %s", c->peer.address, err->text);
        (void)link_refuse(c->link, err->kind, err->text);
}

static void take_hello(struct caller *c, const struct message *m)
{
        uint32_t min = 0, max = 0, version = 0;
        struct error err = {0};
        bool paired = c->peer.fingerprint[0] != '\0';

        c->greeted = true;
        (void)message_get_u32(m, FIELD_VERSION_MIN, &min);
        (void)message_get_u32(m, FIELD_VERSION_MAX, &max);
        if (message_get_u32(m, FIELD_PURPOSE, &c->purpose) < 0)
                c->purpose = 0;
        if (c->is_guest && c->purpose > PURPOSE_BULK) {
                (void)error_set_kind(&err, ERROR_DENIED, EACCES, "through a tunnel only migrations come");
                refuse(c, &err);
        } else if (!paired && c->purpose != PURPOSE_PAIR) {
                (void)error_set_kind(&err, ERROR_DENIED, EACCES, "not paired");
                refuse(c, &err);
        } else if (c->purpose == PURPOSE_PAIR || c->purpose == PURPOSE_QUERY) {
                if (c->purpose == PURPOSE_PAIR && !pairing_is_open(&c->peers->daemon->pairing, clock_ms()))
                        (void)error_set_kind(&err, ERROR_DENIED, EACCES, "%s does not offer to be paired just now",
                                             c->peers->daemon->config->host_name);
                else
                        (void)wire_negotiate(min, max, &version, &err);
                if (err.kind != ERROR_NONE)
                        refuse(c, &err);
                else
                        (void)link_welcome(c->link, version);
                (void)source_set_timer(c->limit, PEERS_TALK_MS);
        } else if (migrations_attach(c->peers->daemon->migrations, c->link, &c->peer, c->is_guest ? &c->guest : NULL, m,
                                     &err) < 0) {
                refuse(c, &err);
        } else {
                c->link = NULL; /* it is the session's now */
                caller_free(c);
        }
}

static void on_message(struct link *link, const struct message *m, void *context)
{
        struct caller *c = context;

        (void)link;
        if (m->type == MSG_HELLO && c->up && !c->greeted)
                take_hello(c, m);
        else if (m->type == MSG_QUERY && c->purpose == PURPOSE_QUERY)
                take_query(c, m);
        else if (m->type == MSG_PAIR_OPEN && c->purpose == PURPOSE_PAIR && !c->exchange)
                take_pair_open(c, m);
        else if (m->type == MSG_PAIR_PROOF && c->exchange)
                take_pair_proof(c, m);
        else {
                log_warning("connection from %s: unexpected message %s", c->peer.address, message_type_name(m->type));
                caller_free(c);
        }
}

static void on_up(struct link *link, const struct link_peer *peer, uint32_t version, void *context)
{
        struct caller *c = context;

        (void)link;
        (void)version;
        c->up = true;
        c->peer = *peer;
}

static void on_down(struct link *link, const struct error *err, void *context)
{
        struct caller *c = context;

        (void)link;
        if (err->kind != ERROR_NONE && c->up)
                log_info("connection from %s: %s", c->peer.address, err->text);
        else if (err->kind != ERROR_NONE)
                log_info("a connection was not accepted: %s", err->text);
        caller_free(c);
}

static struct caller *caller_new(struct peers *p)
{
        unsigned strangers = 0;

        for (const struct caller *c = p->first; c; c = c->next)
                strangers += !c->up;
        /* Closed without a word: whoever floods us shall not make us work, and the log stays readable. */
        if (p->callers >= p->daemon->config->max_connections || strangers >= PEERS_STRANGERS_MAX)
                return NULL;
        struct caller *c = calloc(1, sizeof(*c));
        if (!c)
                return NULL;
        c->peers = p;
        c->next = p->first;
        p->first = c;
        p->callers++;
        return c;
}

static const struct link_handlers caller_handlers = {.up = on_up, .message = on_message, .down = on_down};

static void on_accept(int listen_fd, uint32_t events, void *context)
{
        struct peers *p = context;
        struct daemon *d = p->daemon;
        CLEANUP(credentials_free_ptr) struct credentials *credentials = NULL;
        struct error err = {0};

        (void)events;
        AUTO_FD int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        struct caller *c = fd >= 0 ? caller_new(p) : NULL;
        if (!c)
                return;
        int r = trust_credentials(d->places.trust, &credentials, &err);
        if (r == 0)
                r = loop_add_timer(d->loop, PEERS_HELLO_MS, on_limit, c, &c->limit);
        if (r == 0)
                r = link_accept(d->loop, &d->link_environment, credentials, TAKE_FD(fd),
                                pairing_is_open(&d->pairing, clock_ms()), &caller_handlers, c, &c->link, &err);
        if (r < 0) {
                log_error("cannot take a connection: %s", err.text);
                caller_free(c);
        }
}

void peers_take_guest(struct peers *p, int given, const struct peer *guest)
{
        const struct daemon *d = p->daemon;
        CLEANUP(credentials_free_ptr) struct credentials *credentials = NULL;
        struct link_environment environment = d->link_environment;
        AUTO_FD int fd = given;
        struct error err = {0};
        char label[NAME_MAX_LENGTH + 16];

        struct caller *c = guest->certificate ? caller_new(p) : NULL;
        if (!c)
                return;
        c->is_guest = true;
        (void)snprintf(c->guest.name, sizeof(c->guest.name), "%s", guest->name);
        (void)snprintf(c->guest.fingerprint, sizeof(c->guest.fingerprint), "%s", guest->fingerprint);
        (void)snprintf(label, sizeof(label), "tunnel:%s", guest->name);
        environment.label = label;
        int r = trust_credentials_for(d->places.trust, guest->certificate, &credentials, &err);
        if (r == 0)
                r = loop_add_timer(d->loop, PEERS_HELLO_MS, on_limit, c, &c->limit);
        if (r == 0)
                r = link_accept(d->loop, &environment, credentials, TAKE_FD(fd), false, &caller_handlers, c, &c->link,
                                &err);
        if (r < 0) {
                log_error("cannot take a connection through a tunnel: %s", err.text);
                caller_free(c);
        }
}

/* -- listening ---------------------------------------------------------------------------------------------------- */

static int listen_on(struct peers *p, const char *address, bool dual, struct error *err)
{
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(p->daemon->config->port)};
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(p->daemon->config->port)};
        bool is_six = inet_pton(AF_INET6, address, &six.sin6_addr) == 1;
        int on = 1, off = 0;

        if (!is_six && inet_pton(AF_INET, address, &four.sin_addr) != 1)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s is not a numeric address", address);
        AUTO_FD int fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_errno(err, errno, "cannot listen on %s", address);
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (is_six)
                (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, dual ? &off : &on, sizeof(on));
        const struct sockaddr *at = is_six ? (const struct sockaddr *)&six : (const struct sockaddr *)&four;
        if (bind(fd, at, is_six ? sizeof(six) : sizeof(four)) < 0 || listen(fd, 64) < 0)
                return error_errno(err, errno, "cannot listen on %s port %u", address, p->daemon->config->port);
        int r = loop_add_io(p->daemon->loop, fd, EPOLLIN, on_accept, p, &p->sources[p->n]);
        if (r < 0)
                return error_errno(err, -r, "cannot watch the port");
        p->fds[p->n++] = TAKE_FD(fd);
        return 0;
}

int peers_new(struct daemon *daemon, struct peers **ret, struct error *err)
{
        CLEANUP(peers_free_ptr) struct peers *p = calloc(1, sizeof(*p));
        const struct config *config = daemon->config;
        int r = 0;

        if (!p)
                return error_set(err, ENOMEM, "out of memory");
        p->daemon = daemon;
        if (daemon->places.transient) {
                *ret = TAKE_PTR(p);
                return 0;
        }
        for (size_t i = 0; r == 0 && i < config->n_listen; i++)
                r = listen_on(p, config->listen[i], false, err);
        if (config->n_listen == 0) {
                r = listen_on(p, "::", true, err);
                /* A kernel without IPv6. */
                if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) {
                        error_clear(err);
                        r = listen_on(p, "0.0.0.0", false, err);
                }
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

void peers_free(struct peers *p)
{
        if (!p)
                return;
        while (p->first)
                caller_free(p->first);
        for (size_t i = 0; i < p->n; i++) {
                source_free(p->sources[i]);
                (void)close(p->fds[i]);
        }
        free(p);
}
