/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/name.h"
#include "haulers/hauler.h"
#include "loop/loop.h"
#include "migration/handover.h"
#include "migration/journal.h"
#include "migration/options.h"
#include "migration/progress.h"
#include "migration/report.h"
#include "session/way.h"
#include "wire/link.h"
#include "wire/message.h"

/*
 * phaul-session: one migration on one side, one process. This folder is what both sides share: the request, the record
 * file, the socket to phauld, the control link to the other host, and waiting. The phases themselves are in source/ and
 * target/; they read as one story each, because everything that can interrupt them comes out of session_wait().
 */

#define SESSION_TOKEN_SIZE 16

struct session_request {
        char id[ID_LENGTH + 1];
        enum side side;
        char kind[17];
        char name[NAME_MAX_LENGTH + 1];                /* on the source */
        char target_name[NAME_MAX_LENGTH + 1];         /* on the target */
        char peer[NAME_MAX_LENGTH + 1];                /* the other host */
        char self[NAME_MAX_LENGTH + 1];                /* this host, as the other knows it */
        char peer_fingerprint[FINGERPRINT_LENGTH + 1]; /* through a tunnel: "" until it is known */
        struct way way;
        uint64_t floor_ms; /* source: of a downtime without memory, as measured before; 0: it was not */
        bool check_only;
        struct migration_options options; /* on the target from the offer on */
};

struct session_paths {
        char directory[512]; /* of the record, the request, the report, the log: durable */
        char record[560];
        char control[256]; /* socket for phauld */
        char images[256];  /* mount point of the private tmpfs that images pass through */
        char hold[256];    /* socket the hold program of a restore finds us at */
        char ledger[256];  /* of pages that come after the tasks run (pages/service.h) */
        char pages[256];   /* the program that brings them */
        char trust[256];
        char hooks[256];
        char runtime[128];  /* /run/phaul */
        char released[256]; /* where the source's files stay for a day */
        char net[256];      /* the phaul-net program */
};

struct session_control;
struct session_peer;
struct session_tunnel;

struct session {
        struct session_request request;
        struct session_paths paths;
        struct loop *loop;
        struct journal *journal;
        enum handover_state state;
        struct session_control *control;
        struct session_peer *peer;
        struct session_tunnel *tunnel;     /* source, when the other host is not dialled; else NULL */
        uint8_t token[SESSION_TOKEN_SIZE]; /* proves that a further connection belongs to this migration */
        const struct hauler *hauler;
        struct workload workload;
        struct migration_report *report; /* on the target from the offer on */
        struct migration_progress progress;
        uint64_t started_ms, progress_sent_ms; /* monotonic */
        char phase[32];
        char failed_phase[32];            /* the one that led to the rollback */
        unsigned round;                   /* of the phase, 0 where it has none */
        uint64_t round_bytes, round_base; /* to be moved in it (0 unknown); counter at its begin */
        uint64_t file_bytes;              /* of all trees, when the pre-flight measured them */
        json_t *verdict;                  /* of the pre-flight, {verdict, items} */
        char **actions;                   /* built-in virtual-IP actions, from the configuration */
        char attention[ERROR_TEXT_MAX];   /* why it stands still; "" while it does not */
        bool attention_waits;             /* until the other host answers; else until a person does something */
        char stalled[ERROR_TEXT_MAX];     /* why it waits, and goes on by itself when that is over; "" */
        bool needs_source;                /* target, post-copy: what runs here needs pages that are still there */
        bool cancel_requested;
        bool recovering; /* started again on a record that exists */
        bool finished;   /* report.json is written, now or by an earlier process */
};

/* Read DIR/request.json, open or create the record, listen for phauld. */
int session_open(const char *directory, struct session **ret, struct error *err);
void session_free(struct session *s);
DEFINE_CLEANUP(struct session, session_free)

/*
 * Run the loop until `done(context)`. 0; -ECANCELED when a user cancelled; -ENOTCONN when the control link was lost;
 * -ETIMEDOUT after timeout_ms (0: none) or past the user's time limit; -EREMOTEIO when the other side reported a
 * failure. *err is filled in words in each case. With WAIT_THROUGH none of these but the timeout interrupts.
 */
enum session_wait_mode { WAIT_INTERRUPTIBLE, WAIT_THROUGH };
typedef bool (*session_done_fn)(void *context);
int session_wait(struct session *s, enum session_wait_mode mode, session_done_fn done, void *context,
                 uint64_t timeout_ms, const char *what, struct error *err);

/* -EREMOTEIO, in the far side's words, when `m` (NULL is fine) says that it gave up; 0 otherwise. */
int session_far_failure(const struct session *s, const struct message *m, struct error *err);

/*
 * Feed the handover machine: the record is durable when this returns, then the caller carries out the acts. A step that
 * is not legal, or a record that cannot be written, is an error and changes nothing.
 */
int session_step(struct session *s, enum handover_event event, const json_t *fields, unsigned *ret_acts,
                 struct error *err);

/* Phases and progress, shown to whoever watches. */
void session_phase(struct session *s, const char *phase);
/* A round of the phase begins; `bytes_total` is an estimate, 0 for none. */
void session_round(struct session *s, unsigned round, uint64_t bytes_total);
/* To be called often; tells watchers at most ten times a second. */
void session_tick(struct session *s);
void session_log(struct session *s, const char *level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* It stands still until a person does something, or until the other host answers (`why`), or goes on again (NULL).
 * Told to whoever watches. */
void session_attention(struct session *s, const char *why);
void session_waiting(struct session *s, const char *why);
/* The event that tells it; NULL without memory. */
json_t *session_attention_event(const struct session *s);

/* Post-copy: the link to the host that its memory is on is down (`why`), or back again (NULL). As above. */
void session_stalled(struct session *s, const char *why);

/* Begin the report, as soon as it is known what of (on the target by the offer). */
int session_report_open(struct session *s, struct error *err);

/* The result, told once: report.json is durable and phauld has been told when this returns. */
int session_finish(struct session *s, const struct error *failure, const char *failed_host);

/* A thing made here that must vanish again; durable before it is made. Matches hauler_leftover_fn. */
int session_leftover(const char *what, const char *name, void *session, struct error *err);

/* Fills paths.images; again when options have come with the offer. */
int session_images_place(struct session *s, struct error *err);
/* Pre-flight: may the directory that was asked for take them? */
void session_images_examine(const struct session *s, hauler_report_fn report, void *context);
/* Made (on the leftovers list), and removed, or kept when that was asked for. */
int session_images_make(struct session *s, uint64_t max_bytes, struct error *err);
int session_images_remove(struct session *s, struct error *err);
