/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * The handover as a pure state machine: (side, state, event) -> next state, the record that must be durable before
 * anything else happens, and the acts that follow. No sockets, no clocks, no files. The diagram stands above the
 * transition table in handover.c; the model that was checked before this code is docs/handover.pml.
 */
enum side { SIDE_SOURCE, SIDE_TARGET };

enum handover_state {
        /* source */
        SOURCE_WORKING,   /* the workload runs here; files and memory are on their way */
        SOURCE_FROZEN,    /* frozen here; the last of it is on its way, or the target prepares */
        SOURCE_COMMITTED, /* point of no return passed; the frozen copy is kept until RUNNING is heard */
        SOURCE_RELEASED,  /* RUNNING heard: the frozen copy is being destroyed */
        SOURCE_ABORTED,   /* runs here again (or still); the target may still have to be told */
        SOURCE_UNDECIDED, /* committed, and the target does not know what became of the copy: an operator decides */
        /* target */
        TARGET_RECEIVING, /* nothing restored yet */
        TARGET_PREPARED,  /* restored and held, durable */
        TARGET_STARTING,  /* COMMIT received, durable: network and tasks are being let go */
        TARGET_RUNNING,   /* the tasks run here */
        TARGET_DISCARDED, /* nothing of the copy is left, nothing ever ran */
        TARGET_UNKNOWN,   /* crashed between STARTING and RUNNING and the copy is gone: it may have run */
        HANDOVER_STATES
};

enum handover_event {
        /* source */
        EVENT_FROZEN,         /* all tasks frozen in our cgroup, network locked */
        EVENT_HEARD_PREPARED, /* -> COMMIT */
        EVENT_HEARD_RUNNING,
        EVENT_HEARD_DISCARDED, /* the target says, durably: nothing ran and nothing is left */
        EVENT_HEARD_LOST,      /* the target says: unknown */
        EVENT_FAILED,          /* anything failed on either side, link lost, time-out */
        EVENT_CANCEL,          /* a user wants it back */
        /* target */
        EVENT_HELD, /* restore done, held, files synced */
        EVENT_HEARD_COMMIT,
        EVENT_ALIVE,     /* CRIU reported success and tasks and monitor were seen alive */
        EVENT_NEVER_RAN, /* after STARTING: destroyed, and it is certain that no task ever ran */
        EVENT_GONE,      /* after STARTING: gone, and nobody knows whether it ran */
        EVENT_HEARD_ABORTED,
        EVENT_LINK_LOST,    /* the target waits (PREPARED) or discards (RECEIVING) */
        EVENT_DISCARD_DONE, /* everything on the leftovers list is removed */
        /* both */
        EVENT_RESOLVE_HERE, /* operator: the workload shall run on this side */
        EVENT_RESOLVE_THERE,
        HANDOVER_EVENTS
};

/* Acts, in the order in which they are to be done after the record is durable. A bit mask. */
enum handover_act {
        ACT_NONE = 0,
        ACT_TELL = 1 << 0,        /* send the message that belongs to the new state */
        ACT_THAW = 1 << 1,        /* source: network unlocked, tasks thawed, announced again */
        ACT_DESTROY = 1 << 2,     /* source: kill the frozen tasks, move the container away */
        ACT_START = 1 << 3,       /* target: network up, announce, release the hold */
        ACT_DISCARD = 1 << 4,     /* target: remove everything on the leftovers list */
        ACT_WAIT = 1 << 5,        /* hold and ask again when the link is back */
        ACT_REFUSE_LATE = 1 << 6, /* tell the user: too late, it is on the target */
        ACT_CALL_OPERATOR = 1 << 7,
};

struct handover_step {
        enum handover_state next;
        const char *record; /* to be durable first ("COMMIT", …), NULL for none */
        unsigned acts;
};

/* -EPROTO when the event is not legal in that state: the caller treats it as a failure, never as a transition. */
int handover_step(enum handover_state state, enum handover_event event, struct handover_step *ret);

enum side handover_side(enum handover_state state);
const char *handover_state_name(enum handover_state state); /* "committed", unique per side */
const char *handover_event_name(enum handover_event event);
int handover_state_from_name(enum side side, const char *name, enum handover_state *ret);

/* The state a record file proves after a crash: from its last handover record (see journal.h). */
int handover_state_from_record(enum side side, const char *record, enum handover_state *ret);

/* Nothing more is to be done or asked in this state. */
bool handover_is_final(enum handover_state state);

/* Who owns the workload in this state as far as this side can know: "source", "target", "unknown". */
const char *handover_owner(enum handover_state state);
