/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

#define ROUNDS_MAX 5
#define ROUND_SHORT_MS 1500
#define READY_TIMEOUT_MS 60000
#define RECEIVER_TIMEOUT_MS 60000
#define RECEIVER_LAST_WORD_MS 3000

static void tree_done(struct files_job *job, const struct files_result *result, const struct error *err, void *context)
{
        struct source_tree *tree = context;

        (void)job;
        tree->ended = true;
        tree->result = *result;
        if (err)
                tree->error = *err;
}

static bool tree_ended(void *context)
{
        const struct source_tree *tree = context;

        return tree->ended;
}

/* Tell the target of a round of this tree and give our rsync its way there. */
static int start_round(struct source_side *x, size_t i, enum files_round kind, struct error *err)
{
        struct session *s = x->session;
        struct source_tree *tree = &x->trees[i];
        struct message *m = message_new(MSG_FILES_ROUND);
        int fd = -1;

        tree->side = x;
        tree->ended = false;
        tree->stream = x->next_stream++;
        message_put_u32(m, FIELD_TREE, (uint32_t)i);
        message_put_u32(m, FIELD_ROUND, x->file_rounds);
        message_put_u32(m, FIELD_STREAM, tree->stream);
        message_put_u32(m, FIELD_ROUND_KIND, (uint32_t)kind);
        int r = peer_send(s, m, err);
        if (r == 0)
                r = peer_stream(s, tree->stream, &fd, err);
        if (r < 0)
                return r;

        struct files_send_options options = {
                .path = s->workload.trees[i].source,
                .round = kind,
                .since = tree->mark,
                .bytes_per_second = s->request.options.bandwidth,
        };
        return files_send(s->loop, &options, fd, tree_done, tree, &tree->job, err);
}

/* What the target's receiver says of the round; its words are better than "broken pipe" here. */
static int receiver_result(struct source_side *x, uint64_t timeout_ms, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        char text[ERROR_TEXT_MAX];
        uint32_t status = 1;

        int r = peer_expect(x->session, MSG_FILES_DONE, timeout_ms, &m, err);
        if (r < 0)
                return r;
        (void)message_get_u32(m, FIELD_STATUS, &status);
        if (status == 0)
                return 0;
        if (message_get_text(m, FIELD_TEXT, text, sizeof(text)) < 0)
                (void)snprintf(text, sizeof(text), "the receiving rsync failed");
        return error_set(err, EREMOTEIO, "%s: %s", x->session->request.peer, text);
}

static int end_round(struct source_side *x, struct source_tree *tree, struct error *err)
{
        struct session *s = x->session;
        struct error there = {0};

        int r = session_wait(s, WAIT_INTERRUPTIBLE, tree_ended, tree, 0, "copying files", err);
        if (r == 0 && tree->error.kind != ERROR_NONE) {
                r = receiver_result(x, RECEIVER_LAST_WORD_MS, &there);
                *err = r == -EREMOTEIO ? there : tree->error;
                r = -err->code;
        } else if (r == 0) {
                r = receiver_result(x, RECEIVER_TIMEOUT_MS, err);
        }
        if (r == 0)
                session_log(s, "info", "files of %s: %llu sent, %llu deleted, %llu bytes",
                            s->workload.trees[tree - x->trees].label, (unsigned long long)tree->result.files,
                            (unsigned long long)tree->result.deleted, (unsigned long long)tree->result.bytes_sent);
        files_job_free(TAKE_PTR(tree->job));
        peer_stream_close(s, tree->stream);
        return r < 0 ? (error_wrap(err, "copying files"), r) : 0;
}

static int prepare_there(struct session *s, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *ready = NULL;
        const uint8_t *token;
        size_t size;

        int r = peer_send_simple(s, MSG_PREPARE, err);
        if (r == 0)
                r = peer_expect(s, MSG_READY, READY_TIMEOUT_MS, &ready, err);
        if (r < 0)
                return r;
        if (message_get_bytes(ready, FIELD_TOKEN, &token, &size) < 0 || size != SESSION_TOKEN_SIZE)
                return error_set(err, EPROTO, "%s gave no token for data connections", s->request.peer);
        for (size_t i = 0; i < SESSION_TOKEN_SIZE; i++)
                s->token[i] = token[i];
        return 0;
}

/*
 * One round of every tree. The first compares everything, later ones send what changed since the mark of the one
 * before.
 */
static int round_of_all(struct source_side *x, struct error *err)
{
        const struct workload *w = &x->session->workload;
        const enum files_round kind = x->file_rounds == 1 ? FILES_FULL : FILES_CHANGED;

        for (size_t i = 0; i < w->n_trees; i++) {
                struct files_mark next;
                int r = files_mark_take(w->trees[i].source, &next, err);
                if (r == 0)
                        r = start_round(x, i, kind, err);
                if (r == 0)
                        r = end_round(x, &x->trees[i], err);
                if (r < 0)
                        return r;
                x->trees[i].mark = next;
        }
        return 0;
}

int source_files(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        uint64_t last_ms = UINT64_MAX;

        session_phase(s, "files");
        int r = prepare_there(s, err);

        if (s->request.options.files == MOVE_SHARED)
                return r;
        /* Each round sends what changed during the one before: it pays as long as rounds keep getting shorter. */
        while (r == 0 && x->file_rounds < ROUNDS_MAX) {
                uint64_t start = clock_ms();

                x->file_rounds++;
                session_round(s, x->file_rounds, x->file_rounds == 1 ? s->file_bytes : 0);
                r = round_of_all(x, err);
                uint64_t took = clock_ms() - start;
                if (took < ROUND_SHORT_MS || took > last_ms - last_ms / 10)
                        break;
                last_ms = took;
        }
        return r;
}

int source_files_arm(struct source_side *x, struct error *err)
{
        if (x->session->request.options.files == MOVE_SHARED)
                return 0;
        for (size_t i = 0; i < x->session->workload.n_trees; i++) {
                int r = start_round(x, i, FILES_FINAL, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Stores through a shared mapping that leave no trace in ctime: those files go whatever they look like. */
static int add_mapped(struct source_side *x, struct error *err)
{
        const struct workload *w = &x->session->workload;
        CLEANUP(files_paths_free_ptr) char **also = NULL;
        AUTO_FREE pid_t *pids = NULL;
        char root[64];
        size_t n = 0;

        (void)snprintf(root, sizeof(root), "/proc/%d/root", (int)w->init_pid);
        int r = freezer_pids(w->freezer, &pids, &n, err);
        if (r == 0)
                r = files_mapped_shared(pids, n, root, &also, err);
        for (size_t i = 0; r == 0 && i < w->n_trees; i++) {
                r = files_send_also(x->trees[i].job, (const char *const *)also);
                if (r < 0)
                        (void)error_errno(err, -r, "too many files are mapped");
        }
        return r;
}

static int go(struct source_tree *tree, struct error *err)
{
        int r = files_send_go(tree->job);

        return r < 0 ? error_errno(err, -r, "cannot start the last pass over the files") : 0;
}

int source_files_last(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        const size_t n = s->workload.n_trees;
        /* Each of them has its own cap on the rate: side by side they would break what was asked for. */
        const bool in_turn = s->request.options.bandwidth != 0;

        if (s->request.options.files == MOVE_SHARED)
                return source_shared_sync(x, err);
        /* Stopped, nobody maps anything any more. */
        int r = s->request.options.mode == MODE_RESTART ? 0 : add_mapped(x, err);
        for (size_t i = 0; r == 0 && !in_turn && i < n; i++)
                r = go(&x->trees[i], err);
        for (size_t i = 0; r == 0 && i < n; i++) {
                if (in_turn)
                        r = go(&x->trees[i], err);
                if (r == 0)
                        r = end_round(x, &x->trees[i], err);
        }
        return r;
}
