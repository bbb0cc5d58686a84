/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "wire/bytes.h"
#include "wire/message_table.h"

#define MESSAGE_HEADER 4
#define FIELD_HEADER 6
#define ROOM_MAX (MESSAGE_MAX - MESSAGE_HEADER)

struct message *message_new(uint16_t type)
{
        struct message *m = calloc(1, sizeof(*m));

        if (!m)
                return NULL;
        m->type = type;
        if (!message_rule(type))
                m->failed = -EINVAL;
        return m;
}

void message_free(struct message *m)
{
        if (!m)
                return;
        free(m->data);
        free(m);
}

static enum presence presence_of(const struct message_rule *rule, uint16_t tag)
{
        for (size_t i = 0; i < MESSAGE_FIELDS_MAX && rule->fields[i].presence != PRESENCE_END; i++)
                if (rule->fields[i].tag == tag)
                        return rule->fields[i].presence;
        return PRESENCE_END;
}

/* Only for encodings whose structure was checked: everything that went through put() or message_decode(). */
static bool next_field(const struct message *m, size_t *at, uint16_t *tag, const uint8_t **value, uint32_t *size)
{
        if (*at >= m->size)
                return false;
        *tag = get_be16(m->data + *at);
        *size = get_be32(m->data + *at + 2);
        *value = m->data + *at + FIELD_HEADER;
        *at += FIELD_HEADER + (size_t)*size;
        return true;
}

static bool find(const struct message *m, uint16_t wanted, size_t n, const uint8_t **value, uint32_t *size)
{
        size_t at = 0;
        uint16_t tag;

        while (next_field(m, &at, &tag, value, size))
                if (tag == wanted && n-- == 0)
                        return true;
        return false;
}

static int check_value(const struct field_rule *rule, const uint8_t *value, size_t size)
{
        if (size < rule->min || size > rule->max)
                return -EMSGSIZE;
        if (rule->value == VALUE_TEXT && !utf8_is_valid((const char *)value, size))
                return -EILSEQ;
        return 0;
}

/* The sender is held to the same table as the receiver, so that a mistake shows where it was made. */
static int put(struct message *m, uint16_t tag, enum value kind, const void *value, size_t size)
{
        const struct field_rule *rule = field_rule(tag);
        const uint8_t *old;
        uint32_t old_size;

        if (!rule || rule->value != kind)
                return -EINVAL;
        enum presence presence = presence_of(message_rule(m->type), tag);
        if (presence == PRESENCE_END)
                return -EINVAL;
        if (presence != REPEATED && find(m, tag, 0, &old, &old_size))
                return -EEXIST;
        int r = check_value(rule, value, size);
        if (r < 0)
                return r;

        size_t needed = m->size + FIELD_HEADER + size;
        if (needed > ROOM_MAX)
                return -EMSGSIZE;
        if (needed > m->room) {
                size_t room = needed < 256 ? 256 : needed * 2;
                if (room > ROOM_MAX)
                        room = ROOM_MAX;
                uint8_t *grown = realloc(m->data, room);
                if (!grown)
                        return -ENOMEM;
                m->data = grown;
                m->room = room;
        }
        put_be16(m->data + m->size, tag);
        put_be32(m->data + m->size + 2, (uint32_t)size);
        if (size)
                memcpy(m->data + m->size + FIELD_HEADER, value, size);
        m->size = needed;
        return 0;
}

static void put_sticky(struct message *m, uint16_t tag, enum value kind, const void *value, size_t size)
{
        if (m && m->failed == 0)
                m->failed = put(m, tag, kind, value, size);
}

void message_put_u32(struct message *m, enum field tag, uint32_t value)
{
        uint8_t bytes[4];

        put_be32(bytes, value);
        put_sticky(m, tag, VALUE_U32, bytes, sizeof(bytes));
}

void message_put_u64(struct message *m, enum field tag, uint64_t value)
{
        uint8_t bytes[8];

        put_be64(bytes, value);
        put_sticky(m, tag, VALUE_U64, bytes, sizeof(bytes));
}

void message_put_text(struct message *m, enum field tag, const char *text)
{
        if (text)
                put_sticky(m, tag, VALUE_TEXT, text, strlen(text));
}

void message_put_bytes(struct message *m, enum field tag, const void *data, size_t size)
{
        put_sticky(m, tag, VALUE_BYTES, data, size);
}

/* The first required field that is missing, or NULL. */
static const char *missing_field(const struct message *m)
{
        const struct message_rule *rule = message_rule(m->type);
        const uint8_t *value;
        uint32_t size;

        for (size_t i = 0; i < MESSAGE_FIELDS_MAX && rule->fields[i].presence != PRESENCE_END; i++)
                if (rule->fields[i].presence == REQUIRED && !find(m, rule->fields[i].tag, 0, &value, &size))
                        return field_rule(rule->fields[i].tag)->name;
        return NULL;
}

int message_result(const struct message *m)
{
        if (!m)
                return -ENOMEM;
        if (m->failed < 0)
                return m->failed;
        return missing_field(m) ? -ENODATA : 0;
}

int message_encode(const struct message *m, uint8_t **ret, size_t *ret_size)
{
        int r = message_result(m);

        if (r < 0)
                return r;
        uint8_t *data = malloc(MESSAGE_HEADER + m->size);
        if (!data)
                return -ENOMEM;
        put_be16(data, m->type);
        put_be16(data + 2, 0);
        if (m->size)
                memcpy(data + MESSAGE_HEADER, m->data, m->size);
        *ret = data;
        *ret_size = MESSAGE_HEADER + m->size;
        return 0;
}

static int bad(struct error *err, const char *type, const char *field, const char *what)
{
        return error_set(err, EBADMSG, "malformed message %s%s%s: %s", type, field ? ", field " : "", field ?: "",
                         what);
}

static int check_field(const struct message_rule *rule, uint64_t *seen, uint16_t tag, const uint8_t *value,
                       uint32_t size, struct error *err)
{
        const struct field_rule *field = field_rule(tag);

        if (!field)
                return bad(err, rule->name, NULL, "unknown field");
        enum presence presence = presence_of(rule, tag);
        if (presence == PRESENCE_END)
                return bad(err, rule->name, field->name, "does not belong there");
        if (presence != REPEATED && *seen & UINT64_C(1) << tag)
                return bad(err, rule->name, field->name, "given twice");
        *seen |= UINT64_C(1) << tag;

        switch (check_value(field, value, size)) {
        case 0:
                return 0;
        case -EILSEQ:
                return bad(err, rule->name, field->name, "not text");
        default:
                return bad(err, rule->name, field->name, "wrong size");
        }
}

int message_decode(const uint8_t *data, size_t size, struct message **ret, struct error *err)
{
        uint64_t seen = 0; /* known tags are below 64: message_table.c asserts it */
        size_t at = MESSAGE_HEADER;

        if (size < MESSAGE_HEADER || size > MESSAGE_MAX)
                return error_set(err, EBADMSG, "malformed message: %zu bytes", size);
        uint16_t type = get_be16(data);
        const struct message_rule *rule = message_rule(type);
        if (!rule)
                return error_set(err, EBADMSG, "malformed message: unknown type %u", type);
        if (get_be16(data + 2) != 0)
                return bad(err, rule->name, NULL, "reserved bytes are in use");

        while (at < size) {
                if (size - at < FIELD_HEADER)
                        return bad(err, rule->name, NULL, "cut off");
                uint16_t tag = get_be16(data + at);
                uint32_t length = get_be32(data + at + 2);
                at += FIELD_HEADER;
                if (length > size - at)
                        return bad(err, rule->name, NULL, "a field is longer than the message");
                int r = check_field(rule, &seen, tag, data + at, length, err);
                if (r < 0)
                        return r;
                at += length;
        }

        CLEANUP(message_free_ptr) struct message *m = message_new(type);
        if (!m)
                return error_set(err, ENOMEM, "out of memory");
        m->size = m->room = size - MESSAGE_HEADER;
        if (m->size) {
                m->data = malloc(m->size);
                if (!m->data)
                        return error_set(err, ENOMEM, "out of memory");
                memcpy(m->data, data + MESSAGE_HEADER, m->size);
        }
        const char *missing = missing_field(m);
        if (missing)
                return bad(err, rule->name, missing, "missing");
        *ret = TAKE_PTR(m);
        return 0;
}

int message_check_place(const struct message *m, enum purpose purpose, bool from_connector, struct error *err)
{
        const struct message_rule *rule = message_rule(m->type);

        if (!rule || !(rule->from & (from_connector ? FROM_CONNECTOR : FROM_ACCEPTOR)))
                return error_set(err, EPROTO, "message %s may not come from that side", message_type_name(m->type));
        if (!rule->purposes || (purpose && !(rule->purposes & 1U << purpose)))
                return error_set(err, EPROTO, "message %s does not belong on that connection",
                                 message_type_name(m->type));
        return 0;
}

int message_get_u32(const struct message *m, enum field tag, uint32_t *ret)
{
        const uint8_t *value;
        uint32_t size;

        if (!find(m, tag, 0, &value, &size))
                return -ENOENT;
        if (size != 4)
                return -EINVAL;
        *ret = get_be32(value);
        return 0;
}

int message_get_u64(const struct message *m, enum field tag, uint64_t *ret)
{
        const uint8_t *value;
        uint32_t size;

        if (!find(m, tag, 0, &value, &size))
                return -ENOENT;
        if (size != 8)
                return -EINVAL;
        *ret = get_be64(value);
        return 0;
}

int message_get_text(const struct message *m, enum field tag, char *buffer, size_t size)
{
        const uint8_t *value;
        uint32_t length;

        if (!find(m, tag, 0, &value, &length))
                return -ENOENT;
        if (length >= size)
                return -ENAMETOOLONG;
        memcpy(buffer, value, length);
        buffer[length] = '\0';
        return 0;
}

int message_dup_text_at(const struct message *m, enum field tag, size_t n, char **ret)
{
        const uint8_t *value;
        uint32_t length;

        if (!find(m, tag, n, &value, &length))
                return -ENOENT;
        char *text = malloc((size_t)length + 1);
        if (!text)
                return -ENOMEM;
        memcpy(text, value, length);
        text[length] = '\0';
        *ret = text;
        return 0;
}

int message_dup_text(const struct message *m, enum field tag, char **ret)
{
        return message_dup_text_at(m, tag, 0, ret);
}

int message_get_bytes(const struct message *m, enum field tag, const uint8_t **ret, size_t *ret_size)
{
        uint32_t size;

        if (!find(m, tag, 0, ret, &size))
                return -ENOENT;
        *ret_size = size;
        return 0;
}

const char *message_type_name(uint16_t type)
{
        const struct message_rule *rule = message_rule(type);

        return rule ? rule->name : "unknown";
}
