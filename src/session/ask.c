/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/ask.h"

#include <errno.h>
#include <string.h>

#include "session/peer.h"
#include "wire/trust.h"

#define ANSWER_TIMEOUT_MS 5000

struct question {
        const struct session *session;
        bool over;
        int result;
        char record[32];
};

static void on_up(struct link *link, const struct link_peer *peer, uint32_t version, void *context)
{
        struct question *q = context;
        struct message *m = message_new(MSG_QUERY);

        (void)peer;
        (void)version;
        message_put_text(m, FIELD_WHAT, "handover");
        message_put_text(m, FIELD_MIGRATION, q->session->request.id);
        if (link_send(link, m) < 0)
                q->over = true;
}

static void on_message(struct link *link, const struct message *m, void *context)
{
        struct question *q = context;
        AUTO_FREE char *body = NULL;

        (void)link;
        q->over = true;
        if (m->type != MSG_ANSWER || message_dup_text(m, FIELD_BODY, &body) < 0)
                return;
        json_t *answer = json_loads(body, JSON_REJECT_DUPLICATES, NULL);
        const char *record = json_string_value(json_object_get(answer, "record"));
        if (record && strlen(record) < sizeof(q->record)) {
                (void)strcpy(q->record, record);
                q->result = 0;
        }
        json_decref(answer);
}

static void on_down(struct link *link, const struct error *err, void *context)
{
        struct question *q = context;

        (void)link;
        (void)err;
        q->over = true;
}

static bool over(void *context)
{
        const struct question *q = context;

        /* A control link that came meanwhile says more than an answer would. */
        return q->over || peer_is_up(q->session);
}

int ask_handover(struct session *s, char *ret, size_t size)
{
        static const struct link_handlers handlers = {.up = on_up, .message = on_message, .down = on_down};
        struct question q = {.session = s, .result = -ENOTCONN};
        struct link *link = NULL;

        int r = peer_dial(s, PURPOSE_QUERY, 0, &handlers, &q, &link, NULL);
        if (r < 0)
                return r;
        (void)session_wait(s, WAIT_THROUGH, over, &q, ANSWER_TIMEOUT_MS, "asking", NULL);
        link_free(link);
        if (q.result == 0 && snprintf(ret, size, "%s", q.record) >= (int)size)
                return -ENAMETOOLONG;
        return q.result;
}
