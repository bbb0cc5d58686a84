/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

/* What may stand in a message, who may send it and on which connections. Used by message.c only. */

enum value { VALUE_U32, VALUE_U64, VALUE_TEXT, VALUE_BYTES };

struct field_rule {
        const char *name; /* NULL: there is no such field */
        enum value value;
        uint32_t min, max; /* size in bytes */
};

#define MESSAGE_FIELDS_MAX 12

enum presence { PRESENCE_END, OPTIONAL, REQUIRED, REPEATED };

#define FROM_CONNECTOR 1
#define FROM_ACCEPTOR 2
#define FROM_BOTH 3

struct message_rule {
        const char *name; /* NULL: there is no such type */
        uint8_t from;     /* FROM_* */
        uint8_t purposes; /* bit mask, 1 << enum purpose */
        struct {
                enum field tag;
                enum presence presence;
        } fields[MESSAGE_FIELDS_MAX + 1];
};

/* NULL when unknown. */
const struct field_rule *field_rule(uint16_t tag);
const struct message_rule *message_rule(uint16_t type);
