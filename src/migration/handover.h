/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * The handover as a pure state machine: (side, state, event) -> next state, the record that must be durable before
 * anything else happens, and the acts that follow. No sockets, no clocks, no files; any thread. The diagram stands
 * above the transition table in handover.c; the model that was checked before this code is docs/handover.pml.
 *
 * How to drive it: an event comes; handover_step(); append step.record to the journal if there is one (if that fails,
 * nothing has happened: stay in the old state); take step.next; do step.acts in the order of their bits. All acts may
 * be done twice. After a crash: handover_state_from_record(), then EVENT_RESTARTED, whose acts finish what the record
 * had only announced.
 */
enum side { SIDE_SOURCE, SIDE_TARGET };

enum handover_state {
        /* source */
        SOURCE_WORKING,   /* the workload runs here; files and memory are on their way */
        SOURCE_FROZEN,    /* frozen here; the last of it is on its way, or the target prepares */
        SOURCE_COMMITTED, /* point of no return passed; the frozen copy is kept until RUNNING is heard */
        SOURCE_SERVING,   /* FILLING heard: it runs there, and its last memory is still with the frozen copy here */
        SOURCE_RELEASED,  /* RUNNING heard: the frozen copy is being destroyed */
        SOURCE_ABORTED,   /* runs here again (or still); the target may still have to be told */
        SOURCE_UNDECIDED, /* committed, and the target does not know what became of the copy: an operator decides */
        /* target */
        TARGET_RECEIVING,  /* nothing restored yet, or a restore is going on that is not held yet */
        TARGET_PREPARED,   /* restored and held, durable */
        TARGET_STARTING,   /* COMMIT received, durable: network and tasks are being let go */
        TARGET_RUNNING,    /* the tasks run here */
        TARGET_DISCARDING, /* durable: what is here will never start; it is being removed */
        TARGET_DISCARDED,  /* nothing of the copy is left, nothing ever ran */
        TARGET_UNKNOWN,    /* failed between STARTING and RUNNING and the copy is gone: it may have run */
        HANDOVER_STATES
};

enum handover_event {
        /* source */
        EVENT_FROZEN,          /* all tasks frozen in our cgroup, network locked */
        EVENT_HEARD_PREPARED,  /* -> COMMIT */
        EVENT_HEARD_FILLING,   /* the target says: it runs, and needs pages from here */
        EVENT_HEARD_RUNNING,   /* it runs, and needs nothing any more */
        EVENT_HEARD_DISCARDED, /* the target says, durably: nothing ran here and nothing will (DISCARDING or DISCARDED)
                                */
        EVENT_HEARD_LOST,      /* the target says: unknown */
        /* both */
        EVENT_FAILED,    /* anything failed on this side, or a time-out on doing something; the held copy died */
        EVENT_CANCEL,    /* a user wants it back */
        EVENT_LINK_LOST, /* the control connection is gone */
        EVENT_ASK,       /* it is back, or nothing was heard for a while: say again what we are */
        EVENT_RESTARTED, /* the session died and this is a new one, in the state its record proves */
        /* target */
        EVENT_HELD, /* restore done, held, files synced */
        EVENT_HEARD_COMMIT,
        EVENT_ALIVE,          /* CRIU reported success and tasks and monitor were seen alive */
        EVENT_NEVER_RAN,      /* after STARTING: destroyed, and it is certain that no task ever ran */
        EVENT_GONE,           /* after STARTING: gone, and nobody knows whether it ran */
        EVENT_HEARD_ABORTED,  /* the source took it back */
        EVENT_HEARD_RELEASED, /* the source let go of its copy */
        EVENT_DISCARD_DONE,   /* everything on the leftovers list is removed */
        /*
         * Both. An operator's word. In COMMITTED ("here") and PREPARED ("here") it is a promise that the other host is
         * off and stays off, and nothing can check it: ask twice. Everywhere else it can make no two copies.
         */
        EVENT_RESOLVE_HERE,  /* the workload shall run on this side */
        EVENT_RESOLVE_THERE, /* on the other */
        HANDOVER_EVENTS
};

/* Acts, in the order in which they are to be done after the record is durable. A bit mask. */
enum handover_act {
        ACT_NONE = 0,
        ACT_TELL = 1 << 0,    /* send the message that belongs to the new state (queueing it is enough) */
        ACT_THAW = 1 << 1,    /* source: network unlocked, tasks thawed, announced again; nothing if not frozen */
        ACT_DESTROY = 1 << 2, /* source: kill the frozen tasks, move the container away */
        ACT_START = 1 << 3,   /* target: network up, announce, release the hold */
        ACT_DISCARD = 1 << 4, /* target: remove everything on the leftovers list, then EVENT_DISCARD_DONE */
        ACT_WAIT = 1 << 5,    /* hold and ask again (EVENT_ASK) when the link is back or time is up */
        ACT_REFUSE_LATE =
                1 << 6, /* tell the user: too late; PREPARED: not here, only the source can still take it back */
        ACT_CALL_OPERATOR = 1 << 7,
        /*
         * Target, after STARTING: look what is there and report ALIVE, NEVER_RAN or GONE. A session that did not see it
         * all itself freezes the cgroup before it looks: a CRIU that outlived it may be letting the tasks go right now.
         */
        ACT_EXAMINE = 1 << 8,
};

struct handover_step {
        enum handover_state next;
        const char *record; /* to be durable first ("COMMIT", …), NULL for none */
        unsigned acts;
};

/*
 * -EPROTO when the event is not legal in that state (or is none at all): the caller treats it as a failure, never as a
 * transition. *ret is then untouched.
 */
int handover_step(enum handover_state state, enum handover_event event, struct handover_step *ret);

enum side handover_side(enum handover_state state);
const char *handover_state_name(enum handover_state state); /* "committed", unique per side; "?" for none */
const char *handover_event_name(enum handover_event event); /* "heard-prepared", for messages and logs */
int handover_state_from_name(enum side side, const char *name, enum handover_state *ret);

/*
 * The state a record file proves after a crash: from its last handover record (see journal.h), NULL for none. Without
 * one the source is WORKING, even if it was frozen: it may only abort now, and ACT_THAW copes with both.
 * -EINVAL for a word that this side never writes.
 */
int handover_state_from_record(enum side side, const char *record, enum handover_state *ret);

/* Whether a record is one of the handover's, of either side ("COMMIT"), and not a note beside it ("LEFTOVER"). */
bool handover_is_record(const char *record);

/* Done but for the acts, and nothing is left to be asked. What the other side still asks must be answered (EVENT_ASK).
 */
bool handover_is_final(enum handover_state state);

/*
 * Who owns the workload in this state as far as this side can know: "source", "target", "unknown". From COMMIT on it is
 * the target; a PREPARED target has not heard of a COMMIT, so for it it is the source.
 */
const char *handover_owner(enum handover_state state);
