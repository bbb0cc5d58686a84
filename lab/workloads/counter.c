/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * counter FILE [--interval-ms N] [--mark-file PATH] [--start N]
 *
 * Counts, and appends "N REALTIME_NS MARK" to FILE, which it keeps open. MARK is the first word of the mark file, read
 * anew each time ("-" without one): give a path that says where one is, like /etc/hostname, and the lines tell
 * where each number was counted, and whether two copies ever ran at once.
 */
#include "common.h"

static void read_mark(const char *path, char mark[64])
{
        strcpy(mark, "-");
        FILE *file = path ? fopen(path, "re") : NULL;
        if (!file)
                return;
        if (fscanf(file, "%63s", mark) != 1)
                strcpy(mark, "-");
        fclose(file);
}

int main(int argc, char **argv)
{
        if (argc < 2)
                die("counter FILE [--interval-ms N] [--mark-file PATH] [--start N]");
        double interval = number_option(argc, argv, "interval-ms", 10);
        const char *mark_file = option(argc, argv, "mark-file", NULL);
        unsigned long n = (unsigned long)number_option(argc, argv, "start", 0);
        int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        char mark[64];

        if (fd < 0)
                die("%s: %s", argv[1], strerror(errno));
        stop_on_signals();
        while (!asked_to_stop) {
                read_mark(mark_file, mark);
                put_line(fd, "%lu %ld %s", ++n, (long)realtime_ns(), mark);
                sleep_us((long)(interval * 1000));
        }
        return 0;
}
