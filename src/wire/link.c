/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/link.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/name.h"
#include "wire/link_private.h"

int link_send_record(struct link *link, const void *record, size_t size, int pass_fd)
{
        if (link->record_fd < 0)
                return -ENOTCONN;
        ssize_t n = fd_send_packet(link->record_fd, record, size, pass_fd);
        if (n == -EAGAIN)
                return -ENOBUFS;
        if (n == -EPIPE || n == -ECONNRESET)
                return -ENOTCONN; /* why, is in the records not read yet */
        return n < 0 ? (int)n : 0;
}

static void destroy(struct link *link)
{
        source_free(link->source);
        if (link->record_fd >= 0)
                (void)close(link->record_fd);
        link_ring_close(link);
        free(link);
}

void link_free(struct link *link)
{
        if (!link)
                return;
        if (!link->in_callback) {
                destroy(link);
                return;
        }
        /* The dispatcher below still needs the object; phaul-net and the loop shall know at once. */
        link->freed = true;
        source_free(TAKE_PTR(link->source));
        if (link->record_fd >= 0)
                (void)close(TAKE_FD(link->record_fd));
}

/* The last thing that happens to a link. */
static void go_down(struct link *link, const struct error *err)
{
        if (link->state == LINK_DOWN)
                return;
        link->state = LINK_DOWN;
        source_free(TAKE_PTR(link->source));
        if (link->record_fd >= 0)
                (void)close(TAKE_FD(link->record_fd));
        if (link->handlers.down)
                link->handlers.down(link, err, link->context);
}

/* A numeric address, perhaps with a scope: it is shown to people. */
static bool address_is_plain(const char *p)
{
        for (; *p; p++)
                if (!isalnum((unsigned char)*p) && !strchr(".:%_-@", *p))
                        return false;
        return true;
}

static int on_up(struct link *link, struct record_up *record, struct error *err)
{
        if (link->state != LINK_STARTING)
                return -EPROTO;
        record->fingerprint[FINGERPRINT_LENGTH] = '\0';
        record->address[sizeof(record->address) - 1] = '\0';
        size_t n = strlen(record->fingerprint);
        if ((n != 0 && n != FINGERPRINT_LENGTH) || strspn(record->fingerprint, "0123456789abcdef") != n ||
            !address_is_plain(record->address))
                return -EPROTO;
        if (link->accepting ? record->version != 0
                            : record->version < link->version_min || record->version > link->version_max)
                return -EPROTO;
        if (link->expect[0] && strcmp(link->expect, record->fingerprint) != 0)
                return error_set_kind(err, ERROR_DENIED, EACCES, "the host at %s is not the expected one",
                                      record->address);

        memcpy(link->peer.fingerprint, record->fingerprint, sizeof(link->peer.fingerprint));
        memcpy(link->peer.address, record->address, sizeof(link->peer.address));
        link->state = link->accepting ? LINK_GREETING : LINK_OPEN;
        if (link->handlers.up)
                link->handlers.up(link, &link->peer, record->version, link->context);
        return 0;
}

static int on_hello(struct link *link, const struct message *m, struct error *err)
{
        uint32_t purpose = 0;

        if (link->state != LINK_GREETING)
                return -EPROTO;
        (void)message_get_u32(m, FIELD_PURPOSE, &purpose);
        if (purpose < PURPOSE_CONTROL || purpose > PURPOSE_PAIR)
                return -EPROTO;
        if (link->peer.fingerprint[0] == '\0' && purpose != PURPOSE_PAIR)
                return error_set_kind(err, ERROR_DENIED, EACCES, "%s is not paired with this host", link->peer.address);
        link->purpose = purpose;
        link->state = LINK_ASKED;
        return 0;
}

static int on_message(struct link *link, const uint8_t *data, size_t size, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        int r = message_decode(data, size, &m, err);

        if (r == 0)
                r = message_check_place(m, link->purpose, link->accepting, err);
        if (r < 0)
                return r;
        if (m->type == MSG_HELLO) {
                r = on_hello(link, m, err);
                if (r < 0)
                        return r;
        } else if (link->state == LINK_REFUSED) {
                return 0;
        } else if (link->state != LINK_OPEN || m->type <= MSG_PONG) {
                return -EPROTO;
        }
        if (link->handlers.message)
                link->handlers.message(link, m, link->context);
        return 0;
}

/* What phaul-net says for people may come from anywhere: no control characters, no broken UTF-8. */
void link_clean_text(char *text, size_t size)
{
        text[size - 1] = '\0';
        bool utf8 = utf8_is_valid(text, strlen(text));
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 127 || (!utf8 && (*p & 0x80)))
                        *p = '?';
}

static void on_down(struct link *link, struct record_down *record)
{
        struct error err = {.kind = record->kind, .code = record->code};

        if (record->kind > ERROR_LOST)
                err.kind = ERROR_FAILED;
        if (err.kind != ERROR_NONE && err.code <= 0)
                err.code = EIO;
        link_clean_text(record->text, sizeof(record->text));
        memcpy(err.text, record->text, sizeof(err.text));
        go_down(link, &err);
}

/* Large enough and aligned for any record. */
union record {
        struct record_header header;
        struct record_up up;
        struct record_slot slot;
        struct record_bulk bulk;
        struct record_counters counters;
        struct record_down down;
        uint8_t bytes[RECORD_MAX];
};

static int on_record(struct link *link, union record *record, size_t size, struct error *err)
{
        switch (record->header.type) {
        case RECORD_UP:
                return size == sizeof(record->up) ? on_up(link, &record->up, err) : -EPROTO;
        case RECORD_MESSAGE:
                return on_message(link, record->bytes + sizeof(record->header), size - sizeof(record->header), err);
        case RECORD_RING_WANTED:
                return link_ring_open(link);
        case RECORD_BULK:
                return size == sizeof(record->bulk) ? link_on_bulk(link, &record->bulk) : -EPROTO;
        case RECORD_SENT:
                return size == sizeof(record->slot) ? link_on_sent(link, &record->slot) : -EPROTO;
        case RECORD_COUNTERS:
                if (size != sizeof(record->counters))
                        return -EPROTO;
                link->sent = record->counters.sent;
                link->received = record->counters.received;
                return 0;
        case RECORD_DOWN:
                if (size != sizeof(record->down))
                        return -EPROTO;
                on_down(link, &record->down);
                return 0;
        default:
                return -EPROTO;
        }
}

/* One packet. False: nothing more to read now, or the link is no more. */
static bool dispatch_one(struct link *link, union record *record)
{
        struct error err = {0};
        ssize_t n = fd_recv_packet(link->record_fd, record, sizeof(*record), NULL);
        int r;

        if (n == -EAGAIN)
                return false;
        if (n == 0 || n == -ECONNRESET)
                r = error_set(&err, EPIPE, "the network process of the connection ended unexpectedly");
        else if (n < (ssize_t)sizeof(record->header))
                r = error_set(&err, EPROTO, "the network process of the connection broke the rules");
        else
                r = on_record(link, record, (size_t)n, &err);
        if (link->freed || link->state == LINK_DOWN)
                return false;
        if (r < 0) {
                if (err.kind == ERROR_NONE)
                        (void)error_errno(&err, -r, "the network process of the connection broke the rules");
                go_down(link, &err);
                return false;
        }
        return true;
}

static void on_readable(int fd, uint32_t events, void *context)
{
        struct link *link = context;
        union record *record = malloc(sizeof(*record));

        (void)fd;
        (void)events;
        link->in_callback = true;
        if (record) {
                /* Not for ever: others want their turn in this loop. */
                for (int i = 0; i < 32 && dispatch_one(link, record); i++)
                        ;
        } else {
                struct error err = {0};
                (void)error_set(&err, ENOMEM, "out of memory");
                go_down(link, &err);
        }
        link->in_callback = false;
        free(record);
        if (link->freed)
                destroy(link);
}

int link_new_on(struct loop *loop, int record_fd, const struct link_handlers *handlers, void *context,
                struct link **ret)
{
        struct link *link = calloc(1, sizeof(*link));
        int r;

        if (!link) {
                (void)close(record_fd);
                return -ENOMEM;
        }
        link->loop = loop;
        link->record_fd = record_fd;
        link->handlers = *handlers;
        link->context = context;
        link->reserved = -1;
        r = fd_nonblock(record_fd);
        if (r == 0)
                r = loop_add_io(loop, record_fd, EPOLLIN, on_readable, link, &link->source);
        if (r < 0) {
                destroy(link);
                return r;
        }
        *ret = link;
        return 0;
}

int link_release(struct link *link)
{
        int fd = TAKE_FD(link->record_fd);

        source_free(TAKE_PTR(link->source));
        link_free(link);
        return fd >= 0 ? fd : -ENOTCONN;
}

int link_adopt(struct loop *loop, int record_fd, const struct link_handlers *handlers, void *context, struct link **ret)
{
        struct link *link;
        int r = link_new_on(loop, record_fd, handlers, context, &link);

        if (r < 0)
                return r;
        link->accepting = true;
        link->state = LINK_ASKED;
        *ret = link;
        return 0;
}

static int send_message(struct link *link, const struct message *m)
{
        AUTO_FREE uint8_t *data = NULL, *record = NULL;
        struct record_header header = {.type = RECORD_MESSAGE};
        size_t size;
        int r = message_encode(m, &data, &size);

        if (r < 0)
                return r;
        record = malloc(sizeof(header) + size);
        if (!record)
                return -ENOMEM;
        memcpy(record, &header, sizeof(header));
        memcpy(record + sizeof(header), data, size);
        return link_send_record(link, record, sizeof(header) + size, -1);
}

int link_welcome(struct link *link, uint32_t version)
{
        if (link->state != LINK_ASKED)
                return link->state == LINK_DOWN ? -ENOTCONN : -EINVAL;
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_WELCOME);
        message_put_u32(m, FIELD_VERSION, version);
        message_put_text(m, FIELD_SOFTWARE, "phaul " PHAUL_VERSION);
        int r = send_message(link, m);
        if (r == 0)
                link->state = LINK_OPEN;
        return r;
}

int link_refuse(struct link *link, enum error_kind kind, const char *text)
{
        if (link->state != LINK_ASKED)
                return link->state == LINK_DOWN ? -ENOTCONN : -EINVAL;
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_REFUSE);
        message_put_text(m, FIELD_KIND, error_kind_name(kind));
        message_put_text(m, FIELD_TEXT, text && text[0] ? text : "refused");
        int r = send_message(link, m);
        if (r == 0)
                link->state = LINK_REFUSED;
        return r;
}

int link_send(struct link *link, struct message *message)
{
        CLEANUP(message_free_ptr) struct message *m = message;
        int r = message_result(m);

        if (r < 0)
                return r;
        if (link->state == LINK_DOWN || link->state == LINK_REFUSED)
                return -ENOTCONN;
        if (link->state != LINK_OPEN || m->type <= MSG_PONG)
                return -EINVAL;
        r = message_check_place(m, link->purpose, !link->accepting, NULL);
        return r < 0 ? r : send_message(link, m);
}

int link_attach_stream(struct link *link, int fd_in)
{
        AUTO_FD int fd = fd_in;
        struct record_header record = {.type = RECORD_STREAM};

        if (link->state != LINK_OPEN)
                return link->state == LINK_DOWN ? -ENOTCONN : -EINVAL;
        return link_send_record(link, &record, sizeof(record), fd);
}

void link_counters(const struct link *link, uint64_t *ret_sent, uint64_t *ret_received)
{
        *ret_sent = link->sent;
        *ret_received = link->received;
}
