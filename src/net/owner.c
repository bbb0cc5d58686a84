/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "net/net.h"

/* Records to and from the owner. */

#define COUNT_MS 500

static void gone(struct net *net)
{
        net->owner_gone = true;
        owner_discard_pending(net);
        if (net->phase < PHASE_FLUSHING)
                net_close(net, true);
}

/* The owner would be a traitor to itself; that it is wrong about the rules is still possible. */
static void wrong(struct net *net, const char *what)
{
        struct error err = {0};

        (void)error_set(&err, EPROTO, "phaul-net was asked for something impossible: %s", what);
        net_down(net, &err, false);
}

void owner_discard_pending(struct net *net)
{
        while (net->pending) {
                struct pending_record *next = net->pending->next;
                free(net->pending);
                net->pending = next;
        }
        net->pending_tail = &net->pending;
}

static void keep(struct net *net, const void *record, size_t size)
{
        struct pending_record *p = malloc(sizeof(*p) + size);

        if (!p) {
                /* An owner that misses a record would believe something wrong. */
                gone(net);
                return;
        }
        p->next = NULL;
        p->size = size;
        memcpy(p->data, record, size);
        *net->pending_tail = p;
        net->pending_tail = &p->next;
}

void owner_send(struct net *net, const void *record, size_t size)
{
        if (net->owner_gone)
                return;
        if (net->pending) {
                keep(net, record, size);
                return;
        }
        ssize_t n = fd_send_packet(net->record_fd, record, size, -1);
        if (n == -EAGAIN)
                keep(net, record, size);
        else if (n < 0)
                gone(net);
}

void owner_flush(struct net *net)
{
        while (net->pending && !net->owner_gone) {
                struct pending_record *p = net->pending;
                ssize_t n = fd_send_packet(net->record_fd, p->data, p->size, -1);
                if (n == -EAGAIN)
                        return;
                if (n < 0) {
                        gone(net);
                        return;
                }
                net->pending = p->next;
                if (!net->pending)
                        net->pending_tail = &net->pending;
                free(p);
        }
}

void owner_send_message(struct net *net, const struct message *m)
{
        struct record_header header = {.type = RECORD_MESSAGE};
        uint8_t *data = NULL;
        size_t size;

        if (message_encode(m, &data, &size) < 0) {
                gone(net);
                return;
        }
        uint8_t *record = malloc(sizeof(header) + size);
        if (record) {
                memcpy(record, &header, sizeof(header));
                memcpy(record + sizeof(header), data, size);
                owner_send(net, record, sizeof(header) + size);
        } else {
                gone(net);
        }
        free(record);
        free(data);
}

void owner_count(struct net *net, bool force)
{
        struct record_counters record = {.header.type = RECORD_COUNTERS};
        uint64_t now = clock_ms();

        if (!net->ssl || (!force && now < net->counted_ms + COUNT_MS))
                return;
        record.sent = BIO_number_written(SSL_get_wbio(net->ssl));
        record.received = BIO_number_read(SSL_get_rbio(net->ssl));
        if (record.sent == net->reported_sent && record.received == net->reported_received)
                return;
        net->counted_ms = now;
        net->reported_sent = record.sent;
        net->reported_received = record.received;
        owner_send(net, &record, sizeof(record));
}

static void on_message(struct net *net, const uint8_t *data, size_t size)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        struct error err = {0};
        int r = message_decode(data, size, &m, &err);

        if (r == 0)
                r = message_check_place(m, net->purpose, !net->config.accepting, &err);
        if (r < 0) {
                wrong(net, err.text);
                return;
        }
        if (m->type == MSG_WELCOME || m->type == MSG_REFUSE)
                greeting_from_owner(net, m);
        else if (m->type <= MSG_PONG || net->phase != PHASE_OPEN)
                wrong(net, message_type_name(m->type));
        else if (transmit_message(net, m) < 0)
                wrong(net, "too much at once");
}

static void on_ring(struct net *net, int fd)
{
        void *ring;

        if (fd < 0 || net->ring) {
                wrong(net, "a second ring");
                return;
        }
        ring = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (ring == MAP_FAILED)
                wrong(net, "a ring that cannot be mapped");
        else
                net->ring = ring;
}

static void on_stream(struct net *net, int *fd)
{
        if (*fd < 0 || net->stream_fd >= 0 || net->purpose != PURPOSE_STREAM || net->phase != PHASE_OPEN) {
                wrong(net, "a stream where there is none");
                return;
        }
        net->stream_fd = TAKE_FD(*fd);
        receive_stream_out(net);
}

static void on_commit(struct net *net, const struct record_bulk *record)
{
        if (!net->ring || net->purpose != PURPOSE_BULK || net->phase != PHASE_OPEN || record->slot >= BULK_SLOTS ||
            record->frame.size > BULK_MAX || net->tx.n_slots == BULK_SLOTS) {
                wrong(net, "a bulk frame");
                return;
        }
        transmit_commit(net, record->slot, &record->frame);
}

union record {
        struct record_header header;
        struct record_slot slot;
        struct record_bulk bulk;
        uint8_t bytes[RECORD_MAX];
};

static void on_record(struct net *net, const union record *record, size_t size, int *fd)
{
        switch (record->header.type) {
        case RECORD_MESSAGE:
                on_message(net, record->bytes + sizeof(record->header), size - sizeof(record->header));
                break;
        case RECORD_RING:
                on_ring(net, *fd);
                break;
        case RECORD_STREAM:
                on_stream(net, fd);
                break;
        case RECORD_COMMIT:
                if (size == sizeof(record->bulk))
                        on_commit(net, &record->bulk);
                break;
        case RECORD_CREDIT:
                if (size == sizeof(record->slot) && record->slot.slot < BULK_SLOTS &&
                    (int)record->slot.slot != net->rx.slot)
                        net->rx.slot_used[record->slot.slot] = false;
                break;
        default:
                wrong(net, "an unknown record");
        }
}

/* Streams and bulk are bounded by other means, and their credits must never wait behind a full queue. */
bool owner_may_read(const struct net *net)
{
        return !net->owner_gone && !transmit_full(net);
}

void owner_read(struct net *net)
{
        static const int turn = 64;
        union record record;

        for (int i = 0; i < turn && owner_may_read(net); i++) {
                AUTO_FD int fd = -1;
                ssize_t n = fd_recv_packet(net->record_fd, &record, sizeof(record), &fd);
                if (n == -EAGAIN)
                        return;
                if (n < (ssize_t)sizeof(record.header)) {
                        gone(net);
                        return;
                }
                /* After the end was announced, all there is to learn is that the owner has closed. */
                if (net->phase <= PHASE_OPEN)
                        on_record(net, &record, (size_t)n, &fd);
        }
}
