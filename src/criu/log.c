/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"
#include "criu/criu.h"
#include "criu/log.h"

/* The last lines tell where it ended, and with eight of them the cause is nearly always among them. */
#define LINES_KEPT 8
#define LINE_MAX_KEPT 240
#define LOG_BYTES_MAX (256U << 20)

struct ring {
        char lines[LINES_KEPT][LINE_MAX_KEPT + 1];
        size_t n; /* lines seen */
};

/* "(00.012345) " in front of a line. */
static const char *skip_timestamp(const char *line)
{
        size_t digits = 0;

        if (line[0] != '(')
                return line;
        digits = strspn(line + 1, "0123456789.");
        return digits > 0 && line[1 + digits] == ')' && line[2 + digits] == ' ' ? line + digits + 3 : line;
}

/* Paths in a line are the workload's: what a terminal or a JSON reader would choke on is replaced. */
static void keep_line(struct ring *ring, const char *line)
{
        char *slot = ring->lines[ring->n % LINES_KEPT];
        size_t size = strcspn(line, "\n");

        if (size > LINE_MAX_KEPT)
                size = LINE_MAX_KEPT;
        memcpy(slot, line, size);
        while (size > 0 && (slot[size - 1] == ' ' || slot[size - 1] == '\r'))
                size--;
        slot[size] = '\0';
        bool utf8 = utf8_is_valid(slot, size);
        for (size_t i = 0; i < size; i++) {
                unsigned char c = (unsigned char)slot[i];
                if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
                        slot[i] = '?';
        }
        /* CRIU repeats itself once per level of the call that failed. */
        if (ring->n == 0 || strcmp(slot, ring->lines[(ring->n - 1) % LINES_KEPT]) != 0)
                ring->n++;
}

static int ring_print(const struct ring *ring, char *ret, size_t size)
{
        size_t kept = ring->n < LINES_KEPT ? ring->n : LINES_KEPT, used = 0;
        int printed = 0;

        ret[0] = '\0';
        for (size_t i = ring->n - kept; i < ring->n; i++) {
                const char *line = ring->lines[i % LINES_KEPT];
                size_t length = strlen(line);

                if (used + length + 2 > size)
                        break;
                if (used > 0)
                        ret[used++] = '\n';
                memcpy(ret + used, line, length + 1);
                used += length;
                printed++;
        }
        return printed;
}

static bool is_error_line(const char *line)
{
        const char *first = strchr(line, '(');

        /* In front may be the parasite's "pie: 12: ", or a task of a restore; after another bracket it is quoted. */
        return first && first - line >= 6 && strncmp(first - 6, "Error ", 6) == 0 &&
               (first - line == 6 || first[-7] == ' ');
}

static int read_log(FILE *log, bool errors_only, char *ret, size_t size)
{
        struct ring ring = {};
        char line[1024];
        size_t bytes = 0;
        bool inside = false; /* a line longer than the buffer goes on */

        while (fgets(line, sizeof(line), log)) {
                size_t length = strlen(line);
                const char *text = skip_timestamp(line);

                bytes += length;
                if (bytes > LOG_BYTES_MAX)
                        break;
                if (!inside && text[0] != '\n' && (!errors_only || is_error_line(text)))
                        keep_line(&ring, text);
                inside = length > 0 && line[length - 1] != '\n';
        }
        return ring_print(&ring, ret, size);
}

int criu_log_pick(FILE *log, char *ret, size_t size)
{
        return read_log(log, true, ret, size);
}

int criu_log_tail(FILE *log, char *ret, size_t size)
{
        return read_log(log, false, ret, size);
}

int criu_log_errors(int dir_fd, const char *file, char *ret, size_t size)
{
        if (size == 0)
                return -EINVAL;
        ret[0] = '\0';
        AUTO_FD int fd = fd_open_regular(dir_fd, file, NULL);
        if (fd < 0)
                return fd;
        AUTO_FILE FILE *log = fdopen(fd, "re");
        if (!log)
                return -errno;
        (void)TAKE_FD(fd);
        return criu_log_pick(log, ret, size);
}
