/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/files.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *process_addresses(const json_t *description)
{
        const json_t *entry;
        char *text = NULL;
        size_t i, size = 0;

        FILE *f = open_memstream(&text, &size);
        if (!f)
                return NULL;
        json_array_foreach(json_object_get(description, "addresses"), i, entry)
        {
                const char *address = json_string_value(entry);
                /* From the other host, and on its way into the environment of hooks. */
                if (address && strlen(address) < 64 && strspn(address, "0123456789abcdef.:") == strlen(address))
                        (void)fprintf(f, "%s%s", size || i ? " " : "", address);
        }
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
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
        process_files_done(&p->files);
        free(p->flows);
        free(p);
        w->private_data = NULL;
}
