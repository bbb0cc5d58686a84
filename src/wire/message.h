/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/*
 * A control message: a type and a list of fields, as described in PROTOCOL.md. The same bytes travel between hosts
 * (framed, in TLS) and between phaul-net and its owner (one SEQPACKET record), and are checked by the same code on both
 * sides: phaul-net drops what the table in message.c does not allow, and its owner checks again, because phaul-net may
 * have been taken over.
 *
 * Encoding of a field: u16 tag, u32 length, bytes; all integers big-endian. A field may be repeated where the table
 * says so. Text is UTF-8 without NUL.
 */
#define MESSAGE_MAX (128U * 1024) /* type, fields and all */

enum message_type {
        /* every connection starts with these */
        MSG_HELLO = 1, /* connecting side: versions, purpose, migration, token */
        MSG_WELCOME,   /* accepting side: the version chosen */
        MSG_REFUSE,    /* accepting side: kind and text; the connection ends */
        MSG_PING,      /* sent and answered inside phaul-net; owners never see them */
        MSG_PONG,

        /* control connection of a migration, source to target unless said */
        MSG_OFFER = 16,  /* what is to be moved and what it needs */
        MSG_VERDICT,     /* target: graded items */
        MSG_PREPARE,     /* the source wants it: reserve the name, make room */
        MSG_READY,       /* target: ready for files; token for further connections */
        MSG_FILES_ROUND, /* a round of one tree begins; its stream connection follows */
        MSG_FILES_DONE,  /* target: the receiver of that round ended, with its result */
        MSG_STATE_OPEN,  /* memory and metadata will come; the bulk connection follows */
        MSG_STATE_END,   /* all of it was sent: totals */
        MSG_PREPARED,    /* target: restored and held, durable */
        MSG_COMMIT,      /* the point of no return was passed */
        MSG_RUNNING,     /* target: the tasks run */
        MSG_ABORTED,     /* the source took it back (or never committed) */
        MSG_DISCARDED,   /* target: nothing of the copy is left; nothing ran. Carries the reason if it failed */
        MSG_RESUME,      /* first on a reconnected control connection: the source's state */
        MSG_LOST,        /* target: state unknown; an operator is needed */
        MSG_RELEASED,    /* the source let go: the target may forget the migration */
        MSG_FILLING,     /* target: the tasks run, and need pages that were left on the source; token for their way */
        MSG_PAGES_OPEN,  /* the way for these pages was lost; another bulk connection follows */

        MSG_PROBE = 40, /* bytes to measure the link with, during the pre-flight; the one marked last is answered */
        MSG_PROBED,     /* target: they are here */

        /* query connection */
        MSG_QUERY = 64, /* what, arguments */
        MSG_ANSWER,     /* JSON text, possibly in several messages, the last one marked */

        /* pairing connection, see PROTOCOL.md "Pairing" */
        MSG_PAIR_OPEN = 80, /* certificate, nonce, name */
        MSG_PAIR_OFFER,     /* the other's certificate, nonce, name, proof */
        MSG_PAIR_PROOF,     /* proof of the connecting side */
        MSG_PAIR_DONE,

        MSG_TUNNEL = 96, /* both ends of a tunnel, once: versions, certificate, name; see tunnel.h */
};

enum field {
        FIELD_VERSION_MIN = 1, /* u32 */
        FIELD_VERSION_MAX,     /* u32 */
        FIELD_VERSION,         /* u32 */
        FIELD_SOFTWARE,        /* text: "phaul 0.1" */
        FIELD_PURPOSE,         /* u32: enum purpose */
        FIELD_MIGRATION,       /* text: id */
        FIELD_TOKEN,           /* bytes: 16 */
        FIELD_KIND,            /* text: error kind name (REFUSE, DISCARDED, VERDICT items use FIELD_GRADE) */
        FIELD_TEXT,            /* text for people */
        FIELD_WORKLOAD_KIND,   /* text: lxc */
        FIELD_WORKLOAD_ID,     /* text: name on the source */
        FIELD_TARGET_ID,       /* text: name on the target */
        FIELD_DESCRIPTION,     /* text: JSON, made and read by the haulers of both ends */
        FIELD_MEMORY_BYTES,    /* u64 */
        FIELD_FILE_BYTES,      /* u64 */
        FIELD_FILE_COUNT,      /* u64 */
        FIELD_ITEM,            /* text, repeated: JSON {id, host, grade, reason} of a verdict */
        FIELD_GRADE,           /* text: ok | warning | error */
        FIELD_ROUND,           /* u32 */
        FIELD_TREE,            /* u32: index of the file tree */
        FIELD_STREAM,          /* u32: number of the stream connection */
        FIELD_LAST,            /* u32: 1 = last round / last part */
        FIELD_STATUS,          /* u32: exit status */
        FIELD_STATE,           /* text: name of the handover state */
        FIELD_WHAT,            /* text: the query */
        FIELD_ARGUMENT,        /* text */
        FIELD_BODY,            /* text: JSON */
        FIELD_CERTIFICATE,     /* text: PEM */
        FIELD_NONCE,           /* bytes: 32 */
        FIELD_PROOF,           /* bytes: 32 */
        FIELD_NAME,            /* text: host name */
        FIELD_PORT,            /* u32 */
        FIELD_OPTIONS,         /* text: JSON of options both ends must know */
        FIELD_ROUND_KIND,      /* u32: enum files_round */
        FIELD_HOST,            /* text: JSON of what the target compares itself with */
        FIELD_STREAMS,         /* u32: how many connections, with numbers from `stream` on */
};

enum purpose {
        PURPOSE_CONTROL = 1, /* a migration's control messages (new or resumed) */
        PURPOSE_STREAM,      /* raw bytes of one child process (rsync), after WELCOME */
        PURPOSE_BULK,        /* bulk frames (memory, images), after WELCOME */
        PURPOSE_QUERY,
        PURPOSE_PAIR, /* the only one a peer that is not paired may ask for */
};

struct message {
        uint16_t type;
        uint8_t *data; /* encoded fields */
        size_t size, room;
        int failed; /* sticky: negative errno of the first put that failed */
};

struct message *message_new(uint16_t type); /* NULL when out of memory */
void message_free(struct message *m);
DEFINE_CLEANUP(struct message, message_free)

/* Puts are sticky on failure: check message_result() once, or let the send report it. Also accept m == NULL (ENOMEM).
 */
void message_put_u32(struct message *m, enum field tag, uint32_t value);
void message_put_u64(struct message *m, enum field tag, uint64_t value);
void message_put_text(struct message *m, enum field tag, const char *text); /* NULL: not put */
void message_put_bytes(struct message *m, enum field tag, const void *data, size_t size);

/* What the first failed put said (-EINVAL: the table does not allow that field there; -EEXIST: given twice; -EMSGSIZE,
 * -EILSEQ, -ENOMEM); -ENODATA when a required field is missing. */
int message_result(const struct message *m);

/* Whole message in its encoding: u16 type, u16 zero, fields. Caller frees *ret. */
int message_encode(const struct message *m, uint8_t **ret, size_t *ret_size);

/*
 * Decode and check against the table: known type, known tags, allowed in this type, lengths, UTF-8, no repetition but
 * where allowed, required fields present. -EBADMSG with a text that says what is wrong.
 */
int message_decode(const uint8_t *data, size_t size, struct message **ret, struct error *err);

/*
 * Whether this message may come from that side of a connection of that purpose (0: any purpose). -EPROTO with a text.
 */
int message_check_place(const struct message *m, enum purpose purpose, bool from_connector, struct error *err);

/* Gets: 0, -ENOENT when absent. Text is copied into a buffer of the caller's (-ENAMETOOLONG) or allocated. */
int message_get_u32(const struct message *m, enum field tag, uint32_t *ret);
int message_get_u64(const struct message *m, enum field tag, uint64_t *ret);
int message_get_text(const struct message *m, enum field tag, char *buffer, size_t size);
int message_dup_text(const struct message *m, enum field tag, char **ret);
int message_get_bytes(const struct message *m, enum field tag, const uint8_t **ret, size_t *ret_size); /* borrowed */

/* The n-th (from 0) occurrence of a repeated text field; -ENOENT after the last. */
int message_dup_text_at(const struct message *m, enum field tag, size_t n, char **ret);

const char *message_type_name(uint16_t type);
