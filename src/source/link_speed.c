/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "preflight/preflight.h"
#include "session/peer.h"
#include "session/verdict.h"
#include "source/source.h"

/* A first, short look decides whether a longer one is due: a slow link is not kept busy for its own measure. */
#define SHORT_BYTES ((size_t)16 << 10)
#define LONG_PARTS 16
#define LONG_BYTES ((size_t)90 << 10)
#define SHORT_ENOUGH_US 50000
#define PROBE_TIMEOUT_MS 60000

/* Send `parts` messages of `bytes` each and wait until the last one is acknowledged: microseconds. */
static int exchange(struct session *s, size_t parts, size_t bytes, uint64_t *ret_us, struct error *err)
{
        AUTO_FREE char *body = malloc(bytes + 1);
        const uint64_t began = clock_us();

        if (!body)
                return error_set(err, ENOMEM, "out of memory");
        memset(body, 'x', bytes);
        body[bytes] = '\0';
        for (size_t i = 0; i < parts; i++) {
                struct message *m = message_new(MSG_PROBE);
                message_put_text(m, FIELD_BODY, body);
                if (i + 1 == parts)
                        message_put_u32(m, FIELD_LAST, 1);
                int r = peer_send(s, m, err);
                if (r < 0)
                        return r;
        }
        CLEANUP(message_free_ptr) struct message *answer = NULL;
        int r = peer_expect(s, MSG_PROBED, PROBE_TIMEOUT_MS, &answer, err);
        if (r == 0)
                *ret_us = clock_us() - began;
        return r;
}

int source_link_speed(struct source_side *x, struct verdict *v, struct error *err)
{
        struct session *s = x->session;
        uint64_t round_us = 0, us = 0, bytes = SHORT_BYTES;

        int r = exchange(s, 1, 0, &round_us, err);
        if (r == 0)
                r = exchange(s, 1, SHORT_BYTES, &us, err);
        if (r == 0 && us < round_us + SHORT_ENOUGH_US) {
                bytes = LONG_PARTS * LONG_BYTES;
                r = exchange(s, LONG_PARTS, LONG_BYTES, &us, err);
        }
        if (r < 0)
                return error_wrap(err, "cannot measure the link");
        const struct preflight_link link = {
                .tracked = source_memory_tracked(s),
                .round_us = round_us,
                /* The way of the first byte and of the answer is not the link's speed. */
                .bytes_per_second = bytes * 1000000 / (us > round_us ? us - round_us : 1),
                .floor_ms = s->request.floor_ms,
                .cap = s->request.options.bandwidth,
        };
        preflight_predict(&link, s->workload.memory_bytes, s->file_bytes, verdict_report, v);
        return 0;
}
