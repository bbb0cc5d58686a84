/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/process.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

char *process_format(const char *format, ...)
{
        va_list list;
        char *text;

        va_start(list, format);
        if (vasprintf(&text, format, list) < 0)
                text = NULL;
        va_end(list);
        return text;
}

const char *process_string(const json_t *object, const char *key)
{
        const char *value = json_string_value(json_object_get(object, key));

        return value ? value : "";
}

void process_say(struct process_findings *f, const char *item, enum grade grade, const char *format, ...)
{
        char text[1024];
        va_list list;

        va_start(list, format);
        (void)vsnprintf(text, sizeof(text), format, list);
        va_end(list);
        f->errors += grade == GRADE_ERROR;
        f->report(item, grade, text, f->context);
}

void process_done(struct workload *w)
{
        struct process_private *p = w->private_data;

        if (!p)
                return;
        json_decref(p->info);
        free(p);
        w->private_data = NULL;
}
