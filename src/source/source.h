/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "criu/criu.h"
#include "criu/page_server.h"
#include "files/files.h"
#include "memory/image_stream.h"
#include "memory/late_memory.h"
#include "memory/page_giver.h"
#include "memory/precopy.h"
#include "migration/convergence.h"
#include "network/network.h"
#include "session/peer.h"
#include "session/session.h"
#include "source/throttle.h"

/*
 * The sending side of a migration, one file per phase, in the order in which they happen:
 * examine -> files -> freeze -> handover, with rollback for everything that fails before COMMIT.
 */

#define SOURCE_TREES_MAX 8

/* Pages known to be at the target: 2 GiB of memory, for 24 MiB. */
#define SOURCE_PLACES ((size_t)1 << 19)

/* One tree's way to the target: the mark of its last round, and its last round, prepared before the freeze. */
struct source_tree {
        struct source_side *side;
        struct files_mark mark;
        uint32_t stream;
        struct files_job *job;
        bool ended;
        struct files_result result;
        struct error error;
};

struct source_side {
        struct session *session;
        struct source_tree trees[SOURCE_TREES_MAX];
        uint32_t next_stream;
        uint32_t file_rounds;
        uint32_t memory_rounds;
        struct convergence convergence;
        struct throttle *throttle; /* NULL: it was not slowed down */

        struct network_port *ports;
        size_t n_ports;
        int images_fd;
        uint64_t memory_bytes; /* of all processes, each counted in full, when the way was opened */
        uint64_t first_bytes;  /* that rounds have sent of processes they had not seen before */
        struct bundle *bulk;
        struct error bulk_error; /* how it was lost, before all was sent */
        struct image_sender *sender;
        bool writable;           /* the link took something since it was last asked */
        struct precopy *precopy; /* NULL: all memory is in the dump */
        enum tracker_kind tracker;
        struct clean_pages *clean_pages;
        bool postcopy;                  /* what rounds left stays here until it runs there */
        bool round_said;                /* that is empty, where there were none */
        struct clean_pages *late_pages; /* what may stay; NULL: nothing */
        struct late_memory *late;
        struct page_giver *giver; /* NULL: nothing stayed, or nobody has asked this process yet */
        bool asked_for_pages;     /* on this control link, with the token that opens a way */
        uint64_t reopen_at_ms;    /* when the way of the pages may be opened again */
        bool untracked_told;
        bool stuck;     /* what stood still for a round could not be thawed */
        bool within;    /* criu dumps from within the workload's pid namespace */
        bool in_rounds; /* the freezer may have been left shut */
        struct page_server *pages;
        bool aborting; /* CRIU gets no for an answer from now on */
        bool pages_ended, images_sent;
        int images_result;
        struct error pages_error;

        struct criu *criu;
        bool criu_at_end; /* waits for us in post-dump: everything is dumped, ptrace still holds the tasks */
        bool criu_ended;  /* the process is gone, with criu_error */
        struct error criu_error;
        struct error lock_error;
        uint64_t frozen_since_us; /* monotonic; 0 while it runs */
        bool survived;            /* the rollback found tasks alive after a freeze */

        struct files_probe probes[SOURCE_TREES_MAX]; /* of shared directories, while the pre-flight asks */
        size_t n_probes;

        bool stopping, stopped; /* restart mode: it was asked to go down; it is down, nothing of it lives */
        bool not_started;       /* and could not be started again */
};

/* The whole life of the sending session; returns when nothing is left to be done. The exit status of the process. */
int source_run(struct session *s);

/* Pre-flight on both ends. ERROR_REFUSED when one of them says no. */
int source_examine(struct source_side *x, struct error *err);
/* Shared storage: write a probe into each tree, for the offer (NULL: *err); then see what became of them. `report`
 * NULL: just remove them. */
json_t *source_probes_write(struct source_side *x, struct error *err);
void source_probes_end(struct source_side *x, hauler_report_fn report, void *context);
/* What it has written is where the other host sees it. */
int source_shared_sync(struct source_side *x, struct error *err);
/* Measure the link and predict the downtime (item link). After the target's verdict, which must be no error. */
/* It may have come here a moment ago: until its memory is in place. */
int source_await_memory(struct session *s, struct error *err);
struct verdict;
int source_link_speed(struct source_side *x, struct verdict *v, struct error *err);
/* File rounds while the workload runs, until another one would not pay. */
int source_files(struct source_side *x, struct error *err);
/* The last round of every tree, ready to go the moment the tasks stand still; then the round itself. */
int source_files_arm(struct source_side *x, struct error *err);
int source_files_last(struct source_side *x, struct error *err);
/* Can there be rounds of memory here, by the tracker that is wanted? Tried on this process. */
bool source_memory_tracked(const struct session *s);
/* Rounds of memory while the workload runs, until another one would not pay. */
int source_memory(struct source_side *x, struct error *err);
/* The way for memory and metadata, opened once. */
int source_open_state(struct source_side *x, struct error *err);
/* Pages that the target has are not sent twice, as far as it is known how (from then on). `places`: how many of them
 * to know. Once it has begun nothing changes. */
void source_save(struct source_side *x, size_t places);
/* What that saved, for the report. */
void source_saved(struct source_side *x);
/* 0, or how that way was lost: in the target's own words, if it has any. */
int source_bulk_state(struct source_side *x, struct error *err);
/* All tasks stand still and criu has not looked at memory yet: tell it what it may leave out. */
int source_memory_clean(struct source_side *x, struct error *err);
/* The dump is through: tell the target what it left out. */
int source_memory_kept(struct source_side *x, struct error *err);
/* Post-copy is wanted: can it be? Falls back with a reason. When it is known that rounds help no more, or of itself. */
void source_postcopy_agree(struct source_side *x);
int source_postcopy_begin(struct source_side *x, struct error *err);
/* All tasks stand still and criu has not looked at memory yet: what may stay here. After the dump: what does. */
int source_postcopy_mark(struct source_side *x, struct error *err);
int source_postcopy_left(struct source_side *x, struct error *err);
/* All is sent but that: whoever wants a page is given it. */
int source_postcopy_give(struct source_side *x, struct error *err);
/* FILLING was heard: it runs there, and fetches the rest. Opens a way for that when there is none. */
void source_serve(struct source_side *x);
/* How much was given; for the report. */
void source_postcopy_end(struct source_side *x);
/* Handlers of the way for memory. */
extern const struct peer_bulk_handlers source_bulk_handlers;
/* The link takes a little at a time: until `more`, which says -EAGAIN meanwhile, is through and all of it has left. */
int source_hand_over(struct source_side *x, int (*more)(struct source_side *, struct error *), const char *what,
                     struct error *err);
/* Freeze, dump, send what is left. Afterwards the target has everything and restores. */
int source_freeze(struct source_side *x, struct error *err);
/* The same in restart mode: stop, send what changed since the last round. */
int source_stop(struct source_side *x, struct error *err);
/* Restart mode, after a failure: it runs here again, or *err says why not. */
int source_start_again(struct source_side *x, struct error *err);
/* From PREPARED on: commit, tell, hear, release. */
int source_handover(struct source_side *x, struct error *err);
/* Ask and tell until both sides have come to an end (after COMMIT, after an abort, after a crash). */
int source_settle(struct source_side *x, struct error *err);
/* Connect once and say how it ended here; 0 when the other host has answered. */
int source_say(struct source_side *x, struct error *err);
/* Put everything back as it was: the workload runs on, its connections too. Never fails half-way: does all it can. */
void source_rollback(struct source_side *x);
/* Destroy the frozen copy, move the container away. */
int source_release(struct source_side *x, struct error *err);
/* What an earlier process of this migration left behind, by its record. */
int source_recover(struct source_side *x, struct error *err);
