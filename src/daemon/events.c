/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/events.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"

struct entry {
        char *text;
        size_t size;
        char migration[ID_LENGTH + 1];
};

struct events {
        struct entry *ring; /* the event with id n is at n % max */
        size_t max, bytes;
        uint64_t oldest, next; /* ids: [oldest, next) are there */
        struct event_reader *readers;
};

struct event_reader {
        struct events *events;
        struct event_reader *next;
        uint64_t position; /* id of the next event to be read */
        char migration[ID_LENGTH + 1];
        char *part; /* rest of what did not fit into the last read */
        size_t part_size, part_done;
        bool waiting, beat;
        void (*wake)(void *);
        void *context;
};

int events_new(uint64_t first_id, size_t max, struct events **ret)
{
        CLEANUP(events_free_ptr) struct events *e = calloc(1, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->max = max;
        e->ring = calloc(max, sizeof(*e->ring));
        if (!e->ring)
                return -ENOMEM;
        e->oldest = e->next = first_id;
        *ret = TAKE_PTR(e);
        return 0;
}

static void drop_oldest(struct events *e)
{
        struct entry *entry = &e->ring[e->oldest % e->max];

        e->bytes -= entry->size;
        free(entry->text);
        *entry = (struct entry){0};
        e->oldest++;
}

void events_free(struct events *e)
{
        if (!e)
                return;
        while (e->ring && e->oldest < e->next)
                drop_oldest(e);
        free(e->ring);
        free(e);
}

uint64_t events_last_id(const struct events *e)
{
        return e->next - 1;
}

static void wake_all(struct events *e, bool beat)
{
        struct event_reader *next;

        for (struct event_reader *r = e->readers; r; r = next) {
                next = r->next;
                if (!r->waiting)
                        continue;
                r->beat = beat;
                r->waiting = false;
                r->wake(r->context);
        }
}

void events_heartbeat(struct events *e)
{
        wake_all(e, true);
}

int events_publish(struct events *e, const char *name, const char *migration, json_t *data)
{
        AUTO_FREE char *json = data ? json_dumps(data, JSON_COMPACT) : NULL;
        char *text;

        json_decref(data);
        if (!json)
                return -ENOMEM;
        int n = asprintf(&text, "id: %" PRIu64 "\nevent: %s\ndata: %s\n\n", e->next, name, json);
        if (n < 0)
                return -ENOMEM;

        while (e->next - e->oldest >= e->max || (e->oldest < e->next && e->bytes + (size_t)n > EVENTS_BYTES_MAX))
                drop_oldest(e);
        struct entry *entry = &e->ring[e->next % e->max];
        entry->text = text;
        entry->size = (size_t)n;
        (void)snprintf(entry->migration, sizeof(entry->migration), "%s", migration ? migration : "");
        e->bytes += entry->size;
        e->next++;
        wake_all(e, false);
        return 0;
}

int event_reader_new(struct events *e, bool resume, uint64_t last_id, const char *migration, void (*wake)(void *),
                     void *context, struct event_reader **ret)
{
        struct event_reader *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        r->events = e;
        r->wake = wake;
        r->context = context;
        (void)snprintf(r->migration, sizeof(r->migration), "%s", migration ? migration : "");
        /* An id from the future was never given out by us: nothing can be resumed, the reader starts now. */
        r->position = resume && last_id < e->next ? last_id + 1 : e->next;
        r->beat = true; /* a first comment at once: without a byte of the body the headers would wait, too */
        r->next = e->readers;
        e->readers = r;
        *ret = r;
        return 0;
}

void event_reader_free(struct event_reader *reader)
{
        if (!reader)
                return;
        for (struct event_reader **p = &reader->events->readers; *p; p = &(*p)->next)
                if (*p == reader) {
                        *p = reader->next;
                        break;
                }
        free(reader->part);
        free(reader);
}

/* The next text for this reader, as a copy of its own: the ring may drop the entry while it is being sent. */
static bool next_part(struct event_reader *r)
{
        struct events *e = r->events;

        free(TAKE_PTR(r->part));
        r->part_done = r->part_size = 0;
        if (r->position < e->oldest) {
                r->position = e->oldest;
                int n = asprintf(&r->part, "event: gap\ndata: {\"oldest\":%" PRIu64 "}\n\n", e->oldest);
                if (n < 0) {
                        r->part = NULL;
                        return false;
                }
                r->part_size = (size_t)n;
                return true;
        }
        while (r->position < e->next) {
                const struct entry *entry = &e->ring[r->position++ % e->max];
                if (r->migration[0] && strcmp(r->migration, entry->migration) != 0)
                        continue;
                r->part = strdup(entry->text);
                if (!r->part)
                        return false;
                r->part_size = entry->size;
                return true;
        }
        return false;
}

size_t event_reader_read(struct event_reader *r, char *buffer, size_t size)
{
        static const char beat[] = ": still here\n\n";
        size_t used = 0;

        while (used < size) {
                if (r->part_done == r->part_size && !next_part(r))
                        break;
                size_t n = r->part_size - r->part_done;
                if (n > size - used)
                        n = size - used;
                memcpy(buffer + used, r->part + r->part_done, n);
                r->part_done += n;
                used += n;
        }
        if (used == 0 && r->beat && size >= sizeof(beat)) {
                memcpy(buffer, beat, sizeof(beat) - 1);
                used = sizeof(beat) - 1;
        }
        r->beat = false;
        r->waiting = used == 0;
        return used;
}
