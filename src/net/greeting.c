/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "net/net.h"
#include "wire/version.h"

/* The first messages of every connection: HELLO, then WELCOME or REFUSE. */

#define WELCOME_MS 30000 /* the other owner may have to start a process first */

static void fail(struct net *net, enum error_kind kind, int code, const char *what)
{
        struct error err = {0};

        (void)error_set_kind(&err, kind, code, "%s", what);
        net_down(net, &err, false);
}

static void send_up(struct net *net)
{
        struct record_up record = {.header.type = RECORD_UP, .version = net->config.accepting ? 0 : net->version};

        if (net->peer_anchor)
                memcpy(record.fingerprint, net->peer_anchor->fingerprint, sizeof(record.fingerprint));
        (void)snprintf(record.address, sizeof(record.address), "%s", net->peer_numeric);
        owner_send(net, &record, sizeof(record));
}

static void enter_open(struct net *net)
{
        struct record_header wanted = {.type = RECORD_RING_WANTED};

        net->phase = PHASE_OPEN;
        net->deadline_ms = 0;
        if (net->purpose == PURPOSE_BULK || net->purpose == PURPOSE_STREAM) {
                /* With a closed window the kernel would count a slow receiver as a dead one. */
                int none = 0;
                (void)setsockopt(net->tcp_fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &none, sizeof(none));
        }
        if (net->purpose != PURPOSE_BULK)
                return;
        if (net->version >= VERSION_PACKED && packer_new(&net->packer) < 0)
                fail(net, ERROR_FAILED, ENOMEM, "out of memory");
        else
                owner_send(net, &wanted, sizeof(wanted));
}

static void send_hello(struct net *net)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;

        if (message_decode(net->config.hello, net->config.hello_size, &m, NULL) < 0 || transmit_message(net, m) < 0)
                fail(net, ERROR_FAILED, EINVAL, "malformed greeting");
}

void greeting_begin(struct net *net)
{
        net->phase = PHASE_GREETING;
        net->heard_ms = net->said_ms = clock_ms();
        net->stranger = !net->peer_anchor;
        if (net->config.accepting) {
                net->deadline_ms = clock_ms() + net->config.handshake_ms;
                send_up(net);
                return;
        }
        if (net->config.expect[0] &&
            (!net->peer_anchor || strcmp(net->peer_anchor->fingerprint, net->config.expect) != 0)) {
                struct error err = {0};
                (void)error_set_kind(&err, ERROR_DENIED, EACCES,
                                     "the host at %s is paired with this one, but is not the one expected there",
                                     net->peer);
                net_down(net, &err, true);
                return;
        }
        net->deadline_ms = clock_ms() + WELCOME_MS;
        send_hello(net);
}

static void refuse(struct net *net, const struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_REFUSE);

        message_put_text(m, FIELD_KIND, error_kind_name(err->kind));
        message_put_text(m, FIELD_TEXT, err->text);
        (void)transmit_message(net, m);
        net_down(net, err, true);
}

static void on_hello(struct net *net, const struct message *m)
{
        struct error err = {0};
        uint32_t purpose = 0;

        if (net->welcome_due) {
                fail(net, ERROR_FAILED, EPROTO, "the peer greeted twice");
                return;
        }
        (void)message_get_u32(m, FIELD_VERSION_MIN, &net->version_min);
        (void)message_get_u32(m, FIELD_VERSION_MAX, &net->version_max);
        (void)message_get_u32(m, FIELD_PURPOSE, &purpose);
        int r = wire_negotiate(net->version_min, net->version_max, &net->version, &err);
        if (r == 0 && (purpose < PURPOSE_CONTROL || purpose > PURPOSE_PAIR))
                r = error_set_kind(&err, ERROR_REFUSED, EPROTO, "unknown purpose of a connection: %u", purpose);
        if (r == 0 && net->stranger && purpose != PURPOSE_PAIR)
                r = error_set_kind(&err, ERROR_DENIED, EACCES, "%s is not paired with this host", net->peer);
        if (r < 0) {
                refuse(net, &err);
                return;
        }
        net->purpose = purpose;
        net->welcome_due = true;
        net->deadline_ms = 0;
        owner_send_message(net, m);
}

static void on_welcome(struct net *net, const struct message *m)
{
        (void)message_get_u32(m, FIELD_VERSION, &net->version);
        if (net->version < net->version_min || net->version > net->version_max) {
                fail(net, ERROR_REFUSED, EPROTO, "the peer chose a version of the protocol that was not offered");
                return;
        }
        enter_open(net);
        send_up(net);
}

static void on_refuse(struct net *net, const struct message *m)
{
        struct error err = {0};
        char kind[64] = "", text[ERROR_TEXT_MAX] = "";

        (void)message_get_text(m, FIELD_KIND, kind, sizeof(kind));
        if (message_get_text(m, FIELD_TEXT, text, sizeof(text)) < 0)
                (void)snprintf(text, sizeof(text), "refused without a usable reason");
        enum error_kind k = error_kind_from_name(kind);
        (void)error_set_kind(&err, k == ERROR_NONE ? ERROR_REFUSED : k, ECONNREFUSED, "%s", text);
        net_down(net, &err, true);
}

void greeting_from_peer(struct net *net, const struct message *m)
{
        if (net->phase != PHASE_GREETING)
                fail(net, ERROR_FAILED, EPROTO, "the peer greeted at the wrong time");
        else if (m->type == MSG_HELLO)
                on_hello(net, m);
        else if (m->type == MSG_WELCOME)
                on_welcome(net, m);
        else
                on_refuse(net, m);
}

/* The owner says how far it is ready to go; what the peer offered is known here. */
static int send_welcome(struct net *net, const struct message *from_owner)
{
        CLEANUP(message_free_ptr) struct message *m = message_new(MSG_WELCOME);
        char software[256] = "";
        uint32_t version = 0;

        (void)message_get_u32(from_owner, FIELD_VERSION, &version);
        (void)message_get_text(from_owner, FIELD_SOFTWARE, software, sizeof(software));
        if (version < net->version)
                net->version = version;
        message_put_u32(m, FIELD_VERSION, net->version);
        if (software[0])
                message_put_text(m, FIELD_SOFTWARE, software);
        return transmit_message(net, m);
}

void greeting_from_owner(struct net *net, const struct message *m)
{
        const bool welcome = m->type == MSG_WELCOME;

        if (net->phase != PHASE_GREETING || !net->welcome_due ||
            (welcome ? send_welcome(net, m) : transmit_message(net, m)) < 0) {
                fail(net, ERROR_FAILED, EPROTO, "an answer to a greeting that was not made");
                return;
        }
        net->welcome_due = false;
        if (welcome) {
                enter_open(net);
        } else {
                struct error none = {0};
                net_down(net, &none, true);
        }
}
