/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "session/peer.h"
#include "target/target.h"

#define STATE_END_TIMEOUT_MS 60000
#define LAST_WORD_MS 500

static int prepare(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (!x->offered || x->prepared)
                return error_set(err, EPROTO, "%s asks for room that was not offered", s->request.peer);
        x->prepared = true;
        int r = s->hauler->prepare(&s->workload, session_leftover, s, err);
        if (r < 0)
                return r;

        struct message *ready = message_new(MSG_READY);
        message_put_bytes(ready, FIELD_TOKEN, s->token, sizeof(s->token));
        return peer_send(s, ready, err);
}

/* -- files ------------------------------------------------------------------------------------------------------- */

static void round_done(struct files_job *job, const struct files_result *result, const struct error *err, void *context)
{
        struct target_job *j = context;
        struct session *s = j->side->session;
        struct message *m = message_new(MSG_FILES_DONE);

        (void)result;
        message_put_u32(m, FIELD_ROUND, j->round);
        message_put_u32(m, FIELD_TREE, j->tree);
        message_put_u32(m, FIELD_STREAM, j->stream);
        message_put_u32(m, FIELD_STATUS, err != NULL);
        if (err)
                message_put_text(m, FIELD_TEXT, err->text);
        (void)peer_send(s, m, NULL);
        j->job = NULL;
        files_job_free(job);
        peer_stream_close(s, j->stream);
        j->side = NULL;
}

static int files_round(struct target_side *x, const struct message *m, struct error *err)
{
        struct session *s = x->session;
        struct target_job *job = NULL;
        uint32_t kind;
        int fd;

        for (size_t i = 0; i < TARGET_JOBS_MAX && !job; i++)
                if (!x->jobs[i].side)
                        job = &x->jobs[i];
        if (!x->prepared || !job || s->request.options.files == MOVE_SHARED)
                return error_set(err, EPROTO, "%s sends files that are not due", s->request.peer);
        if (message_get_u32(m, FIELD_TREE, &job->tree) < 0 || message_get_u32(m, FIELD_STREAM, &job->stream) < 0 ||
            message_get_u32(m, FIELD_ROUND, &job->round) < 0 || message_get_u32(m, FIELD_ROUND_KIND, &kind) < 0 ||
            job->tree >= s->workload.n_trees || kind > FILES_CHANGED)
                return error_set(err, EPROTO, "%s sends files of an unknown tree", s->request.peer);

        if (job->round != s->round)
                session_round(s, job->round, job->round == 1 ? x->file_bytes : 0);
        int r = peer_stream(s, job->stream, &fd, err);
        if (r < 0)
                return r;
        job->side = x;
        r = files_receive(s->loop, s->workload.trees[job->tree].target, (enum files_round)kind, fd, round_done, job,
                          &job->job, err);
        if (r < 0)
                job->side = NULL;
        return r;
}

/* -- memory and metadata ----------------------------------------------------------------------------------------- */

static void bulk_frame(const struct bulk_frame *frame, const void *data, void *context)
{
        struct target_side *x = context;

        if (x->state_ended)
                target_remote_frame(x, frame, data);
        if (!x->receiver || x->state_ended || x->state_error.kind != ERROR_NONE)
                return;
        int r = image_receiver_frame(x->receiver, frame, data, &x->state_error);
        if (r > 0)
                x->state_ended = true;
}

static void bulk_lost(const struct error *err, void *context)
{
        struct target_side *x = context;

        if (x->state_ended)
                target_remote_lost(x, err);
        if (x->state_ended || x->state_error.kind != ERROR_NONE)
                return;
        x->state_lost = true;
        x->state_error = *err;
        (void)error_wrap(&x->state_error, "receiving memory");
}

static int open_state(struct target_side *x, const struct message *m, struct error *err)
{
        static const struct peer_bulk_handlers handlers = {
                .frame = bulk_frame, .writable = target_remote_writable, .lost = bulk_lost};
        struct session *s = x->session;
        uint64_t memory = 0;
        uint32_t number, streams = 1;

        if (!x->prepared || x->receiver || s->request.options.mode == MODE_RESTART ||
            message_get_u32(m, FIELD_STREAM, &number) < 0)
                return error_set(err, EPROTO, "%s sends memory that is not due", s->request.peer);
        if (message_get_u32(m, FIELD_STREAMS, &streams) == 0 && (streams == 0 || streams > BUNDLE_LINKS_MAX))
                return error_set(err, EPROTO, "%s wants %u connections for memory", s->request.peer, streams);
        /* Shared by copy on write, memory is in the images of each that has it: the offer counts it once. */
        const bool digests_due = message_get_u64(m, FIELD_MEMORY_BYTES, &memory) == 0; /* of the same version */
        const uint64_t ceiling = STATE_CEILING(memory > x->memory_bytes ? memory : x->memory_bytes);
        int r = session_images_make(s, ceiling, err);
        if (r < 0)
                return r;
        x->images_fd = open(s->paths.images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (x->images_fd < 0)
                return error_errno(err, errno, "cannot open %s", s->paths.images);
        r = image_receiver_new(x->images_fd, ceiling, &x->receiver);
        if (r < 0)
                return error_errno(err, -r, "cannot receive memory");
        if (digests_due)
                image_receiver_expect_checked(x->receiver);
        image_receiver_lazy(x->receiver, s->request.options.unshare);
        if (migration_options_postcopy(&s->request.options))
                image_receiver_expect_left(x->receiver);
        return peer_bulk(s, number, streams, &handlers, x, &x->way, err);
}

static int took_it_back(const struct session *s, struct error *err)
{
        return error_set_kind(err, ERROR_CANCELLED, ECANCELED, "%s took it back", s->request.peer);
}

static bool state_settled(void *context)
{
        const struct target_side *x = context;

        return x->state_ended || x->state_error.kind != ERROR_NONE;
}

static bool message_came(void *context)
{
        return peer_has_message(context);
}

/* A source that took it back closes all links at once: what it says may be a moment behind the loss. */
static int state_failed(struct target_side *x, struct error *err)
{
        struct session *s = x->session;
        const struct message *m = NULL;

        if (x->state_lost && session_wait(s, WAIT_INTERRUPTIBLE, message_came, s, LAST_WORD_MS, "the reason", err) == 0)
                m = peer_first(s);
        if (m && m->type == MSG_ABORTED)
                return took_it_back(s, err);
        *err = x->state_error;
        return -err->code;
}

static int close_state(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        if (x->prepared && s->request.options.mode == MODE_RESTART)
                return 0; /* no memory: it means that all files are here */
        if (!x->receiver)
                return error_set(err, EPROTO, "%s ends a transfer that never began", s->request.peer);
        int r = session_wait(s, WAIT_INTERRUPTIBLE, state_settled, x, STATE_END_TIMEOUT_MS, "receiving memory", err);
        if (r == 0 && x->state_error.kind != ERROR_NONE)
                r = state_failed(x, err);
        /* What was left on the source comes on it, too. */
        if (r < 0 || pagemap_writer_left(image_receiver_writer(x->receiver)) == 0) {
                peer_bulk_close(s);
                x->way = NULL;
        }
        return r;
}

/* The source measures the link: what came is dropped, the last of it is acknowledged. */
static int answer_probe(struct target_side *x, const struct message *m, struct error *err)
{
        struct session *s = x->session;
        uint32_t last = 0;

        if (!x->offered || x->prepared)
                return error_set(err, EPROTO, "%s measures the link out of turn", s->request.peer);
        (void)message_get_u32(m, FIELD_LAST, &last);
        return last ? peer_send_simple(s, MSG_PROBED, err) : 0;
}

static bool something_to_do(void *context)
{
        const struct target_side *x = context;

        return peer_has_message(x->session) || x->state_error.kind != ERROR_NONE;
}

int target_receive(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        for (;;) {
                int r = session_wait(s, WAIT_INTERRUPTIBLE, something_to_do, x, 0, "waiting for the source", err);
                if (r < 0)
                        return r;
                if (x->state_error.kind != ERROR_NONE)
                        return state_failed(x, err);

                CLEANUP(message_free_ptr) struct message *m = peer_take(s);
                switch (m->type) {
                case MSG_OFFER:
                        r = x->offered ? error_set(err, EPROTO, "%s offers twice", s->request.peer)
                                       : target_examine(x, m, err);
                        break;
                case MSG_PROBE:
                        r = answer_probe(x, m, err);
                        break;
                case MSG_PREPARE:
                        session_phase(s, "files");
                        r = prepare(x, err);
                        break;
                case MSG_FILES_ROUND:
                        r = files_round(x, m, err);
                        break;
                case MSG_STATE_OPEN:
                        session_phase(s, "state");
                        r = open_state(x, m, err);
                        break;
                case MSG_STATE_END:
                        return close_state(x, err);
                case MSG_ABORTED:
                        r = took_it_back(s, err);
                        break;
                default:
                        r = error_set(err, EPROTO, "%s sent %s out of turn", s->request.peer,
                                      message_type_name(m->type));
                }
                if (r < 0)
                        return r;
        }
}
