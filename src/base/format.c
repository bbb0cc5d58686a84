/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/format.h"

#include <stdarg.h>
#include <stdio.h>

char *format_new(const char *format, ...)
{
        va_list list;
        char *text;

        va_start(list, format);
        if (vasprintf(&text, format, list) < 0)
                text = NULL;
        va_end(list);
        return text;
}
