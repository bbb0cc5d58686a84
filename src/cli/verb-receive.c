/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "cli/cli.h"
#include "cli/handoff.h"

/*
 * The far half of a migration over ssh or over descriptors. They are handed to the phauld that runs here, or to one
 * that is started for it and ends with its work; what it does then does not depend on us any more. We stay until the
 * tunnel has ended, because ssh ends the connection when we do.
 */
#define START_MS 20000
#define START_TRIES 5
#define LOOK_MS 50
#define RUNTIME "/run/phaul"
#define LOG_FILE RUNTIME "/receive.log"
#define LOG_MAX (1 << 20)

struct ends {
        int control, data; /* both directions; or -1 */
        bool stdio;
};

/* The last line of what the phauld that we started has said. */
static void last_words(char *ret, size_t size)
{
        AUTO_FREE char *text = NULL;
        size_t n = 0;

        ret[0] = '\0';
        if (fd_read_file(AT_FDCWD, LOG_FILE, 2 * LOG_MAX, &text, &n) < 0)
                return;
        while (n > 0 && text[n - 1] == '\n')
                text[--n] = '\0';
        const char *line = strrchr(text, '\n');
        (void)snprintf(ret, size, "%s", line ? line + 1 : text);
}

static int start_phauld(pid_t *ret_pid, struct error *err)
{
        const char *argv[] = {PHAUL_SBINDIR "/phauld", "--transient", NULL};
        struct stat st;

        if (mkdir(RUNTIME, 0755) < 0 && errno != EEXIST)
                return error_errno(err, errno, "cannot make " RUNTIME);
        AUTO_FD int log = open(LOG_FILE, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (log < 0)
                return error_errno(err, errno, "cannot open " LOG_FILE);
        if (fstat(log, &st) == 0 && st.st_size > LOG_MAX)
                (void)!ftruncate(log, 0);
        const struct spawn_fd fds[] = {{log, 1}, {log, 2}};
        const struct spawn_options options = {.argv = argv, .fds = fds, .n_fds = 2, .new_session = true};
        return spawn(&options, ret_pid, NULL, err);
}

static int hand_over(const struct cli *cli, const struct ends *ends, int *ret_fd, struct error *err)
{
        json_t *answer = NULL;
        int fd = -1;

        int r = handoff_connect(cli, &fd, err);
        if (r < 0)
                return r;
        AUTO_FD int socket = fd;
        if (ends->stdio) {
                r = handoff_lane(socket, 0, "in", STDIN_FILENO, err);
                if (r == 0)
                        r = handoff_lane(socket, 0, "out", STDOUT_FILENO, err);
        } else {
                r = handoff_lane(socket, 0, "both", ends->control, err);
                if (r == 0)
                        r = handoff_lane(socket, 1, "both", ends->data, err);
        }
        if (r == 0)
                r = handoff_ask(socket, "receive", &answer, err);
        json_decref(answer);
        if (r == 0)
                *ret_fd = TAKE_FD(socket);
        return r;
}

static bool is_away(int r)
{
        return r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET;
}

/*
 * None there, or one that is just ending. Another `phaul receive` may start one at the same moment: then ours finds the
 * lock taken, and the other one serves us, too.
 */
static int find_phauld(const struct cli *cli, const struct ends *ends, int *ret_fd, struct error *err)
{
        const uint64_t deadline = clock_ms() + START_MS;
        unsigned tries = 0;
        pid_t pid = 0;

        for (;;) {
                char words[512];
                int status;

                error_clear(err);
                int r = hand_over(cli, ends, ret_fd, err);
                if (!is_away(r) || strcmp(cli->socket, CLIENT_SOCKET_DEFAULT) != 0)
                        return r;
                if (geteuid() != 0)
                        return error_set_kind(err, ERROR_DENIED, EPERM,
                                              "no phauld runs here, and only root can start one for a migration");
                if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid)
                        pid = 0;
                if (pid == 0 && tries++ < START_TRIES) {
                        r = start_phauld(&pid, err);
                        if (r < 0)
                                return r;
                } else if (pid == 0 || clock_ms() >= deadline) {
                        last_words(words, sizeof(words));
                        return error_set(err, EIO, "cannot start phauld: %s", words[0] ? words : "it says nothing");
                }
                (void)poll(NULL, 0, LOOK_MS);
        }
}

static int check_stdio(struct error *err)
{
        if (isatty(STDIN_FILENO) || isatty(STDOUT_FILENO))
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "--stdio is for the other end of a tunnel, not for a terminal: `phaul migrate … "
                                      "ssh://…` starts this by itself");
        return 0;
}

static int receive(struct cli *cli, const struct ends *ends, struct error *err)
{
        json_t *news = NULL;
        int fd = -1;

        int r = find_phauld(cli, ends, &fd, err);
        if (r < 0)
                return r;
        AUTO_FD int socket = fd;
        r = handoff_read(socket, &news, err);
        if (r < 0)
                return r;
        if (strcmp(cli_text(news, "kind"), error_kind_name(ERROR_NONE)) != 0)
                r = error_set_kind(err, error_kind_from_name(cli_text(news, "kind")), EIO, "%s",
                                   cli_text(news, "text"));
        json_decref(news);
        return r;
}

int verb_receive(struct cli *cli, int argc, char **argv, struct error *err)
{
        const char *control = NULL, *data = NULL;
        struct ends ends = {.control = -1, .data = -1};
        const struct cli_option options[] = {{.name = "stdio", .flag = &ends.stdio},
                                             {.name = "fd-control", .value = &control},
                                             {.name = "fd-data", .value = &data},
                                             {.name = NULL}};
        char **rest;
        int n;

        int r = cli_options(cli, argc, argv, options, 0, 0, &rest, &n, err);
        if (r == 0)
                r = handoff_parse_pair(control, data, &ends.control, &ends.data, err);
        if (r == 0 && ends.stdio == (ends.control >= 0))
                r = error_set_kind(err, ERROR_USAGE, EINVAL,
                                   "usage: phaul receive --stdio, or phaul receive --fd-control N --fd-data N");
        if (r == 0 && ends.stdio)
                r = check_stdio(err);
        return r < 0 ? r : receive(cli, &ends, err);
}
