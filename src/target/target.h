/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "files/files.h"
#include "memory/image_stream.h"
#include "pages/remote.h"
#include "session/session.h"

/*
 * The receiving side of a migration: examine -> receive -> restore (held) -> handover, with discard for everything that
 * does not get to STARTING. It reacts to the source's messages; which one is due when is decided here, not by the peer.
 */

#define TARGET_JOBS_MAX 16
#define TARGET_PORTS_MAX 32

/* One receiving rsync. */
struct target_job {
        struct target_side *side;
        struct files_job *job;
        uint32_t stream, tree, round;
};

struct target_side {
        struct session *session;
        bool offered, prepared; /* what the source has asked for so far */
        bool told;              /* the source was told how it ends, before everything was removed */
        bool heard;             /* it has said that it needs us no more */
        uint64_t memory_bytes, file_bytes, file_count;
        json_t *probes;    /* of shared directories, as offered */
        char *description; /* the source's, as offered */
        struct target_job jobs[TARGET_JOBS_MAX];

        int images_fd;
        struct image_receiver *receiver;
        bool state_ended, state_lost; /* lost: its link, before the end */
        struct error state_error;

        pid_t sync_pid;
        struct source *sync_source;
        int sync_status; /* -1 while it runs */

        /* Post-copy: pages that are still on the source. */
        struct page_remote *remote; /* NULL: none */
        struct source *on_bell;
        struct bundle *way;         /* that they come on; NULL: it was lost */
        bool way_failed;            /* what came on it cannot be used */
        bool pulling;               /* everything is asked for, not only what a task waits for */
        struct remote_run next_run; /* taken, and not asked for yet */
        uint64_t on_their_way;      /* pages */
        uint64_t faulted_bytes, background_bytes, gone_bytes;
        uint64_t cut_since_ms; /* 0: it is not */

        struct source *on_pages; /* the page service's first process, while it is our child */
        struct hauler_restore *restore;
        struct hauler_port ports[TARGET_PORTS_MAX]; /* of the held copy, found before they are needed */
        int n_ports;
        bool held, restore_ended;
        struct error restore_error;
        bool start_ended; /* restart mode */
        struct error start_error;
};

/* The whole life of the receiving session. The exit status of the process. */
int target_run(struct session *s);

/* OFFER: can this come here? Answers with VERDICT. */
int target_examine(struct target_side *x, const struct message *offer, struct error *err);
/* Everything from PREPARE to the end of the images. Returns when all is here. */
int target_receive(struct target_side *x, struct error *err);
/* Restore and hold; make files durable; PREPARED. */
int target_restore(struct target_side *x, struct error *err);
/* Before the restore: let the memory come after the tasks run, where that can be done. It is no failure when not. */
int target_lazy(struct target_side *x, struct error *err);
/* The copy is held: who may look for it by its root. */
void target_lazy_held(struct target_side *x);
/* Post-copy, once the page service is there: where it is told what is wanted. Nothing to do where nothing was left. */
int target_remote_open(struct target_side *x, struct error *err);
void target_remote_close(struct target_side *x);
/* The copy runs: from now on all of it is fetched. */
void target_remote_pull(struct target_side *x);
/* Of the way that memory came on, after the end of the images. */
void target_remote_frame(struct target_side *x, const struct bulk_frame *frame, const void *data);
void target_remote_writable(void *side);
void target_remote_lost(struct target_side *x, const struct error *err);
/* PAGES_OPEN: another way in its place. */
void target_remote_way(struct target_side *x, const struct message *m);
/* The source is needed no more. To be asked often: it also tells when the link is down. */
bool target_remote_over(struct target_side *x);
/* RUNNING is told: until the memory is in place, and nothing is left of who brought it. */
void target_fill(struct target_side *x);
/* From PREPARED on: wait for the source's decision, start, tell. */
int target_handover(struct target_side *x, struct error *err);
/* STARTING is durable (also: a crash after it left us to look): start what is there and see what becomes of it. */
int target_start(struct target_side *x, struct error *err);
/* Interfaces of the copy, and the bridges they belong to. */
int target_find_ports(struct target_side *x, struct error *err);
/*
 * Record what has happened, for as long as it takes: after STARTING the truth is what is there, and a disk that is full
 * does not change it. Until then nobody is told anything.
 */
void target_insist(struct session *s, enum handover_event event);
/* Say what became of it, as far as it is durable: RUNNING, DISCARDED (with the reason) or LOST. */
int target_tell(struct session *s, const struct error *failure);
/* Until the source has heard how it ended. */
void target_linger(struct target_side *x, const struct error *failure);
/* Remove everything on the leftovers list. */
int target_discard(struct target_side *x, struct error *err);
/* The workload as the record of an earlier process describes it. */
int target_recall(struct target_side *x, struct error *err);
