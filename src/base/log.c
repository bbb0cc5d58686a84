/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Set once by main() before anything else runs; the only process-wide state of base/. */
static const char *program_name = "phaul";
static enum log_level max_level = LOG_LEVEL_INFO;
static bool to_journal;

void log_init(const char *program, enum log_level max)
{
        program_name = program;
        max_level = max;
        to_journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_line(enum log_level level, const char *format, ...)
{
        char line[4096];
        int used;
        va_list args;

        if (level > max_level)
                return;
        if (to_journal) {
                used = snprintf(line, sizeof(line), "<%d>", (int)level);
        } else {
                struct timespec now;
                struct tm tm;
                (void)clock_gettime(CLOCK_REALTIME, &now);
                (void)gmtime_r(&now.tv_sec, &tm);
                used = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s[%d]: %s",
                                tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                                now.tv_nsec / 1000000, program_name, (int)getpid(),
                                level == LOG_LEVEL_ERROR     ? "error: "
                                : level == LOG_LEVEL_WARNING ? "warning: "
                                                             : "");
        }
        va_start(args, format);
        int n = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
        va_end(args);
        if (n < 0)
                return;
        used += n;
        if (used > (int)sizeof(line) - 2)
                used = (int)sizeof(line) - 2;
        line[used++] = '\n';
        (void)!write(STDERR_FILENO, line, (size_t)used);
}
