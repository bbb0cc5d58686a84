/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the workloads share: clocks, options, signals, and one line of output at a time. */
#ifndef WORKLOADS_COMMON_H
#define WORKLOADS_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Downtime shows on this clock only: CRIU restores into a time namespace that hides the gap on CLOCK_MONOTONIC. */
static inline int64_t realtime_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline double monotonic_s(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void sleep_us(long us)
{
        nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vfprintf(stderr, format, list);
        va_end(list);
        fputc('\n', stderr);
        exit(2);
}

/* Value of --NAME VALUE among the arguments, or fallback. */
static inline const char *option(int argc, char **argv, const char *name, const char *fallback)
{
        for (int n = 1; n + 1 < argc; n++)
                if (strncmp(argv[n], "--", 2) == 0 && strcmp(argv[n] + 2, name) == 0)
                        return argv[n + 1];
        return fallback;
}

static inline double number_option(int argc, char **argv, const char *name, double fallback)
{
        const char *text = option(argc, argv, name, NULL);
        char *end;

        if (!text)
                return fallback;
        double value = strtod(text, &end);
        if (end == text || *end || value < 0)
                die("--%s %s: not a number", name, text);
        return value;
}

static volatile sig_atomic_t asked_to_stop;

static inline void note_stop(int number)
{
        (void)number;
        asked_to_stop = 1;
}

/* SIGTERM and SIGINT end the workload in order; as pid 1 of a container it would not even receive them otherwise. */
static inline void stop_on_signals(void)
{
        struct sigaction action = {.sa_handler = note_stop};

        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGINT, &action, NULL);
        signal(SIGPIPE, SIG_IGN);
}

/* Where the lines go: --status FILE, appended to, or stdout. */
static inline int open_status(int argc, char **argv)
{
        const char *path = option(argc, argv, "status", NULL);
        int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : STDOUT_FILENO;

        if (fd < 0)
                die("%s: %s", path, strerror(errno));
        return fd;
}

/* One write per line, so that a line is never torn by a checkpoint. */
__attribute__((format(printf, 2, 3))) static inline void put_line(int fd, const char *format, ...)
{
        char line[512];
        va_list list;

        va_start(list, format);
        int length = vsnprintf(line, sizeof(line) - 1, format, list);
        va_end(list);
        if (length >= (int)sizeof(line) - 1)
                length = sizeof(line) - 2;
        line[length++] = '\n';
        if (write(fd, line, (size_t)length) != length)
                die("status: %s", strerror(errno));
}

#endif
