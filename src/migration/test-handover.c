/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "migration/handover.h"

/*
 * The table of the handover, drawn once more by hand, the other way round: a row for each event, a column for each
 * state. Every pair is here; the code has to agree with all of them.
 *
 *      -       not legal
 *      A R C V U abort, release, commit, serving, undecided: to that state, with its record and its acts
 *      D S P N G  discard, start, prepared, running (N), unknown (G, for gone)
 *      F X     to frozen without a record; to discarded
 *      =...    stays, with these acts: t tell, h thaw, y destroy, d discard, w wait, l late, o operator, e examine
 */
/* clang-format off */
struct row {
        enum handover_event event;
        const char *cells[8];
};

static const enum handover_state source_columns[] = {SOURCE_WORKING, SOURCE_FROZEN,  SOURCE_COMMITTED, SOURCE_SERVING,
                                                     SOURCE_RELEASED, SOURCE_ABORTED, SOURCE_UNDECIDED};
static const struct row source_rows[] = {
        /*                        working frozen committed serving released aborted undecided */
        {EVENT_FROZEN,          {"F",  "-",  "-",  "-",  "-",  "=h",  "-"}},
        {EVENT_HEARD_PREPARED,  {"-",  "C",  "=t",  "-",  "=t",  "=t",  "="}},
        {EVENT_HEARD_FILLING,   {"-",  "-",  "V",  "=",  "=t",  "-",  "V"}},
        {EVENT_HEARD_RUNNING,   {"-",  "-",  "R",  "R",  "=t",  "-",  "R"}},
        {EVENT_HEARD_DISCARDED, {"A",  "A",  "A",  "-",  "-",  "=",  "A"}},
        {EVENT_HEARD_LOST,      {"-",  "-",  "U",  "-",  "=t",  "=t",  "="}},
        {EVENT_FAILED,          {"A",  "A",  "=w",  "=w",  "=o",  "=o",  "=w"}},
        {EVENT_CANCEL,          {"A",  "A",  "=l",  "=l",  "=l",  "=",  "=o"}},
        {EVENT_LINK_LOST,       {"A",  "A",  "=w",  "=w",  "=",  "=",  "=w"}},
        {EVENT_ASK,             {"-",  "-",  "=t",  "=t",  "=t",  "=t",  "=t"}},
        {EVENT_RESTARTED,       {"A",  "A",  "=tw",  "=tw",  "=ty",  "=th",  "=to"}},
        {EVENT_HELD,            {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_HEARD_COMMIT,    {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_ALIVE,           {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_NEVER_RAN,       {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_GONE,            {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_HEARD_ABORTED,   {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_HEARD_RELEASED,  {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_DISCARD_DONE,    {"-",  "-",  "-",  "-",  "-",  "-",  "-"}},
        {EVENT_RESOLVE_HERE,    {"A",  "A",  "A",  "A",  "-",  "=",  "A"}},
        {EVENT_RESOLVE_THERE,   {"-",  "-",  "R",  "=",  "=",  "-",  "R"}},
};

static const enum handover_state target_columns[] = {TARGET_RECEIVING,  TARGET_PREPARED,  TARGET_STARTING, TARGET_RUNNING,
                                                     TARGET_DISCARDING, TARGET_DISCARDED, TARGET_UNKNOWN};
static const struct row target_rows[] = {
        /*                        receiving prepared starting running discarding discarded unknown */
        {EVENT_FROZEN,          {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_PREPARED,  {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_FILLING,   {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_RUNNING,   {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_DISCARDED, {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_LOST,      {"-",      "-",     "-",     "-",    "-",       "-",      "-"}},
        {EVENT_FAILED,          {"D",      "D",     "=e",    "=",    "=o",      "=",      "=w"}},
        {EVENT_CANCEL,          {"D",      "=l",    "=l",    "=l",   "=",       "=",      "=o"}},
        {EVENT_LINK_LOST,       {"D",      "=w",    "=",     "=",    "=",       "=",      "=w"}},
        {EVENT_ASK,             {"-",      "=t",    "=",     "=t",   "=t",      "=t",     "=t"}},
        {EVENT_RESTARTED,       {"D",      "=tw",   "=e",    "=t",   "=td",     "=t",     "=to"}},
        {EVENT_HELD,            {"P",      "-",     "-",     "-",    "=d",      "-",      "-"}},
        {EVENT_HEARD_COMMIT,    {"-",      "S",     "=",     "=t",   "=t",      "=t",     "=t"}},
        {EVENT_ALIVE,           {"-",      "-",     "N",     "-",    "-",       "-",      "-"}},
        {EVENT_NEVER_RAN,       {"-",      "-",     "D",     "-",    "-",       "-",      "-"}},
        {EVENT_GONE,            {"-",      "-",     "G",     "-",    "-",       "-",      "-"}},
        {EVENT_HEARD_ABORTED,   {"D",      "D",     "-",     "-",    "=t",      "=t",     "D"}},
        {EVENT_HEARD_RELEASED,  {"-",      "S",     "=",     "=",    "-",       "-",      "N"}},
        {EVENT_DISCARD_DONE,    {"-",      "-",     "-",     "-",    "X",       "-",      "-"}},
        {EVENT_RESOLVE_HERE,    {"-",      "S",     "=",     "=",    "-",       "-",      "N"}},
        {EVENT_RESOLVE_THERE,   {"D",      "D",     "-",     "-",    "=",       "=",      "D"}},
};

/* clang-format on */

static const struct {
        char code;
        struct handover_step step;
} moves_to[] = {
        {'A', {SOURCE_ABORTED, "ABORTED", ACT_TELL | ACT_THAW}},
        {'R', {SOURCE_RELEASED, "RELEASED", ACT_TELL | ACT_DESTROY}},
        {'C', {SOURCE_COMMITTED, "COMMIT", ACT_TELL}},
        {'V', {SOURCE_SERVING, "SERVING", ACT_NONE}},
        {'U', {SOURCE_UNDECIDED, "UNDECIDED", ACT_CALL_OPERATOR}},
        {'F', {SOURCE_FROZEN, NULL, ACT_NONE}},
        {'D', {TARGET_DISCARDING, "DISCARDING", ACT_TELL | ACT_DISCARD}},
        {'S', {TARGET_STARTING, "STARTING", ACT_START}},
        {'P', {TARGET_PREPARED, "PREPARED", ACT_TELL}},
        {'N', {TARGET_RUNNING, "RUNNING", ACT_TELL}},
        {'G', {TARGET_UNKNOWN, "UNKNOWN", ACT_TELL | ACT_CALL_OPERATOR}},
        {'X', {TARGET_DISCARDED, "DISCARDED", ACT_TELL}},
};

static const struct {
        char code;
        unsigned act;
} acts_of[] = {{'t', ACT_TELL}, {'h', ACT_THAW},        {'y', ACT_DESTROY},       {'d', ACT_DISCARD},
               {'w', ACT_WAIT}, {'l', ACT_REFUSE_LATE}, {'o', ACT_CALL_OPERATOR}, {'e', ACT_EXAMINE}};

static struct handover_step decode(enum handover_state state, const char *cell)
{
        struct handover_step step = {.next = state};

        for (size_t i = 0; i < sizeof(moves_to) / sizeof(moves_to[0]); i++)
                if (moves_to[i].code == cell[0])
                        return moves_to[i].step;
        assert_int_equal(cell[0], '=');
        for (const char *c = cell + 1; *c; c++)
                for (size_t i = 0; i < sizeof(acts_of) / sizeof(acts_of[0]); i++)
                        if (acts_of[i].code == *c)
                                step.acts |= acts_of[i].act;
        return step;
}

static void compare(enum handover_state state, enum handover_event event, const char *cell)
{
        const struct handover_step untouched = {HANDOVER_STATES, "untouched", 12345};
        struct handover_step got = untouched;

        int r = handover_step(state, event, &got);
        if (cell[0] == '-') {
                if (r != -EPROTO)
                        fail_msg("%s in %s should not be legal", handover_event_name(event),
                                 handover_state_name(state));
                assert_memory_equal(&got, &untouched, sizeof(got));
                return;
        }
        struct handover_step want = decode(state, cell);
        if (r != 0 || got.next != want.next || got.acts != want.acts || !got.record != !want.record ||
            (got.record && strcmp(got.record, want.record) != 0))
                fail_msg("%s in %s: %d, to %s, record %s, acts 0x%x; expected to %s, record %s, acts 0x%x",
                         handover_event_name(event), handover_state_name(state), r, handover_state_name(got.next),
                         got.record ? got.record : "none", got.acts, handover_state_name(want.next),
                         want.record ? want.record : "none", want.acts);
}

/* Every state with every event does what the drawing says, and what is not drawn is refused and changes nothing. */
static void test_every_pair(void **unused)
{
        unsigned pairs = 0;

        (void)unused;
        assert_int_equal(sizeof(source_rows) / sizeof(source_rows[0]), HANDOVER_EVENTS);
        assert_int_equal(sizeof(target_rows) / sizeof(target_rows[0]), HANDOVER_EVENTS);
        for (size_t i = 0; i < HANDOVER_EVENTS; i++) {
                for (size_t j = 0; j < sizeof(source_columns) / sizeof(source_columns[0]); j++, pairs++)
                        compare(source_columns[j], source_rows[i].event, source_rows[i].cells[j]);
                for (size_t j = 0; j < sizeof(target_columns) / sizeof(target_columns[0]); j++, pairs++)
                        compare(target_columns[j], target_rows[i].event, target_rows[i].cells[j]);
        }
        assert_int_equal(pairs, HANDOVER_STATES * HANDOVER_EVENTS);
}

/* Numbers that are no state and no event are refused like anything illegal. */
static void test_no_such_thing(void **unused)
{
        struct handover_step step;

        (void)unused;
        assert_int_equal(handover_step(HANDOVER_STATES, EVENT_FAILED, &step), -EPROTO);
        assert_int_equal(handover_step(SOURCE_WORKING, HANDOVER_EVENTS, &step), -EPROTO);
        assert_string_equal(handover_state_name(HANDOVER_STATES), "?");
        assert_string_equal(handover_event_name(HANDOVER_EVENTS), "?");
        assert_string_equal(handover_owner(HANDOVER_STATES), "unknown");
        assert_false(handover_is_final(HANDOVER_STATES));
}

/* Names and records find their way back to the state, on their own side only. */
static void test_names_and_records(void **unused)
{
        enum handover_state state;

        (void)unused;
        for (unsigned i = 0; i < HANDOVER_STATES; i++) {
                enum side side = handover_side(i), other = side == SIDE_SOURCE ? SIDE_TARGET : SIDE_SOURCE;
                assert_int_equal(handover_state_from_name(side, handover_state_name(i), &state), 0);
                assert_int_equal(state, i);
                assert_int_equal(handover_state_from_name(other, handover_state_name(i), &state), -EINVAL);
        }
        for (unsigned i = 0; i < HANDOVER_STATES; i++)
                for (unsigned j = 0; j < HANDOVER_EVENTS; j++) {
                        struct handover_step step;
                        if (handover_step(i, j, &step) < 0 || !step.record)
                                continue;
                        /* Replaying the record gives the very state that wrote it. */
                        assert_int_equal(handover_state_from_record(handover_side(i), step.record, &state), 0);
                        assert_int_equal(state, step.next);
                        assert_true(handover_is_record(step.record));
                }
        assert_int_equal(handover_state_from_record(SIDE_SOURCE, NULL, &state), 0);
        assert_int_equal(state, SOURCE_WORKING);
        assert_int_equal(handover_state_from_record(SIDE_TARGET, NULL, &state), 0);
        assert_int_equal(state, TARGET_RECEIVING);
        assert_int_equal(handover_state_from_record(SIDE_SOURCE, "PREPARED", &state), -EINVAL);
        assert_int_equal(handover_state_from_record(SIDE_TARGET, "COMMIT", &state), -EINVAL);
        assert_int_equal(handover_state_from_record(SIDE_SOURCE, "", &state), -EINVAL);
        assert_int_equal(handover_state_from_name(SIDE_SOURCE, NULL, &state), -EINVAL);
        assert_false(handover_is_record("LEFTOVER"));
        assert_false(handover_is_record(NULL));
}

/* A state changes only together with its record, but for the freeze, which a crash simply forgets. */
static void test_no_change_without_record(void **unused)
{
        (void)unused;
        for (unsigned i = 0; i < HANDOVER_STATES; i++)
                for (unsigned j = 0; j < HANDOVER_EVENTS; j++) {
                        struct handover_step step;
                        if (handover_step(i, j, &step) < 0 || step.next == i || step.next == SOURCE_FROZEN)
                                continue;
                        assert_non_null(step.record);
                        assert_int_equal(handover_side(step.next), handover_side(i));
                }
}

/* What may come at any time is legal at any time; an end is left by nothing, and nothing that ended moves again. */
static void test_ends(void **unused)
{
        static const enum handover_event any_time[] = {EVENT_FAILED, EVENT_CANCEL, EVENT_LINK_LOST, EVENT_RESTARTED};

        (void)unused;
        for (unsigned i = 0; i < HANDOVER_STATES; i++) {
                struct handover_step step;
                for (size_t j = 0; j < sizeof(any_time) / sizeof(any_time[0]); j++)
                        assert_int_equal(handover_step(i, any_time[j], &step), 0);
                for (unsigned j = 0; handover_is_final(i) && j < HANDOVER_EVENTS; j++)
                        if (handover_step(i, j, &step) == 0)
                                assert_int_equal(step.next, i);
        }
        assert_true(handover_is_final(SOURCE_RELEASED));
        assert_true(handover_is_final(SOURCE_ABORTED));
        assert_true(handover_is_final(TARGET_RUNNING));
        assert_true(handover_is_final(TARGET_DISCARDED));
        assert_false(handover_is_final(SOURCE_UNDECIDED));
        assert_false(handover_is_final(TARGET_DISCARDING));
        assert_string_equal(handover_owner(SOURCE_FROZEN), "source");
        assert_string_equal(handover_owner(SOURCE_COMMITTED), "target");
        assert_false(handover_is_final(SOURCE_SERVING));
        assert_string_equal(handover_owner(SOURCE_SERVING), "target");
        assert_string_equal(handover_owner(SOURCE_UNDECIDED), "unknown");
        assert_string_equal(handover_owner(TARGET_UNKNOWN), "unknown");
        assert_string_equal(handover_owner(TARGET_PREPARED), "source");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_pair),
                cmocka_unit_test(test_no_such_thing),
                cmocka_unit_test(test_names_and_records),
                cmocka_unit_test(test_no_change_without_record),
                cmocka_unit_test(test_ends),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
