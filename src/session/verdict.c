/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/verdict.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS_MAX 256

static enum grade grade_from_name(const char *name)
{
        for (int g = GRADE_OK; g < GRADE_ERROR; g++)
                if (name && strcmp(name, grade_name((enum grade)g)) == 0)
                        return (enum grade)g;
        return GRADE_ERROR;
}

/* By the id of the item, whoever reports it. */
static bool is_skipped(const struct verdict *v, const char *item)
{
        return v->options && ((v->options->skip_cpu_check && strcmp(item, "cpu") == 0) ||
                              (v->options->skip_criu_check && strcmp(item, "criu") == 0));
}

void verdict_report(const char *item, enum grade grade, const char *reason, void *verdict)
{
        struct verdict *v = verdict;
        const bool forced = grade == GRADE_JUDGED && v->options && v->options->force;
        const bool skipped = grade > GRADE_WARNING && is_skipped(v, item);
        char text[ERROR_TEXT_MAX];

        (void)snprintf(text, sizeof(text), "%s%s",
                       skipped  ? "not counted, as asked: "
                       : forced ? "forced: "
                                : "",
                       reason);
        if (!v->items)
                v->items = json_array();
        json_t *made = json_pack("{s:s, s:s, s:s, s:s}", "id", item, "host", v->host, "grade",
                                 grade_name(forced || skipped ? GRADE_WARNING : grade), "reason", text);
        if (made && grade == GRADE_JUDGED && !forced && !skipped)
                (void)json_object_set_new(made, "forcible", json_true());
        (void)json_array_append_new(v->items, made);
}

enum grade verdict_grade(const struct verdict *v)
{
        enum grade worst = v->items ? GRADE_OK : GRADE_ERROR;
        size_t i;
        json_t *item;

        json_array_foreach(v->items, i, item)
        {
                enum grade g = grade_from_name(json_string_value(json_object_get(item, "grade")));
                if (g > worst)
                        worst = g;
        }
        return worst;
}

int verdict_put_message(const struct verdict *v, struct message *m)
{
        size_t i;
        json_t *item;

        message_put_text(m, FIELD_GRADE, grade_name(verdict_grade(v)));
        json_array_foreach(v->items, i, item)
        {
                AUTO_FREE char *text = json_dumps(item, JSON_COMPACT);
                if (!text)
                        return -ENOMEM;
                message_put_text(m, FIELD_ITEM, text);
        }
        return message_result(m);
}

int verdict_add_message(struct verdict *v, const struct message *m, struct error *err)
{
        if (!v->items && !(v->items = json_array()))
                return error_set(err, ENOMEM, "out of memory");
        for (size_t i = 0; i < ITEMS_MAX; i++) {
                AUTO_FREE char *text = NULL;
                if (message_dup_text_at(m, FIELD_ITEM, i, &text) < 0)
                        break;
                json_t *item = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
                bool valid = json_is_string(json_object_get(item, "id")) &&
                             json_is_string(json_object_get(item, "host")) &&
                             json_is_string(json_object_get(item, "grade")) &&
                             json_is_string(json_object_get(item, "reason")) &&
                             json_object_size(item) == 4U + json_is_true(json_object_get(item, "forcible"));
                if (!valid || json_array_append_new(v->items, json_incref(item)) < 0) {
                        json_decref(item);
                        return error_set(err, EBADMSG, "the other host's verdict has an item that is not one");
                }
                json_decref(item);
        }
        return 0;
}

json_t *verdict_json(const struct verdict *v)
{
        return json_pack("{s:s, s:s, s:O}", "event", "verdict", "verdict", grade_name(verdict_grade(v)), "items",
                         v->items);
}

int verdict_refusal(const struct verdict *v, struct error *err)
{
        char text[ERROR_TEXT_MAX] = "";
        size_t i, used = 0;
        json_t *item;

        json_array_foreach(v->items, i, item)
        {
                if (grade_from_name(json_string_value(json_object_get(item, "grade"))) != GRADE_ERROR)
                        continue;
                int n = snprintf(text + used, sizeof(text) - used, "%s%s: %s", used ? "\n" : "",
                                 json_string_value(json_object_get(item, "host")),
                                 json_string_value(json_object_get(item, "reason")));
                if (n < 0 || (size_t)n >= sizeof(text) - used)
                        break;
                used += (size_t)n;
        }
        return error_set_kind(err, ERROR_REFUSED, EPERM, "%s", used ? text : "the pre-flight could not be completed");
}

void verdict_done(struct verdict *v)
{
        json_decref(v->items);
        v->items = NULL;
}
