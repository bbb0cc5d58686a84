/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "wire/link_private.h"

/*
 * The ring of a bulk link: one memfd of ours, sealed so that phaul-net cannot truncate it under us, BULK_SLOTS slots
 * for either direction. A slot belongs to one side at a time by agreement only; phaul-net could break it, which is why
 * receivers copy before they check.
 */

int link_ring_open(struct link *link)
{
        if (link->ring)
                return 0;

        AUTO_FD int fd = memfd_create("phaul-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        if (ftruncate(fd, (off_t)RING_SIZE) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno;
        uint8_t *ring = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (ring == MAP_FAILED)
                return -errno;

        struct record_header record = {.type = RECORD_RING};
        int r = link_send_record(link, &record, sizeof(record), fd);
        if (r < 0) {
                (void)munmap(ring, RING_SIZE);
                return r;
        }
        link->ring = ring;
        return 0;
}

void link_ring_close(struct link *link)
{
        if (link->ring)
                (void)munmap(link->ring, RING_SIZE);
        link->ring = NULL;
}

int link_bulk_reserve(struct link *link, void **ret_data)
{
        if (link->state != LINK_OPEN)
                return -ENOTCONN;
        int r = link_ring_open(link);
        if (r < 0)
                return r;
        for (int i = 0; i < BULK_SLOTS && link->reserved < 0; i++)
                if (!link->in_flight[i])
                        link->reserved = i;
        if (link->reserved < 0)
                return -EAGAIN;
        *ret_data = link->ring + RING_SEND(link->reserved);
        return 0;
}

int link_bulk_commit(struct link *link, const struct bulk_frame *frame)
{
        struct record_bulk record = {.header.type = RECORD_COMMIT, .frame = *frame};

        if (link->reserved < 0 || frame->size > BULK_MAX)
                return -EINVAL;
        record.slot = (uint32_t)link->reserved;
        int r = link_send_record(link, &record, sizeof(record), -1);
        if (r < 0)
                return r;
        link->in_flight[link->reserved] = true;
        link->reserved = -1;
        return 0;
}

int link_bulk_send(struct link *link, const struct bulk_frame *frame, const void *data)
{
        void *slot;

        if (frame->size > BULK_MAX)
                return -EMSGSIZE;
        int r = link_bulk_reserve(link, &slot);
        if (r < 0)
                return r;
        if (frame->size)
                memcpy(slot, data, frame->size);
        return link_bulk_commit(link, frame);
}

unsigned link_bulk_in_flight(const struct link *link)
{
        unsigned n = 0;

        for (int i = 0; i < BULK_SLOTS; i++)
                n += link->in_flight[i];
        return n;
}

int link_on_sent(struct link *link, const struct record_slot *record)
{
        if (record->slot >= BULK_SLOTS || !link->in_flight[record->slot])
                return -EPROTO;
        link->in_flight[record->slot] = false;
        if (link->handlers.writable)
                link->handlers.writable(link, link->context);
        return 0;
}

int link_on_bulk(struct link *link, const struct record_bulk *record)
{
        if (!link->ring || link->state != LINK_OPEN || record->slot >= BULK_SLOTS || record->frame.size > BULK_MAX ||
            link->kept[record->slot])
                return -EPROTO;
        const uint8_t *data = link->ring + RING_RECEIVE(record->slot);
        link->kept[record->slot] = true;
        if (!link->handlers.bulk || !link->handlers.bulk(link, &record->frame, data, link->context))
                link_bulk_done(link, data);
        return 0;
}

void link_bulk_done(struct link *link, const void *data)
{
        if (link->state != LINK_OPEN || link->freed)
                return;
        const size_t at = (size_t)((const uint8_t *)data - link->ring) - RING_RECEIVE(0);
        const struct record_slot credit = {.header.type = RECORD_CREDIT, .slot = (uint32_t)(at / BULK_MAX)};

        link->kept[credit.slot] = false;
        (void)link_send_record(link, &credit, sizeof(credit), -1); /* fails only if phaul-net is gone */
}
