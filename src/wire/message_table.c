/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/message_table.h"

/*
 * The whole grammar of control messages. PROTOCOL.md has the same in prose; a field or message that is not here does
 * not exist for either end. Within one version of the wire, messages may gain optional fields only together with a new
 * version, because the other end refuses what it does not know.
 */

#define U32 VALUE_U32, 4, 4
#define U64 VALUE_U64, 8, 8
#define TEXT(max) VALUE_TEXT, 0, max
#define NAME_TEXT(max) VALUE_TEXT, 1, max
#define BYTES(n) VALUE_BYTES, n, n

static const struct field_rule fields[] = {
        [FIELD_VERSION_MIN] = {"version_min", U32},
        [FIELD_VERSION_MAX] = {"version_max", U32},
        [FIELD_VERSION] = {"version", U32},
        [FIELD_SOFTWARE] = {"software", TEXT(128)},
        [FIELD_PURPOSE] = {"purpose", U32},
        [FIELD_MIGRATION] = {"migration", NAME_TEXT(64)},
        [FIELD_TOKEN] = {"token", BYTES(16)},
        [FIELD_KIND] = {"kind", NAME_TEXT(32)},
        [FIELD_TEXT] = {"text", TEXT(4096)},
        [FIELD_WORKLOAD_KIND] = {"workload_kind", NAME_TEXT(16)},
        [FIELD_WORKLOAD_ID] = {"workload_id", NAME_TEXT(128)},
        [FIELD_TARGET_ID] = {"target_id", NAME_TEXT(128)},
        [FIELD_DESCRIPTION] = {"description", TEXT(96 * 1024)},
        [FIELD_MEMORY_BYTES] = {"memory_bytes", U64},
        [FIELD_FILE_BYTES] = {"file_bytes", U64},
        [FIELD_FILE_COUNT] = {"file_count", U64},
        [FIELD_ITEM] = {"item", TEXT(8 * 1024)},
        [FIELD_GRADE] = {"grade", NAME_TEXT(16)},
        [FIELD_ROUND] = {"round", U32},
        [FIELD_TREE] = {"tree", U32},
        [FIELD_STREAM] = {"stream", U32},
        [FIELD_LAST] = {"last", U32},
        [FIELD_STATUS] = {"status", U32},
        [FIELD_STATE] = {"state", NAME_TEXT(32)},
        [FIELD_WHAT] = {"what", NAME_TEXT(64)},
        [FIELD_ARGUMENT] = {"argument", TEXT(4096)},
        [FIELD_BODY] = {"body", TEXT(96 * 1024)},
        [FIELD_CERTIFICATE] = {"certificate", NAME_TEXT(16 * 1024)},
        [FIELD_NONCE] = {"nonce", BYTES(32)},
        [FIELD_PROOF] = {"proof", BYTES(32)},
        [FIELD_NAME] = {"name", NAME_TEXT(64)},
        [FIELD_PORT] = {"port", U32},
        [FIELD_OPTIONS] = {"options", TEXT(32 * 1024)},
        [FIELD_ROUND_KIND] = {"round_kind", U32},
        [FIELD_HOST] = {"host", TEXT(16 * 1024)},
        [FIELD_STREAMS] = {"streams", U32},
};

_Static_assert(sizeof(fields) / sizeof(fields[0]) <= 64, "message.c keeps the set of seen tags in one word");

#define ON(purpose) (1 << (purpose))
#define ON_ALL (ON(PURPOSE_CONTROL) | ON(PURPOSE_STREAM) | ON(PURPOSE_BULK) | ON(PURPOSE_QUERY) | ON(PURPOSE_PAIR))

static const struct message_rule messages[] = {
        [MSG_HELLO] = {"HELLO",
                       FROM_CONNECTOR,
                       ON_ALL,
                       {{FIELD_VERSION_MIN, REQUIRED},
                        {FIELD_VERSION_MAX, REQUIRED},
                        {FIELD_PURPOSE, REQUIRED},
                        {FIELD_SOFTWARE, OPTIONAL},
                        {FIELD_MIGRATION, OPTIONAL},
                        {FIELD_TOKEN, OPTIONAL},
                        {FIELD_STREAM, OPTIONAL}}},
        [MSG_WELCOME] = {"WELCOME", FROM_ACCEPTOR, ON_ALL, {{FIELD_VERSION, REQUIRED}, {FIELD_SOFTWARE, OPTIONAL}}},
        [MSG_REFUSE] = {"REFUSE", FROM_ACCEPTOR, ON_ALL, {{FIELD_KIND, REQUIRED}, {FIELD_TEXT, REQUIRED}}},
        [MSG_PING] = {"PING", FROM_BOTH, ON_ALL, {{0, PRESENCE_END}}},
        [MSG_PONG] = {"PONG", FROM_BOTH, ON_ALL, {{0, PRESENCE_END}}},

        [MSG_OFFER] = {"OFFER",
                       FROM_CONNECTOR,
                       ON(PURPOSE_CONTROL),
                       {{FIELD_MIGRATION, REQUIRED},
                        {FIELD_WORKLOAD_KIND, REQUIRED},
                        {FIELD_WORKLOAD_ID, REQUIRED},
                        {FIELD_TARGET_ID, REQUIRED},
                        {FIELD_DESCRIPTION, REQUIRED},
                        {FIELD_OPTIONS, OPTIONAL},
                        {FIELD_HOST, OPTIONAL},
                        {FIELD_MEMORY_BYTES, OPTIONAL},
                        {FIELD_FILE_BYTES, OPTIONAL},
                        {FIELD_FILE_COUNT, OPTIONAL}}},
        [MSG_VERDICT] = {"VERDICT",
                         FROM_ACCEPTOR,
                         ON(PURPOSE_CONTROL),
                         {{FIELD_GRADE, REQUIRED}, {FIELD_ITEM, REPEATED}}},
        [MSG_PROBE] = {"PROBE", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{FIELD_LAST, OPTIONAL}, {FIELD_BODY, OPTIONAL}}},
        [MSG_PROBED] = {"PROBED", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_PREPARE] = {"PREPARE", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_READY] = {"READY", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{FIELD_TOKEN, REQUIRED}}},
        [MSG_FILES_ROUND] = {"FILES_ROUND",
                             FROM_CONNECTOR,
                             ON(PURPOSE_CONTROL),
                             {{FIELD_ROUND, REQUIRED},
                              {FIELD_TREE, REQUIRED},
                              {FIELD_STREAM, REQUIRED},
                              {FIELD_ROUND_KIND, REQUIRED}}},
        [MSG_FILES_DONE] = {"FILES_DONE",
                            FROM_ACCEPTOR,
                            ON(PURPOSE_CONTROL),
                            {{FIELD_ROUND, REQUIRED},
                             {FIELD_TREE, REQUIRED},
                             {FIELD_STREAM, REQUIRED},
                             {FIELD_STATUS, REQUIRED},
                             {FIELD_TEXT, OPTIONAL}}},
        [MSG_STATE_OPEN] = {"STATE_OPEN",
                            FROM_CONNECTOR,
                            ON(PURPOSE_CONTROL),
                            {{FIELD_STREAM, REQUIRED}, {FIELD_MEMORY_BYTES, OPTIONAL}, {FIELD_STREAMS, OPTIONAL}}},
        [MSG_STATE_END] = {"STATE_END", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_PREPARED] = {"PREPARED", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_COMMIT] = {"COMMIT", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_RUNNING] = {"RUNNING", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_ABORTED] = {"ABORTED", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_DISCARDED] = {"DISCARDED",
                           FROM_ACCEPTOR,
                           ON(PURPOSE_CONTROL),
                           {{FIELD_KIND, OPTIONAL}, {FIELD_TEXT, OPTIONAL}}},
        [MSG_RESUME] = {"RESUME",
                        FROM_CONNECTOR,
                        ON(PURPOSE_CONTROL),
                        {{FIELD_MIGRATION, REQUIRED}, {FIELD_STATE, REQUIRED}}},
        [MSG_LOST] = {"LOST", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{FIELD_KIND, OPTIONAL}, {FIELD_TEXT, OPTIONAL}}},
        [MSG_RELEASED] = {"RELEASED", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{0, PRESENCE_END}}},
        [MSG_FILLING] = {"FILLING", FROM_ACCEPTOR, ON(PURPOSE_CONTROL), {{FIELD_TOKEN, REQUIRED}}},
        [MSG_PAGES_OPEN] = {"PAGES_OPEN", FROM_CONNECTOR, ON(PURPOSE_CONTROL), {{FIELD_STREAM, REQUIRED}}},

        [MSG_QUERY] = {"QUERY",
                       FROM_CONNECTOR,
                       ON(PURPOSE_QUERY),
                       {{FIELD_WHAT, REQUIRED}, {FIELD_ARGUMENT, REPEATED}, {FIELD_MIGRATION, OPTIONAL}}},
        [MSG_ANSWER] =
                {"ANSWER",
                 FROM_ACCEPTOR,
                 ON(PURPOSE_QUERY),
                 {{FIELD_BODY, OPTIONAL}, {FIELD_LAST, OPTIONAL}, {FIELD_KIND, OPTIONAL}, {FIELD_TEXT, OPTIONAL}}},

        [MSG_PAIR_OPEN] = {"PAIR_OPEN",
                           FROM_CONNECTOR,
                           ON(PURPOSE_PAIR),
                           {{FIELD_CERTIFICATE, REQUIRED},
                            {FIELD_NONCE, REQUIRED},
                            {FIELD_NAME, REQUIRED},
                            {FIELD_PORT, REQUIRED}}},
        [MSG_PAIR_OFFER] = {"PAIR_OFFER",
                            FROM_ACCEPTOR,
                            ON(PURPOSE_PAIR),
                            {{FIELD_CERTIFICATE, REQUIRED},
                             {FIELD_NONCE, REQUIRED},
                             {FIELD_NAME, REQUIRED},
                             {FIELD_PROOF, REQUIRED}}},
        [MSG_PAIR_PROOF] = {"PAIR_PROOF", FROM_CONNECTOR, ON(PURPOSE_PAIR), {{FIELD_PROOF, REQUIRED}}},
        [MSG_PAIR_DONE] = {"PAIR_DONE", FROM_ACCEPTOR, ON(PURPOSE_PAIR), {{0, PRESENCE_END}}},

        /* On no connection: the first frame of either side of a tunnel. */
        [MSG_TUNNEL] = {"TUNNEL",
                        FROM_BOTH,
                        0,
                        {{FIELD_VERSION_MIN, REQUIRED},
                         {FIELD_VERSION_MAX, REQUIRED},
                         {FIELD_CERTIFICATE, REQUIRED},
                         {FIELD_NAME, REQUIRED},
                         {FIELD_SOFTWARE, OPTIONAL}}},
};

const struct field_rule *field_rule(uint16_t tag)
{
        return tag < sizeof(fields) / sizeof(fields[0]) && fields[tag].name ? &fields[tag] : NULL;
}

const struct message_rule *message_rule(uint16_t type)
{
        return type < sizeof(messages) / sizeof(messages[0]) && messages[type].name ? &messages[type] : NULL;
}
