/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handover of a workload from source to target, as a model for spin. src/migration/handover.c is written after it;
 * tests/model/check-handover checks it.
 *
 * Who is in it
 *      source, target  one session each. A session may crash between any two steps; what it knew is gone, what it
 *                      recorded stays, and its restart begins from the record alone.
 *      world           takes away: messages, connections, sessions, CRIU, hosts (for a while or for ever). How often
 *                      is bounded (LOSSES, ...); when is not.
 *      repair          brings the connection back, always, sooner or later.
 *      operator        decides where nobody else may: in the state of not knowing, and when a host never comes back.
 *      judge           looks when nothing moves any more.
 *
 * One step is "hear, then make the record durable" or one act. To crash between hearing and recording is to crash
 * before hearing with the message lost, so nothing is hidden by making that one step.
 *
 * In restart mode the same is true with other means: ICE is stopped here, with nobody able to start it but the session;
 * HELD is files on the target without a definition; to thaw is to start it again; "hung in the restorer" is a start that
 * never came to the container's init.
 *
 * Post-copy (it happens, or does not, with the images): the target's copy wants pages that are with the source's frozen
 * one (t_wants). While it runs and wants some, it says FILLING in place of RUNNING, and the source keeps its copy in SERVING.
 * Pages come while both sessions live and are linked. A source whose copy died with its host says that it has none.
 *
 * More is allowed here than the real thing does: a message may outlive the connection it was sent on, and the crash
 * of the session it was sent to.
 *
 * Claims
 *      never_two       no moment with tasks running on both sides
 *      never_none      at every moment a copy runs or is held intact, but for the losses named below
 *      record_first    what runs and what is destroyed is always covered by a record
 *      operator_holds  not knowing, the source still holds its copy
 *      last_page       what runs and wants pages of the frozen copy finds it there
 *      ends            every run comes to a legal end
 * and, as assertions, that nothing is thawed on the source once the target's copy ran, but on a person's word, and
 * that whatever does not move any more has come to a legal end.
 *
 * Losses, the only ones:
 *      the host that owned the workload died with it; the source's host died with the frozen copy after COMMIT, and
 *      the target's copy failed as well; the source's host died before the last page (post-copy); CRIU was killed in its
 *      injection window.
 *
 * Variants, by -D
 *      HASTY_OPERATOR          persons on both sides decide at any moment, and contradict each other: they can lose the
 *                              workload, but only the promise that a host is off could make two of it (never_two)
 *      NO_OPERATOR             the person never comes: every run must still end with one copy running or held
 *      TARGET_DECIDES_ALONE    wrong on purpose: a prepared target that loses the link starts by itself
 *      SOURCE_GIVES_UP         wrong on purpose: a committed source that hears nothing thaws
 *      RECORD_AFTER_ACT        wrong on purpose: the target lets the tasks go before STARTING is durable
 *      THAW_ON_UNKNOWN         wrong on purpose: the source takes "gone, nobody knows" for "never ran"
 *      RELEASE_EARLY           wrong on purpose: the source lets go when it hears that the copy runs, wanted or not
 * The wrong ones must be refuted, or the check proves nothing.
 */

#ifndef LOSSES
#define LOSSES 1        /* single messages lost */
#endif
#ifndef CUTS
#define CUTS 1          /* connections lost, beyond those lost with a session or host */
#endif
#ifndef CRASHES
#define CRASHES 2       /* crashes of sessions, together */
#endif
#ifndef REBOOTS
#define REBOOTS 1       /* hosts that crash and come back, together */
#endif
#ifndef DEATHS
#define DEATHS 1        /* hosts that never come back */
#endif

/* CLAIM_ONLY: just the claim asked for, to see that a wrong variant breaks that very one. */
#ifdef CLAIM_ONLY
#define expect(condition) skip
#else
#define expect(condition) assert(condition)
#endif

/* Records, states and messages: the names of handover.h. A message is the state of the one who sends it. */
mtype = { NOTHING, WORKING, FROZEN, COMMIT, SERVING, RELEASED, ABORTED, UNDECIDED,
          FILLING, RECEIVING, PREPARED, STARTING, RUNNING, DISCARDING, DISCARDED, UNKNOWN,
          IMAGES };

/* Copies of the workload: what is really there, whatever anybody knows. */
mtype = { NO_COPY, HELD, ICE, RUNS };

#define DO_TELL 1
#define DO_THAW 2
#define DO_DESTROY 4
#define DO_START 8
#define DO_DISCARD 16
#define DO_EXAMINE 32

/* source: durable; known to the session only; real */
mtype s_record = NOTHING;
mtype s_state = WORKING;
byte s_acts = 0;
bool s_sent = false;
mtype s_copy = RUNS;

/* target: the same */
mtype t_record = NOTHING;
mtype t_state = RECEIVING;
byte t_acts = 0;
mtype t_copy = NO_COPY;

bool s_up = true, t_up = true;          /* the session lives */
bool s_dead = false, t_dead = false;    /* the host will never come back */
bool s_cut = false, t_cut = false;      /* the connection was lost and the session has not seen it yet */
bool linked = true;

chan to_target = [2] of { mtype };
chan to_source = [2] of { mtype };

bool t_wants = false;           /* the target's copy needs pages of the source's; durable as long as that copy is */
bool t_ran = false;             /* a task of the target's copy executed an instruction */
bool word = false;              /* a person decided */
bool s_hit = false;             /* the source's host died with its copy */
bool named_loss = false;

byte losses = 0, cuts = 0, crashes = 0, reboots = 0, deaths = 0;

#define SILENT (linked && empty(to_target) && empty(to_source))

inline send(channel, message)
{
        if
        :: linked && nfull(channel) -> channel!message
        :: !linked || full(channel) -> skip      /* lost; whoever needs an answer asks again */
        fi
}

/* ------------------------------------------------------------------ source */

inline s_abort()
{
        s_record = ABORTED;
        s_state = ABORTED;
        s_acts = DO_TELL | DO_THAW
}

inline s_release()
{
        s_record = RELEASED;
        s_state = RELEASED;
        s_acts = DO_TELL | DO_DESTROY
}

/* What the record alone says. Without COMMIT nothing can have started there: abort, thaw whatever is frozen. */
inline s_restart()
{
        s_up = true;
        s_cut = false;
        s_sent = false;
        if
        :: s_record == NOTHING -> s_abort()
        :: s_record == COMMIT -> s_state = COMMIT; s_acts = DO_TELL
        :: s_record == SERVING -> s_state = SERVING; s_acts = DO_TELL
        :: s_record == RELEASED -> s_state = RELEASED; s_acts = DO_TELL | DO_DESTROY
        :: s_record == ABORTED -> s_state = ABORTED; s_acts = DO_TELL | DO_THAW
        :: s_record == UNDECIDED -> s_state = UNDECIDED; s_acts = DO_TELL
        fi
}

inline s_hear(message)
{
        if
        :: s_state == FROZEN && message == PREPARED ->
                s_record = COMMIT;
                s_state = COMMIT;
                s_acts = DO_TELL
        :: (s_state == WORKING || s_state == FROZEN) && message == DISCARDED -> s_abort()
        :: s_state == COMMIT && message == PREPARED -> s_acts = DO_TELL
        :: (s_state == COMMIT || s_state == UNDECIDED || s_state == SERVING) && message == RUNNING -> s_release()
        :: (s_state == COMMIT || s_state == UNDECIDED) && message == FILLING ->
#ifdef RELEASE_EARLY
                s_release()
#else
                s_record = SERVING;
                s_state = SERVING
#endif
        :: s_state == SERVING && message == FILLING -> skip
        :: (s_state == COMMIT || s_state == UNDECIDED) && message == DISCARDED -> s_abort()
        :: s_state == COMMIT && message == UNKNOWN ->
#ifdef THAW_ON_UNKNOWN
                s_abort()
#else
                s_record = UNDECIDED;
                s_state = UNDECIDED
#endif
        :: s_state == UNDECIDED && (message == UNKNOWN || message == PREPARED) -> skip
        :: s_state == ABORTED && (message == PREPARED || message == UNKNOWN) -> s_acts = DO_TELL
        :: s_state == ABORTED && message == DISCARDED -> skip
        :: s_state == RELEASED && (message == RUNNING || message == FILLING || message == UNKNOWN || message == PREPARED) ->
                s_acts = DO_TELL
        :: else -> expect(false)        /* a message that cannot come */
        fi
}

active proctype source()
{
        mtype message;
end:    do
        :: atomic { !s_dead && !s_up -> s_restart() }

        /* acts: tell first, it only queues */
        :: atomic { s_up && (s_acts & DO_TELL) ->
                s_acts = s_acts & ~DO_TELL;
                if
                :: s_state == UNDECIDED -> send(to_target, COMMIT)     /* asks; UNDECIDED is no news */
                :: else -> send(to_target, s_state)
                fi
        }
        :: atomic { s_up && !(s_acts & DO_TELL) && (s_acts & DO_THAW) ->
                s_acts = s_acts & ~DO_THAW;
                expect(!t_ran || word);
                if
                :: s_copy == ICE -> s_copy = RUNS
                :: else -> skip         /* never frozen, or the host died with it */
                fi
        }
        :: atomic { s_up && !(s_acts & DO_TELL) && (s_acts & DO_DESTROY) ->
                s_acts = s_acts & ~DO_DESTROY;
                s_copy = NO_COPY
        }

        /* towards the point of no return; until there it may always turn back: failure, time-out, cancel, link */
        :: atomic { s_up && s_state == WORKING && !s_acts -> s_state = FROZEN; s_copy = ICE }
        :: atomic { s_up && s_state == FROZEN && !s_acts && !s_sent -> s_sent = true; send(to_target, IMAGES) }
        :: atomic { s_up && (s_state == WORKING || s_state == FROZEN) && !s_acts -> s_abort() }
        :: atomic { s_up && s_cut && !s_acts ->
                s_cut = false;
                if
                :: s_state == WORKING || s_state == FROZEN -> s_abort()
                :: else -> skip
                fi
        }

        :: atomic { s_up && !s_acts && nempty(to_source) -> to_source?message; s_hear(message); message = 0 }

        /* waiting: the time-out asks again, it decides nothing */
        :: atomic { s_up && (s_state == COMMIT || s_state == UNDECIDED || s_state == SERVING) && !s_acts && !s_cut &&
                    !t_dead && SILENT ->
                s_acts = DO_TELL
        }
#ifdef SOURCE_GIVES_UP
        :: atomic { s_up && s_state == COMMIT && !s_acts && !linked -> s_abort() }
#endif
        od
}

/* ------------------------------------------------------------------ target */

/*
 * DISCARDING is durable before anything is removed: from there on nothing can start, so the source may be told at
 * once, and need not stay frozen while files are removed.
 */
inline t_discard()
{
        t_record = DISCARDING;
        t_state = DISCARDING;
        t_acts = DO_TELL | DO_DISCARD
}

inline t_commit()
{
        t_record = STARTING;
        t_state = STARTING;
        t_acts = DO_START
}

inline t_restart()
{
        t_up = true;
        t_cut = false;
        if
        :: t_record == NOTHING -> t_discard()
        :: t_record == PREPARED -> t_state = PREPARED; t_acts = DO_TELL
        :: t_record == STARTING -> t_state = STARTING; t_acts = DO_EXAMINE
        :: t_record == RUNNING -> t_state = RUNNING; t_acts = DO_TELL
        :: t_record == DISCARDING -> t_state = DISCARDING; t_acts = DO_TELL | DO_DISCARD
        :: t_record == DISCARDED -> t_state = DISCARDED; t_acts = DO_TELL
        :: t_record == UNKNOWN -> t_state = UNKNOWN; t_acts = DO_TELL
        fi
}

/* A person says that what became of it is good here. Nothing is started by that. */
inline t_vouched()
{
        t_record = RUNNING;
        t_state = RUNNING;
        t_acts = DO_TELL
}

inline t_hear(message)
{
        if
        :: message == IMAGES ->
                if
                :: t_state == RECEIVING && t_copy == NO_COPY -> t_copy = HELD
                :: t_state == RECEIVING && t_copy == NO_COPY -> t_copy = HELD; t_wants = true
                :: t_state == DISCARDING || t_state == DISCARDED -> skip
                :: else -> expect(false)
                fi
        :: message == COMMIT ->
                if
                :: t_state == PREPARED -> t_commit()
                :: t_state == DISCARDING || t_state == DISCARDED || t_state == RUNNING || t_state == UNKNOWN ->
                        t_acts = DO_TELL
                :: else -> expect(false)        /* committed without PREPARED */
                fi
        :: message == SERVING ->
                if
                :: t_state == RUNNING -> t_acts = DO_TELL
                :: else -> expect(false)        /* it never said that it runs */
                fi
        :: message == ABORTED ->
                if
                :: t_state == RECEIVING || t_state == PREPARED || t_state == UNKNOWN -> t_discard()
                :: t_state == DISCARDING || t_state == DISCARDED -> t_acts = t_acts | DO_TELL
                :: else -> expect(false)        /* aborted, and it started here */
                fi
        :: message == RELEASED ->
                if
                :: t_state == RUNNING -> skip
                :: t_state == PREPARED && word -> t_commit()    /* a person let the source's copy go */
                :: t_state == UNKNOWN && word -> t_vouched()
                :: else -> expect(false)
                fi
        fi
}

/* The target's copy fails; that is a loss only if the source's host had died before. */
inline t_fails()
{
        named_loss = named_loss || s_hit;
        t_copy = NO_COPY;
        t_wants = false
}

/* After STARTING, what is there? The cgroup is frozen before the look: the tasks may be on their way this moment. */
inline t_examine()
{
        if
        :: t_copy == RUNS -> t_record = RUNNING; t_state = RUNNING; t_acts = DO_TELL
        :: t_copy == HELD -> t_fails(); t_discard()      /* hung in the restorer: killed, it never ran */
        :: t_copy == NO_COPY -> t_record = UNKNOWN; t_state = UNKNOWN; t_acts = DO_TELL
        fi
}

active proctype target()
{
        mtype message;
end:    do
        :: atomic { !t_dead && !t_up -> t_restart() }

        :: atomic { t_up && (t_acts & DO_TELL) ->
                t_acts = t_acts & ~DO_TELL;
                if
                :: t_state == DISCARDING -> send(to_source, DISCARDED)
                :: t_state == RUNNING && t_wants -> send(to_source, FILLING)
                :: else -> send(to_source, t_state)
                fi
        }
        :: atomic { t_up && !(t_acts & DO_TELL) && (t_acts & DO_DISCARD) ->
                t_copy = NO_COPY;
                t_wants = false;
                t_record = DISCARDED;
                t_state = DISCARDED;
                t_acts = DO_TELL
        }
        :: atomic { t_up && (t_acts & DO_EXAMINE) -> t_acts = 0; t_examine() }

        /* receiving, restoring (in t_hear), prepared; until there any failure discards */
        :: atomic { t_up && t_state == RECEIVING && !t_acts && t_copy == HELD ->
                t_record = PREPARED;
                t_state = PREPARED;
                t_acts = DO_TELL
        }
        :: atomic { t_up && t_state == RECEIVING && !t_acts -> t_discard() }
        :: atomic { t_up && t_cut && !t_acts && t_state != STARTING ->
                t_cut = false;
                if
                :: t_state == RECEIVING -> t_discard()
                :: else -> skip
                fi
        }
        :: atomic { t_up && t_state == PREPARED && !t_acts && t_copy == NO_COPY -> t_discard() }        /* it died */

        /* let go; CRIU reports success, a failure with proof that nothing ran, or just that it is gone */
        :: atomic { t_up && (t_acts & DO_START) && t_copy == HELD -> t_acts = 0; t_copy = RUNS; t_ran = true }
        :: atomic { t_up && (t_acts & DO_START) && t_copy == NO_COPY -> t_acts = 0 }
        :: atomic { t_up && t_state == STARTING && !t_acts && t_copy == RUNS -> t_examine() }
        :: atomic { t_up && t_state == STARTING && !t_acts && t_copy == NO_COPY ->
                if
                :: !t_ran -> t_discard()                /* CRIU's answer is the proof */
                :: t_examine()                          /* no proof */
                fi
        }

        /* a starting session is busy starting: it listens again afterwards */
        :: atomic { t_up && !t_acts && t_state != STARTING && nempty(to_target) ->
                to_target?message;
                t_hear(message);
                message = 0
        }
        :: atomic { t_up && (t_state == PREPARED || t_state == UNKNOWN) && !t_acts && !t_cut && !s_dead && SILENT ->
                t_acts = DO_TELL
        }
#ifdef TARGET_DECIDES_ALONE
        :: atomic { t_up && t_state == PREPARED && !t_acts && !linked -> t_commit() }
#endif
#ifdef RECORD_AFTER_ACT
        :: atomic { t_up && t_state == PREPARED && !t_acts && t_copy == HELD && to_target?[COMMIT] ->
                t_copy = RUNS;
                t_ran = true
        }
#endif
        od
}

/* ------------------------------------------------------------------ pages */

#define WANTED (t_up && t_state == RUNNING && t_copy == RUNS && t_wants)

active proctype pages()
{
end:    do
        :: atomic { WANTED && linked && s_up && s_copy == ICE && (s_state == COMMIT || s_state == SERVING) ->
                t_wants = false;
                t_acts = t_acts | DO_TELL
        }
        /* They are nowhere any more: the source's host was lost, or a person gave its copy up. */
        :: atomic { WANTED && s_copy != ICE && (s_dead || (linked && s_up)) ->
                expect(s_hit || word);
                named_loss = true;
                t_wants = false;
                t_acts = t_acts | DO_TELL
        }
        od
}

/* ------------------------------------------------------------------ world */

inline cut()
{
        linked = false;
        s_cut = true;
        t_cut = true;
        if      /* what was under way may arrive all the same */
        :: nempty(to_target) -> to_target?_
        :: skip
        fi;
        if
        :: nempty(to_source) -> to_source?_
        :: skip
        fi
}

inline s_stop()
{
        s_up = false;
        s_state = NOTHING;
        s_acts = 0;
        cut()
}

inline t_stop()
{
        t_up = false;
        t_state = NOTHING;
        t_acts = 0;
        cut()
}

/* Until COMMIT the source owns the workload; after it the copy that is held there can still go on. */
inline s_host_lost()
{
        s_hit = s_hit || s_copy != NO_COPY;
        named_loss = named_loss ||
                (s_copy != NO_COPY && (t_wants || (t_copy != RUNS && !(s_record == COMMIT && t_copy == HELD))));
        s_copy = NO_COPY;
        s_stop()
}

/* From RUNNING on the target owns it; before, the source still holds its own. */
inline t_host_lost()
{
        named_loss = named_loss || t_record == RUNNING;
        t_fails();
        t_stop()
}

active proctype world()
{
        do
        :: atomic { losses < LOSSES && nempty(to_target) -> losses++; to_target?_ }
        :: atomic { losses < LOSSES && nempty(to_source) -> losses++; to_source?_ }
        :: atomic { cuts < CUTS && linked -> cuts++; cut() }
        :: atomic { crashes < CRASHES && s_up -> crashes++; s_stop() }
        :: atomic { crashes < CRASHES && t_up -> crashes++; t_stop() }
        :: atomic { reboots < REBOOTS && !s_dead -> reboots++; s_host_lost() }
        :: atomic { reboots < REBOOTS && !t_dead -> reboots++; t_host_lost() }
        :: atomic { deaths < DEATHS && !s_dead -> deaths++; s_dead = true; s_host_lost() }
        :: atomic { deaths < DEATHS && !t_dead -> deaths++; t_dead = true; t_host_lost() }

        /* CRIU killed while its parasite is half injected: it took the workload with it */
        :: atomic { s_up && s_state == WORKING && s_copy == RUNS && !named_loss ->
                named_loss = true;
                s_copy = NO_COPY;
                s_abort()
        }
        /* the held copy dies: CRIU or LXC's monitor killed. STARTING: the session sees it or finds it */
        :: atomic { t_copy == HELD -> t_fails() }
        /* let go and dead before it was seen alive */
        :: atomic { t_copy == RUNS && t_record == STARTING -> t_fails() }
        /* the session crashed with STARTING durable: CRIU's script obeys the record and lets go without it */
        :: atomic { t_record == STARTING && !t_up && !t_dead && t_copy == HELD -> t_copy = RUNS; t_ran = true }

        :: break        /* nothing must go wrong */
        od
}

active proctype repair()
{
end:    do
        :: atomic { !linked && s_up && t_up -> linked = true }
        od
}

#ifndef NO_OPERATOR
/*
 * The person knows what no session can: that a host is off for good ("fenced"), and decides only once all it ever sent
 * has been heard. Where the target says "gone, nobody knows", the source's copy is the only one: back to the source.
 */
active proctype operator()
{
end:    do
        :: atomic { s_up && s_state == UNDECIDED -> word = true; s_abort() }
        :: atomic { s_up && (s_state == COMMIT || s_state == SERVING) && t_dead && empty(to_source) ->
                word = true;
                s_abort()
        }
        :: atomic { t_up && t_state == UNKNOWN && s_dead && empty(to_target) -> word = true; t_discard() }
        :: atomic { t_up && t_state == PREPARED && s_dead && empty(to_target) -> word = true; t_commit() }
#ifdef HASTY_OPERATOR
        :: atomic { s_up && (s_state == COMMIT || s_state == UNDECIDED) -> word = true; s_release() }
        :: atomic { t_up && (t_state == PREPARED || t_state == UNKNOWN) -> word = true; t_discard() }
        :: atomic { t_up && t_state == UNKNOWN -> word = true; t_vouched() }
#endif
        od
}
#endif

/* ------------------------------------------------------------------ claims */

#define ONE ((s_copy == RUNS) != (t_copy == RUNS) || named_loss)
#define OVER_THERE (s_record == RELEASED && s_copy == NO_COPY && (t_record == RUNNING || t_dead) && !t_wants)
#define BACK_HERE (s_record == ABORTED && s_copy != ICE && ((t_record == DISCARDED && t_copy == NO_COPY) || t_dead))
#define SOURCE_DEAD (s_dead && ((t_record == RUNNING && !t_wants) || (t_record == DISCARDED && t_copy == NO_COPY)))

#ifdef NO_OPERATOR
/* Nobody decides: what is held stays held, and both sides say so. */
#define ASKING ((s_record == UNDECIDED || (t_dead && (s_record == COMMIT || s_record == SERVING))) && (s_copy == ICE || named_loss) ||  \
                (s_dead && (t_record == PREPARED || t_record == UNKNOWN)))
#else
#define ASKING false
#endif

#define LEGAL_END ((ONE && (OVER_THERE || BACK_HERE || SOURCE_DEAD)) || ASKING)

active proctype judge()
{
end:    do
        :: timeout -> expect(LEGAL_END); break
        od
}

ltl never_two { [] !(s_copy == RUNS && t_copy == RUNS) }
ltl never_none { [] (s_copy != NO_COPY || t_copy == RUNS || (s_hit && t_copy == HELD) || named_loss) }
ltl record_first { [] ((t_copy != RUNS || t_record == STARTING || t_record == RUNNING) &&
                       (s_copy != ICE || s_record != RELEASED || t_ran)) }
ltl operator_holds { [] (s_record != UNDECIDED || s_copy == ICE || named_loss) }
ltl last_page { [] (t_copy != RUNS || !t_wants || s_copy == ICE || named_loss || word) }
ltl ends { <> [] LEGAL_END }
