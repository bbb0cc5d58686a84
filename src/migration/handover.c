/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/handover.h"

#include <errno.h>
#include <string.h>

/*
 * Records in capitals; each is durable before the state is entered and before its acts. "=" means a message.
 *
 *  source                                            target
 *
 *    WORKING ---------.                                RECEIVING ----------------------.
 *       | frozen      | failed, cancel,                   | held                       | failed, cancel, link lost,
 *       v             | link lost,                        v PREPARED                   | =ABORTED, restarted
 *    FROZEN ----------| restarted,                     PREPARED -----------------------|
 *       | =PREPARED   | =DISCARDED                        | =COMMIT      copy died,    |
 *       v COMMIT      |                                   v STARTING     =ABORTED      |
 *    COMMITTED -------|  =DISCARDED                    STARTING -----------------------|
 *     |  | =FILLING --. (post-copy)                     |  | alive       never ran     |
 *     |  |            v SERVING                         |  |                           |
 *     |  |         SERVING --- operator: here > ABORTED |  |                           |
 *     |  | =RUNNING | =RUNNING                          |  |                           |
 *     |  v RELEASED v RELEASED                          |  v RUNNING                   v DISCARDING
 *     | RELEASED   ABORTED                              | RUNNING                   DISCARDING
 *     |     ^         ^                                 | gone  ^                    ^ | removed
 *     |     | =RUNNING, operator: there                 |       | operator: here     | v DISCARDED
 *     | =UNKNOWN      | =DISCARDED, operator: here      |       | =RELEASED          | DISCARDED
 *     v     |         |                                 v       |                    | =ABORTED, operator: there
 *    UNDECIDED -------'                                UNKNOWN -'--------------------'
 *
 * The source decides, and COMMIT is the decision. Before it, everything that goes wrong on the source leads to ABORTED.
 * After it nothing on the source leads anywhere: it waits for the target's word, and a lost link, a failure, a time-out
 * or a user change nothing. The target starts on COMMIT only and gives up by itself only before STARTING, or when it is
 * certain that nothing ran. DISCARDING is durable before anything is removed, so the source is told at once and does
 * not stay frozen while files are removed.
 *
 * Post-copy: a running target that needs pages of the frozen copy says FILLING in place of RUNNING. SERVING is durable
 * before a page is given after that, and the copy is destroyed only when RUNNING is heard: rule "until the last page".
 * In SERVING it is known that the copy there ran, so nothing the target could say thaws this one; only a person who
 * knows that the target's host is gone for ever takes it back, as it was when it was frozen.
 *
 * Late and repeated news are legal where the model has them, and answered with what we are. What is not in the table is
 * not legal.
 */

struct transition {
        enum handover_state state;
        enum handover_event event;
        struct handover_step step;
};

/* state, event -> next, record, acts */
#define ON(state, event, next, record, acts)                                                                           \
        {                                                                                                              \
                state, event,                                                                                          \
                {                                                                                                      \
                        next, record, acts                                                                             \
                }                                                                                                      \
        }
#define STAY(state, event, acts)                                                                                       \
        {                                                                                                              \
                state, event,                                                                                          \
                {                                                                                                      \
                        state, NULL, acts                                                                              \
                }                                                                                                      \
        }

#define ABORT(state, event) ON(state, event, SOURCE_ABORTED, "ABORTED", ACT_TELL | ACT_THAW)
#define RELEASE(state, event) ON(state, event, SOURCE_RELEASED, "RELEASED", ACT_TELL | ACT_DESTROY)
#define DISCARD(state, event) ON(state, event, TARGET_DISCARDING, "DISCARDING", ACT_TELL | ACT_DISCARD)
#define START(state, event) ON(state, event, TARGET_STARTING, "STARTING", ACT_START)

static const struct transition transitions[] = {
        /* Nothing is committed: the source may always go on by itself. */
        ON(SOURCE_WORKING, EVENT_FROZEN, SOURCE_FROZEN, NULL, ACT_NONE),
        ABORT(SOURCE_WORKING, EVENT_HEARD_DISCARDED),
        ABORT(SOURCE_WORKING, EVENT_FAILED),
        ABORT(SOURCE_WORKING, EVENT_CANCEL),
        ABORT(SOURCE_WORKING, EVENT_LINK_LOST),
        ABORT(SOURCE_WORKING, EVENT_RESTARTED),
        ABORT(SOURCE_WORKING, EVENT_RESOLVE_HERE),

        ON(SOURCE_FROZEN, EVENT_HEARD_PREPARED, SOURCE_COMMITTED, "COMMIT", ACT_TELL),
        ABORT(SOURCE_FROZEN, EVENT_HEARD_DISCARDED),
        ABORT(SOURCE_FROZEN, EVENT_FAILED),
        ABORT(SOURCE_FROZEN, EVENT_CANCEL),
        ABORT(SOURCE_FROZEN, EVENT_LINK_LOST),
        ABORT(SOURCE_FROZEN, EVENT_RESTARTED),
        ABORT(SOURCE_FROZEN, EVENT_RESOLVE_HERE),

        /* Committed: only the target's word or a person's moves it. */
        STAY(SOURCE_COMMITTED, EVENT_HEARD_PREPARED, ACT_TELL),
        ON(SOURCE_COMMITTED, EVENT_HEARD_FILLING, SOURCE_SERVING, "SERVING", ACT_NONE),
        RELEASE(SOURCE_COMMITTED, EVENT_HEARD_RUNNING),
        ABORT(SOURCE_COMMITTED, EVENT_HEARD_DISCARDED),
        ON(SOURCE_COMMITTED, EVENT_HEARD_LOST, SOURCE_UNDECIDED, "UNDECIDED", ACT_CALL_OPERATOR),
        STAY(SOURCE_COMMITTED, EVENT_FAILED, ACT_WAIT),
        STAY(SOURCE_COMMITTED, EVENT_CANCEL, ACT_REFUSE_LATE),
        STAY(SOURCE_COMMITTED, EVENT_LINK_LOST, ACT_WAIT),
        STAY(SOURCE_COMMITTED, EVENT_ASK, ACT_TELL),
        STAY(SOURCE_COMMITTED, EVENT_RESTARTED, ACT_TELL | ACT_WAIT),
        ABORT(SOURCE_COMMITTED, EVENT_RESOLVE_HERE),
        RELEASE(SOURCE_COMMITTED, EVENT_RESOLVE_THERE),

        /* It runs there, and not without what is here. */
        STAY(SOURCE_SERVING, EVENT_HEARD_FILLING, ACT_NONE),
        RELEASE(SOURCE_SERVING, EVENT_HEARD_RUNNING),
        STAY(SOURCE_SERVING, EVENT_FAILED, ACT_WAIT),
        STAY(SOURCE_SERVING, EVENT_CANCEL, ACT_REFUSE_LATE),
        STAY(SOURCE_SERVING, EVENT_LINK_LOST, ACT_WAIT),
        STAY(SOURCE_SERVING, EVENT_ASK, ACT_TELL),
        STAY(SOURCE_SERVING, EVENT_RESTARTED, ACT_TELL | ACT_WAIT),
        ABORT(SOURCE_SERVING, EVENT_RESOLVE_HERE),
        STAY(SOURCE_SERVING, EVENT_RESOLVE_THERE, ACT_NONE),

        /* Over: say so to whoever asks. What cannot be destroyed is frozen, and for a person to look at. */
        STAY(SOURCE_RELEASED, EVENT_HEARD_PREPARED, ACT_TELL),
        STAY(SOURCE_RELEASED, EVENT_HEARD_FILLING, ACT_TELL),
        STAY(SOURCE_RELEASED, EVENT_HEARD_RUNNING, ACT_TELL),
        STAY(SOURCE_RELEASED, EVENT_HEARD_LOST, ACT_TELL),
        STAY(SOURCE_RELEASED, EVENT_FAILED, ACT_CALL_OPERATOR),
        STAY(SOURCE_RELEASED, EVENT_CANCEL, ACT_REFUSE_LATE),
        STAY(SOURCE_RELEASED, EVENT_LINK_LOST, ACT_NONE),
        STAY(SOURCE_RELEASED, EVENT_ASK, ACT_TELL),
        STAY(SOURCE_RELEASED, EVENT_RESTARTED, ACT_TELL | ACT_DESTROY),
        STAY(SOURCE_RELEASED, EVENT_RESOLVE_THERE, ACT_NONE),

        /* Over as well. A freeze that was under way may still succeed, after the thaw: thaw again. */
        STAY(SOURCE_ABORTED, EVENT_FROZEN, ACT_THAW),
        STAY(SOURCE_ABORTED, EVENT_HEARD_PREPARED, ACT_TELL),
        STAY(SOURCE_ABORTED, EVENT_HEARD_DISCARDED, ACT_NONE),
        STAY(SOURCE_ABORTED, EVENT_HEARD_LOST, ACT_TELL),
        STAY(SOURCE_ABORTED, EVENT_FAILED, ACT_CALL_OPERATOR),
        STAY(SOURCE_ABORTED, EVENT_CANCEL, ACT_NONE),
        STAY(SOURCE_ABORTED, EVENT_LINK_LOST, ACT_NONE),
        STAY(SOURCE_ABORTED, EVENT_ASK, ACT_TELL),
        STAY(SOURCE_ABORTED, EVENT_RESTARTED, ACT_TELL | ACT_THAW),
        STAY(SOURCE_ABORTED, EVENT_RESOLVE_HERE, ACT_NONE),

        /* The copy stays frozen. The target may have found it after all, or have been told by a person. */
        STAY(SOURCE_UNDECIDED, EVENT_HEARD_PREPARED, ACT_NONE),
        ON(SOURCE_UNDECIDED, EVENT_HEARD_FILLING, SOURCE_SERVING, "SERVING", ACT_NONE),
        RELEASE(SOURCE_UNDECIDED, EVENT_HEARD_RUNNING),
        ABORT(SOURCE_UNDECIDED, EVENT_HEARD_DISCARDED),
        STAY(SOURCE_UNDECIDED, EVENT_HEARD_LOST, ACT_NONE),
        STAY(SOURCE_UNDECIDED, EVENT_FAILED, ACT_WAIT),
        STAY(SOURCE_UNDECIDED, EVENT_CANCEL, ACT_CALL_OPERATOR),
        STAY(SOURCE_UNDECIDED, EVENT_LINK_LOST, ACT_WAIT),
        STAY(SOURCE_UNDECIDED, EVENT_ASK, ACT_TELL),
        STAY(SOURCE_UNDECIDED, EVENT_RESTARTED, ACT_TELL | ACT_CALL_OPERATOR),
        ABORT(SOURCE_UNDECIDED, EVENT_RESOLVE_HERE),
        RELEASE(SOURCE_UNDECIDED, EVENT_RESOLVE_THERE),

        /* Nothing is prepared: whatever goes wrong, give up. */
        ON(TARGET_RECEIVING, EVENT_HELD, TARGET_PREPARED, "PREPARED", ACT_TELL),
        DISCARD(TARGET_RECEIVING, EVENT_HEARD_ABORTED),
        DISCARD(TARGET_RECEIVING, EVENT_FAILED),
        DISCARD(TARGET_RECEIVING, EVENT_CANCEL),
        DISCARD(TARGET_RECEIVING, EVENT_LINK_LOST),
        DISCARD(TARGET_RECEIVING, EVENT_RESTARTED),
        DISCARD(TARGET_RECEIVING, EVENT_RESOLVE_THERE),

        /* Held: never starts by itself. A source that let go of its copy on a person's word means: start. */
        START(TARGET_PREPARED, EVENT_HEARD_COMMIT),
        START(TARGET_PREPARED, EVENT_HEARD_RELEASED),
        DISCARD(TARGET_PREPARED, EVENT_HEARD_ABORTED),
        DISCARD(TARGET_PREPARED, EVENT_FAILED),
        STAY(TARGET_PREPARED, EVENT_CANCEL, ACT_REFUSE_LATE), /* the source decides: cancel it there */
        STAY(TARGET_PREPARED, EVENT_LINK_LOST, ACT_WAIT),
        STAY(TARGET_PREPARED, EVENT_ASK, ACT_TELL),
        STAY(TARGET_PREPARED, EVENT_RESTARTED, ACT_TELL | ACT_WAIT),
        START(TARGET_PREPARED, EVENT_RESOLVE_HERE),
        DISCARD(TARGET_PREPARED, EVENT_RESOLVE_THERE),

        /* Being let go: only what is really there decides. */
        ON(TARGET_STARTING, EVENT_ALIVE, TARGET_RUNNING, "RUNNING", ACT_TELL),
        DISCARD(TARGET_STARTING, EVENT_NEVER_RAN),
        ON(TARGET_STARTING, EVENT_GONE, TARGET_UNKNOWN, "UNKNOWN", ACT_TELL | ACT_CALL_OPERATOR),
        STAY(TARGET_STARTING, EVENT_HEARD_COMMIT, ACT_NONE),
        STAY(TARGET_STARTING, EVENT_HEARD_RELEASED, ACT_NONE),
        STAY(TARGET_STARTING, EVENT_FAILED, ACT_EXAMINE),
        STAY(TARGET_STARTING, EVENT_CANCEL, ACT_REFUSE_LATE),
        STAY(TARGET_STARTING, EVENT_LINK_LOST, ACT_NONE),
        STAY(TARGET_STARTING, EVENT_ASK, ACT_NONE),
        STAY(TARGET_STARTING, EVENT_RESTARTED, ACT_EXAMINE),
        STAY(TARGET_STARTING, EVENT_RESOLVE_HERE, ACT_NONE),

        /* Over: what fails from here on fails the workload's new home, not the handover. */
        STAY(TARGET_RUNNING, EVENT_HEARD_COMMIT, ACT_TELL),
        STAY(TARGET_RUNNING, EVENT_HEARD_RELEASED, ACT_NONE),
        STAY(TARGET_RUNNING, EVENT_FAILED, ACT_NONE),
        STAY(TARGET_RUNNING, EVENT_CANCEL, ACT_REFUSE_LATE),
        STAY(TARGET_RUNNING, EVENT_LINK_LOST, ACT_NONE),
        STAY(TARGET_RUNNING, EVENT_ASK, ACT_TELL),
        STAY(TARGET_RUNNING, EVENT_RESTARTED, ACT_TELL),
        STAY(TARGET_RUNNING, EVENT_RESOLVE_HERE, ACT_NONE),

        /* A restore that was under way may still succeed: discard again. */
        ON(TARGET_DISCARDING, EVENT_DISCARD_DONE, TARGET_DISCARDED, "DISCARDED", ACT_TELL),
        STAY(TARGET_DISCARDING, EVENT_HELD, ACT_DISCARD),
        STAY(TARGET_DISCARDING, EVENT_HEARD_COMMIT, ACT_TELL),
        STAY(TARGET_DISCARDING, EVENT_HEARD_ABORTED, ACT_TELL),
        STAY(TARGET_DISCARDING, EVENT_FAILED, ACT_CALL_OPERATOR),
        STAY(TARGET_DISCARDING, EVENT_CANCEL, ACT_NONE),
        STAY(TARGET_DISCARDING, EVENT_LINK_LOST, ACT_NONE),
        STAY(TARGET_DISCARDING, EVENT_ASK, ACT_TELL),
        STAY(TARGET_DISCARDING, EVENT_RESTARTED, ACT_TELL | ACT_DISCARD),
        STAY(TARGET_DISCARDING, EVENT_RESOLVE_THERE, ACT_NONE),

        STAY(TARGET_DISCARDED, EVENT_HEARD_COMMIT, ACT_TELL),
        STAY(TARGET_DISCARDED, EVENT_HEARD_ABORTED, ACT_TELL),
        STAY(TARGET_DISCARDED, EVENT_FAILED, ACT_NONE),
        STAY(TARGET_DISCARDED, EVENT_CANCEL, ACT_NONE),
        STAY(TARGET_DISCARDED, EVENT_LINK_LOST, ACT_NONE),
        STAY(TARGET_DISCARDED, EVENT_ASK, ACT_TELL),
        STAY(TARGET_DISCARDED, EVENT_RESTARTED, ACT_TELL),
        STAY(TARGET_DISCARDED, EVENT_RESOLVE_THERE, ACT_NONE),

        /* Gone, and it may have run for a moment. Only a person, here or on the source, ends it. */
        STAY(TARGET_UNKNOWN, EVENT_HEARD_COMMIT, ACT_TELL),
        DISCARD(TARGET_UNKNOWN, EVENT_HEARD_ABORTED),
        ON(TARGET_UNKNOWN, EVENT_HEARD_RELEASED, TARGET_RUNNING, "RUNNING", ACT_TELL),
        STAY(TARGET_UNKNOWN, EVENT_FAILED, ACT_WAIT),
        STAY(TARGET_UNKNOWN, EVENT_CANCEL, ACT_CALL_OPERATOR),
        STAY(TARGET_UNKNOWN, EVENT_LINK_LOST, ACT_WAIT),
        STAY(TARGET_UNKNOWN, EVENT_ASK, ACT_TELL),
        STAY(TARGET_UNKNOWN, EVENT_RESTARTED, ACT_TELL | ACT_CALL_OPERATOR),
        ON(TARGET_UNKNOWN, EVENT_RESOLVE_HERE, TARGET_RUNNING, "RUNNING", ACT_TELL),
        DISCARD(TARGET_UNKNOWN, EVENT_RESOLVE_THERE),
};

struct state_facts {
        enum side side;
        const char *name;
        const char *record; /* that proves it; NULL when nothing is recorded on entering it */
        const char *owner;
        bool final;
};

static const struct state_facts states[HANDOVER_STATES] = {
        [SOURCE_WORKING] = {SIDE_SOURCE, "working", NULL, "source", false},
        [SOURCE_FROZEN] = {SIDE_SOURCE, "frozen", NULL, "source", false},
        [SOURCE_COMMITTED] = {SIDE_SOURCE, "committed", "COMMIT", "target", false},
        [SOURCE_SERVING] = {SIDE_SOURCE, "serving", "SERVING", "target", false},
        [SOURCE_RELEASED] = {SIDE_SOURCE, "released", "RELEASED", "target", true},
        [SOURCE_ABORTED] = {SIDE_SOURCE, "aborted", "ABORTED", "source", true},
        [SOURCE_UNDECIDED] = {SIDE_SOURCE, "undecided", "UNDECIDED", "unknown", false},
        [TARGET_RECEIVING] = {SIDE_TARGET, "receiving", NULL, "source", false},
        [TARGET_PREPARED] = {SIDE_TARGET, "prepared", "PREPARED", "source", false},
        [TARGET_STARTING] = {SIDE_TARGET, "starting", "STARTING", "target", false},
        [TARGET_RUNNING] = {SIDE_TARGET, "running", "RUNNING", "target", true},
        [TARGET_DISCARDING] = {SIDE_TARGET, "discarding", "DISCARDING", "source", false},
        [TARGET_DISCARDED] = {SIDE_TARGET, "discarded", "DISCARDED", "source", true},
        [TARGET_UNKNOWN] = {SIDE_TARGET, "unknown", "UNKNOWN", "unknown", false},
};

static const char *const events[HANDOVER_EVENTS] = {
        [EVENT_FROZEN] = "frozen",
        [EVENT_HEARD_PREPARED] = "heard-prepared",
        [EVENT_HEARD_FILLING] = "heard-filling",
        [EVENT_HEARD_RUNNING] = "heard-running",
        [EVENT_HEARD_DISCARDED] = "heard-discarded",
        [EVENT_HEARD_LOST] = "heard-lost",
        [EVENT_FAILED] = "failed",
        [EVENT_CANCEL] = "cancel",
        [EVENT_LINK_LOST] = "link-lost",
        [EVENT_ASK] = "ask",
        [EVENT_RESTARTED] = "restarted",
        [EVENT_HELD] = "held",
        [EVENT_HEARD_COMMIT] = "heard-commit",
        [EVENT_ALIVE] = "alive",
        [EVENT_NEVER_RAN] = "never-ran",
        [EVENT_GONE] = "gone",
        [EVENT_HEARD_ABORTED] = "heard-aborted",
        [EVENT_HEARD_RELEASED] = "heard-released",
        [EVENT_DISCARD_DONE] = "discard-done",
        [EVENT_RESOLVE_HERE] = "resolve-here",
        [EVENT_RESOLVE_THERE] = "resolve-there",
};

static bool is_state(enum handover_state state)
{
        return (unsigned)state < HANDOVER_STATES;
}

int handover_step(enum handover_state state, enum handover_event event, struct handover_step *ret)
{
        for (size_t i = 0; i < sizeof(transitions) / sizeof(transitions[0]); i++)
                if (transitions[i].state == state && transitions[i].event == event) {
                        *ret = transitions[i].step;
                        return 0;
                }
        return -EPROTO;
}

enum side handover_side(enum handover_state state)
{
        return is_state(state) ? states[state].side : SIDE_SOURCE;
}

const char *handover_state_name(enum handover_state state)
{
        return is_state(state) ? states[state].name : "?";
}

const char *handover_event_name(enum handover_event event)
{
        return (unsigned)event < HANDOVER_EVENTS ? events[event] : "?";
}

int handover_state_from_name(enum side side, const char *name, enum handover_state *ret)
{
        for (unsigned i = 0; name && i < HANDOVER_STATES; i++)
                if (states[i].side == side && strcmp(states[i].name, name) == 0) {
                        *ret = (enum handover_state)i;
                        return 0;
                }
        return -EINVAL;
}

int handover_state_from_record(enum side side, const char *record, enum handover_state *ret)
{
        if (!record) {
                *ret = side == SIDE_SOURCE ? SOURCE_WORKING : TARGET_RECEIVING;
                return 0;
        }
        for (unsigned i = 0; i < HANDOVER_STATES; i++)
                if (states[i].side == side && states[i].record && strcmp(states[i].record, record) == 0) {
                        *ret = (enum handover_state)i;
                        return 0;
                }
        return -EINVAL;
}

bool handover_is_record(const char *record)
{
        enum handover_state state;

        return record && (handover_state_from_record(SIDE_SOURCE, record, &state) == 0 ||
                          handover_state_from_record(SIDE_TARGET, record, &state) == 0);
}

bool handover_is_final(enum handover_state state)
{
        return is_state(state) && states[state].final;
}

const char *handover_owner(enum handover_state state)
{
        return is_state(state) ? states[state].owner : "unknown";
}
