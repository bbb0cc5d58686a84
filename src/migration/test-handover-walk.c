/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "migration/handover.h"

/*
 * docs/handover.pml once more, but with the real table: two machines, a link that loses connections and messages,
 * sessions that crash and begin again from their record, copies and hosts that die, users that cancel. First every
 * reachable state with a few faults, then long random walks with many. Never two copies run, none is lost but in the
 * ways that are named, no message is ever illegal where it arrives, and once the faults stop all comes to an end.
 */

enum copy { NO_COPY, HELD, ICE, RUNS };

struct one {
        uint8_t state, record; /* record: the state it proves; of its side's first state when there is none */
        uint8_t up, copy;
        uint16_t acts;
        uint8_t seen_cut; /* the connection was lost and this side has not been told */
        uint8_t inbox[2]; /* events to be heard, 0xff for none */
        uint8_t freezing; /* source: frozen, the event is still to come */
};

struct world {
        struct one source, target;
        uint8_t linked;
        uint8_t ran;    /* a task of the target's copy ran */
        uint8_t word;   /* a person decided */
        uint8_t hit;    /* the source's host died with its copy */
        uint8_t named;  /* one of the losses that are allowed */
        uint8_t faults; /* that may still come, cancels of users among them */
        uint8_t quiet;  /* no more of them */
        uint8_t wants;  /* the target's copy needs pages of the source's frozen one (post-copy) */
};
_Static_assert(sizeof(struct one) == 10 && sizeof(struct world) == 28, "a struct world has no padding");

#define NOTHING 0xff
#define MOVES_MAX 64

struct moves {
        struct world to[MOVES_MAX];
        size_t n;
};

static void copy_fails(struct world *w)
{
        w->named |= w->hit;
        w->target.copy = NO_COPY;
        w->wants = 0;
}

static void must(bool condition, const char *what, const struct world *w)
{
        if (!condition)
                fail_msg("%s: source %s (copy %d), target %s (copy %d)", what, handover_state_name(w->source.state),
                         w->source.copy, handover_state_name(w->target.state), w->target.copy);
}

static void feed(struct world *w, struct one *side, enum handover_event event)
{
        struct handover_step step;

        if (handover_step(side->state, event, &step) < 0)
                fail_msg("'%s' came in state '%s'", handover_event_name(event), handover_state_name(side->state));
        if (step.record) {
                enum handover_state proved;
                assert_int_equal(handover_state_from_record(handover_side(side->state), step.record, &proved), 0);
                side->record = (uint8_t)proved;
        }
        side->state = (uint8_t)step.next;
        side->acts |= (uint16_t)(step.acts & ~(unsigned)(ACT_WAIT | ACT_REFUSE_LATE | ACT_CALL_OPERATOR));
        (void)w;
}

/* The message of a state, as the event it is on the other side. */
static uint8_t message_of(enum handover_state state, bool wants)
{
        switch (state) {
        case SOURCE_COMMITTED:
        case SOURCE_SERVING:
        case SOURCE_UNDECIDED: /* they ask */
                return EVENT_HEARD_COMMIT;
        case SOURCE_RELEASED:
                return EVENT_HEARD_RELEASED;
        case SOURCE_ABORTED:
                return EVENT_HEARD_ABORTED;
        case TARGET_PREPARED:
                return EVENT_HEARD_PREPARED;
        case TARGET_RUNNING:
                return wants ? EVENT_HEARD_FILLING : EVENT_HEARD_RUNNING;
        case TARGET_DISCARDING:
        case TARGET_DISCARDED:
                return EVENT_HEARD_DISCARDED;
        case TARGET_UNKNOWN:
                return EVENT_HEARD_LOST;
        default:
                return NOTHING;
        }
}

static void tell(struct world *w, const struct one *from, struct one *to)
{
        uint8_t message = message_of(from->state, w->wants);

        if (!w->linked || message == NOTHING)
                return;
        if (to->inbox[0] == NOTHING)
                to->inbox[0] = message;
        else if (to->inbox[1] == NOTHING)
                to->inbox[1] = message;
}

static uint8_t take(struct one *side)
{
        uint8_t message = side->inbox[0];

        side->inbox[0] = side->inbox[1];
        side->inbox[1] = NOTHING;
        return message;
}

/* Do the first act that is due. */
static void act(struct world *w, struct one *side, struct one *other)
{
        unsigned due = side->acts & (unsigned)-(int)side->acts;

        side->acts &= (uint16_t)~due;
        switch (due) {
        case ACT_TELL:
                tell(w, side, other);
                break;
        case ACT_THAW:
                must(!w->ran || w->word, "thawed although the copy ran there", w);
                if (side->copy == ICE)
                        side->copy = RUNS;
                break;
        case ACT_DESTROY:
                must(!w->wants || other->copy != RUNS || w->named || w->word, "destroyed before the last page", w);
                side->copy = NO_COPY;
                break;
        case ACT_START:
                if (side->copy == HELD) {
                        side->copy = RUNS;
                        w->ran = 1;
                }
                break;
        case ACT_DISCARD:
                must(side->copy != RUNS, "discarded while it ran", w);
                side->copy = NO_COPY;
                w->wants = 0;
                if (side->state == TARGET_DISCARDING)
                        feed(w, side, EVENT_DISCARD_DONE);
                break;
        default: /* ACT_EXAMINE: what is there is looked at anyway */
                break;
        }
}

static void cut(struct world *w)
{
        w->linked = 0;
        w->source.seen_cut = w->target.seen_cut = 1;
}

static void crash(struct world *w, struct one *side)
{
        side->up = 0;
        side->acts = 0;
        side->freezing = 0;
        side->state = side->record;
        cut(w);
}

static void source_host_dies(struct world *w)
{
        w->hit |= w->source.copy != NO_COPY;
        w->named |= w->source.copy != NO_COPY &&
                    (w->wants ||
                     (w->target.copy != RUNS && !(w->source.record == SOURCE_COMMITTED && w->target.copy == HELD)));
        w->source.copy = NO_COPY;
        crash(w, &w->source);
}

static void target_host_dies(struct world *w)
{
        w->named |= w->target.record == TARGET_RUNNING;
        copy_fails(w);
        crash(w, &w->target);
}

static bool is(const struct one *side, enum handover_state state)
{
        return side->state == state;
}

/* Every move adds the world after it; M is the one being made. */
#define MOVE(condition, ...)                                                                                           \
        do {                                                                                                           \
                if (condition) {                                                                                       \
                        assert_true(moves->n < MOVES_MAX);                                                             \
                        struct world *m = &moves->to[moves->n++];                                                      \
                        *m = *w;                                                                                       \
                        __VA_ARGS__;                                                                                   \
                }                                                                                                      \
        } while (0)

static void source_moves(const struct world *w, struct moves *moves)
{
        const struct one *s = &w->source;

        MOVE(!s->up, m->source.up = 1; m->source.seen_cut = 0; feed(m, &m->source, EVENT_RESTARTED));
        if (!s->up)
                return;
        MOVE(s->acts, act(m, &m->source, &m->target));
        MOVE(s->inbox[0] != NOTHING, feed(m, &m->source, take(&m->source)));
        MOVE(s->seen_cut, m->source.seen_cut = 0; feed(m, &m->source, EVENT_LINK_LOST));
        MOVE(is(s, SOURCE_WORKING) && s->copy == RUNS && !s->freezing, m->source.copy = ICE; m->source.freezing = 1);
        MOVE(s->freezing, m->source.freezing = 0; feed(m, &m->source, EVENT_FROZEN));
        MOVE(is(s, SOURCE_FROZEN) && w->linked && w->target.up && is(&w->target, TARGET_RECEIVING) &&
                     w->target.copy == NO_COPY,
             m->target.copy = HELD);
        MOVE(is(s, SOURCE_FROZEN) && w->linked && w->target.up && is(&w->target, TARGET_RECEIVING) &&
                     w->target.copy == NO_COPY,
             m->target.copy = HELD;
             m->wants = 1);
        /* Waiting: a time-out asks, or before COMMIT gives up. */
        MOVE(is(s, SOURCE_FROZEN) && !s->acts, feed(m, &m->source, EVENT_FAILED));
        MOVE((is(s, SOURCE_COMMITTED) || is(s, SOURCE_SERVING) || is(s, SOURCE_UNDECIDED)) && !s->acts && w->linked &&
                     w->target.inbox[0] == NOTHING && s->inbox[0] == NOTHING,
             feed(m, &m->source, EVENT_ASK));
        MOVE(is(s, SOURCE_UNDECIDED), m->word = 1; feed(m, &m->source, EVENT_RESOLVE_HERE));
        if (!w->quiet && w->faults) {
                MOVE(!is(s, SOURCE_RELEASED) && !is(s, SOURCE_ABORTED), m->faults--; feed(m, &m->source, EVENT_FAILED));
                MOVE(true, m->faults--; feed(m, &m->source, EVENT_CANCEL));
        }
}

static void target_moves(const struct world *w, struct moves *moves)
{
        const struct one *t = &w->target;
        const bool look = is(t, TARGET_STARTING) && !(t->acts & ACT_START);

        MOVE(!t->up, m->target.up = 1; m->target.seen_cut = 0; feed(m, &m->target, EVENT_RESTARTED));
        /* CRIU outlived its session and obeys the record. */
        MOVE(t->record == TARGET_STARTING && t->copy == HELD, m->target.copy = RUNS; m->ran = 1);
        if (!t->up)
                return;
        MOVE(t->acts, act(m, &m->target, &m->source));
        MOVE(t->inbox[0] != NOTHING, feed(m, &m->target, take(&m->target)));
        MOVE(t->seen_cut, m->target.seen_cut = 0; feed(m, &m->target, EVENT_LINK_LOST));
        MOVE(is(t, TARGET_RECEIVING) && t->copy == HELD, feed(m, &m->target, EVENT_HELD));
        MOVE(is(t, TARGET_RECEIVING) && !t->acts, feed(m, &m->target, EVENT_FAILED));
        MOVE(is(t, TARGET_PREPARED) && t->copy == NO_COPY, feed(m, &m->target, EVENT_FAILED));
        MOVE(look && t->copy == RUNS, feed(m, &m->target, EVENT_ALIVE));
        MOVE(look && t->copy == HELD, copy_fails(m); feed(m, &m->target, EVENT_NEVER_RAN));
        MOVE(look && t->copy == NO_COPY, feed(m, &m->target, EVENT_GONE));
        MOVE(look && t->copy == NO_COPY && !w->ran, feed(m, &m->target, EVENT_NEVER_RAN));
        MOVE((is(t, TARGET_PREPARED) || is(t, TARGET_UNKNOWN)) && !t->acts && w->linked &&
                     w->source.inbox[0] == NOTHING && t->inbox[0] == NOTHING,
             feed(m, &m->target, EVENT_ASK));
        MOVE(!w->quiet && w->faults, m->faults--; feed(m, &m->target, EVENT_CANCEL));
}

/* The last page comes; or it is found out that the source's host has lost it. */
static void page_moves(const struct world *w, struct moves *moves)
{
        const bool wanted = w->wants && is(&w->target, TARGET_RUNNING) && w->target.up && w->source.up && w->linked;

        MOVE(wanted && w->source.copy == ICE, m->wants = 0; m->target.acts |= ACT_TELL);
        MOVE(wanted && w->source.copy != ICE, must(m->named || m->word, "pages were lost", m); m->wants = 0;
             m->target.acts |= ACT_TELL);
}

static void world_moves(const struct world *w, struct moves *moves)
{
        MOVE(!w->linked && w->source.up && w->target.up, m->linked = 1);
        if (w->quiet || !w->faults)
                return;
        MOVE(w->linked, m->faults--; cut(m));
        MOVE(w->linked, m->faults--; cut(m); (void)take(&m->source); (void)take(&m->target));
        MOVE(w->source.inbox[0] != NOTHING, m->faults--; (void)take(&m->source));
        MOVE(w->target.inbox[0] != NOTHING, m->faults--; (void)take(&m->target));
        MOVE(w->source.up, m->faults--; crash(m, &m->source));
        MOVE(w->target.up, m->faults--; crash(m, &m->target));
        MOVE(true, m->faults--; source_host_dies(m));
        MOVE(true, m->faults--; target_host_dies(m));
        MOVE(w->target.copy == HELD, m->faults--; copy_fails(m));
        MOVE(w->target.copy == RUNS && w->target.record == TARGET_STARTING, m->faults--; copy_fails(m));
        /* CRIU killed in its injection window. */
        MOVE(is(&w->source, SOURCE_WORKING) && w->source.copy == RUNS, m->faults--; m->named = 1;
             m->source.copy = NO_COPY);
}

static void all_moves(const struct world *w, struct moves *moves)
{
        moves->n = 0;
        source_moves(w, moves);
        target_moves(w, moves);
        page_moves(w, moves);
        world_moves(w, moves);
}

static void check(const struct world *w)
{
        must(w->source.copy != RUNS || w->target.copy != RUNS, "two copies run", w);
        must(w->source.copy != NO_COPY || w->target.copy == RUNS || (w->hit && w->target.copy == HELD) || w->named,
             "no copy is left", w);
        must(w->target.copy != RUNS || w->target.record == TARGET_STARTING || w->target.record == TARGET_RUNNING,
             "it runs without a record", w);
        must(w->source.record != SOURCE_UNDECIDED || w->source.copy == ICE || w->named, "undecided, and not held", w);
        must(!w->wants || w->target.copy != RUNS || w->source.copy == ICE || w->named || w->word, "pages are nowhere",
             w);
}

static bool ended(const struct world *w)
{
        return w->source.up && w->target.up && handover_is_final(w->source.state) &&
               handover_is_final(w->target.state) && !w->source.acts && !w->target.acts && !w->wants;
}

static void check_end(const struct world *w)
{
        must(is(&w->source, SOURCE_RELEASED) == is(&w->target, TARGET_RUNNING), "the ends do not fit", w);
        must(w->source.copy != ICE && w->target.copy != HELD, "something is still held at the end", w);
        must((w->source.copy == RUNS) != (w->target.copy == RUNS) || w->named, "not exactly one runs", w);
}

static struct world begin(unsigned faults)
{
        struct world w;

        memset(&w, 0, sizeof(w)); /* compared as bytes */
        w.source.state = w.source.record = SOURCE_WORKING;
        w.target.state = w.target.record = TARGET_RECEIVING;
        w.source.up = w.target.up = w.linked = 1;
        w.source.copy = RUNS;
        memset(w.source.inbox, NOTHING, sizeof(w.source.inbox));
        memset(w.target.inbox, NOTHING, sizeof(w.target.inbox));
        w.faults = (uint8_t)faults;
        return w;
}

/* -- every reachable state --------------------------------------------------------------------------------------- */

#define KNOWN_BITS 22

struct search {
        struct world *worlds;
        size_t n, capacity;
        uint32_t *table; /* index + 1 into worlds */
};

static uint64_t hash_of(const struct world *w)
{
        const uint8_t *bytes = (const uint8_t *)w;
        uint64_t hash = 14695981039346656037u;

        for (size_t i = 0; i < sizeof(*w); i++)
                hash = (hash ^ bytes[i]) * 1099511628211u;
        return hash ^ (hash >> 29);
}

static void add(struct search *s, const struct world *w)
{
        const size_t mask = ((size_t)1 << KNOWN_BITS) - 1;

        for (size_t i = hash_of(w) & mask;; i = (i + 1) & mask) {
                if (s->table[i] && memcmp(&s->worlds[s->table[i] - 1], w, sizeof(*w)) == 0)
                        return;
                if (s->table[i])
                        continue;
                if (s->n == s->capacity) {
                        s->capacity = s->capacity ? s->capacity * 2 : 1024;
                        s->worlds = realloc(s->worlds, s->capacity * sizeof(*s->worlds));
                        assert_non_null(s->worlds);
                }
                assert_true(s->n < mask / 2);
                s->worlds[s->n++] = *w;
                s->table[i] = (uint32_t)s->n;
                return;
        }
}

/* With four faults, whichever and whenever: each reachable state is a good one. */
static void test_every_state(void **unused)
{
        struct search s = {.table = calloc((size_t)1 << KNOWN_BITS, sizeof(uint32_t))};
        struct moves *moves = calloc(1, sizeof(*moves));
        bool seen[HANDOVER_STATES] = {false};
        struct world first = begin(4);

        (void)unused;
        assert_non_null(s.table);
        assert_non_null(moves);
        add(&s, &first);
        for (size_t i = 0; i < s.n; i++) {
                struct world w = s.worlds[i];
                check(&w);
                if (ended(&w) && w.source.inbox[0] == NOTHING && w.target.inbox[0] == NOTHING)
                        check_end(&w);
                seen[w.source.state] = seen[w.target.state] = true;
                all_moves(&w, moves);
                for (size_t j = 0; j < moves->n; j++)
                        add(&s, &moves->to[j]);
        }
        for (unsigned i = 0; i < HANDOVER_STATES; i++)
                if (!seen[i])
                        fail_msg("state '%s' was never reached", handover_state_name(i));
        print_message("%zu states\n", s.n);
        free(moves);
        free(s.worlds);
        free(s.table);
}

/* -- long walks --------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *seed)
{
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        return *seed;
}

/* Faults and giving up are possible in nearly every step; a walk that always took them would never get far. */
static bool is_rare(const struct world *from, const struct world *to)
{
        return to->faults != from->faults || (is(&from->source, SOURCE_FROZEN) && is(&to->source, SOURCE_ABORTED)) ||
               (is(&from->target, TARGET_RECEIVING) && is(&to->target, TARGET_DISCARDING));
}

#define RARE 16
#define WALKS 20000
#define STEPS 300
#define STEPS_TO_THE_END 5000

/* Up to forty faults in one handover, then peace: it always comes to an end, and to a good one. */
static void test_long_walks(void **unused)
{
        struct moves *moves = calloc(1, sizeof(*moves));
        uint64_t seed = 0x5eed0fa11u;
        unsigned moved = 0, stayed = 0, lost = 0;

        (void)unused;
        assert_non_null(moves);
        for (unsigned walk = 0; walk < WALKS; walk++) {
                struct world w = begin((unsigned)(next_random(&seed) % 41));
                unsigned steps = (unsigned)(next_random(&seed) % STEPS);
                for (unsigned i = 0; i < steps + STEPS_TO_THE_END; i++) {
                        w.quiet = i >= steps;
                        check(&w);
                        if (w.quiet && ended(&w))
                                break;
                        all_moves(&w, moves);
                        if (moves->n == 0)
                                break;
                        const struct world *to = &moves->to[next_random(&seed) % moves->n];
                        if (!is_rare(&w, to) || next_random(&seed) % RARE == 0)
                                w = *to;
                }
                must(ended(&w), "it does not end", &w);
                check_end(&w);
                moved += w.target.copy == RUNS;
                stayed += w.source.copy == RUNS;
                lost += w.source.copy != RUNS && w.target.copy != RUNS;
        }
        print_message("%u moved, %u stayed, %u lost with a host\n", moved, stayed, lost);
        assert_true(moved > WALKS / 100 && stayed > WALKS / 100);
        free(moves);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_state),
                cmocka_unit_test(test_long_walks),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
