/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A session that only talks: it plays the other end of session/protocol.h for test-daemon.c. What it does depends on
 * the name of the workload: "shop" migrates at once, "slow" waits to be cancelled, "late" refuses to be, "away" is one
 * of those whose other host does not answer until then, "crash" dies each time, "twice" dies once and then succeeds.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "session/protocol.h"

static void say(int fd, json_t *event)
{
        char *text = json_dumps(event, JSON_COMPACT);

        (void)fd_send_packet(fd, text, strlen(text), -1);
        free(text);
        json_decref(event);
}

static const char *text_of(const json_t *o, const char *key)
{
        return json_string_value(json_object_get(o, key));
}

static void report(const char *directory, int fd, const json_t *request, const char *result)
{
        char path[512];
        json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:i}", "id",
                              text_of(request, "id"), "kind", text_of(request, "kind"), "name",
                              text_of(request, "name"), "source", text_of(request, "self"), "target",
                              text_of(request, "peer"), "mode", text_of(request, "mode"), "result", result, "owner",
                              strcmp(result, "done") == 0 ? "target" : "source", "total_ms", 2310, "downtime_ms", 143,
                              "bytes_sent", (json_int_t)268000000, "rounds", 4);

        if (strcmp(text_of(request, "mode"), "check") == 0) {
                (void)json_object_set_new(o, "verdict", json_string("warning"));
                (void)json_object_set_new(o, "items",
                                          json_pack("[{s:s, s:s, s:s, s:s}]", "id", "disk", "host", "beta", "grade",
                                                    "warning", "reason", "little room"));
        }
        char *text = json_dumps(o, 0);
        (void)snprintf(path, sizeof(path), "%s/report.json", directory);
        (void)fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        free(text);
        (void)json_object_set_new(o, "event", json_string("result"));
        say(fd, o);
        say(fd, json_pack("{s:s}", "event", "bye"));
}

static void say_away(int fd, const char *why)
{
        say(fd, json_pack("{s:s, s:s, s:b}", "event", "attention", "text", why, "waits", 1));
}

static int wait_for_cancel(int fd)
{
        char buffer[SESSION_PACKET_MAX];
        int passed;

        for (;;) {
                ssize_t n = fd_recv_packet(fd, buffer, sizeof(buffer), &passed);
                if (n <= 0)
                        return -1;
                if (passed >= 0)
                        (void)close(passed);
                if (memmem(buffer, (size_t)n, "\"cancel\"", 8))
                        return 0;
        }
}

int main(int argc, char **argv)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        char path[512];
        struct stat st;

        (void)alarm(60); /* a test that failed does not come back for us */
        if (argc != 2 || chdir(argv[1]) < 0)
                return 2;
        int lock = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (flock(lock, LOCK_EX | LOCK_NB) < 0)
                return SESSION_EXIT_BUSY;
        json_t *request = json_load_file("request.json", JSON_REJECT_DUPLICATES, NULL);
        const char *name = text_of(request, "name") ?: "";
        (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s/sessions/%s.sock", text_of(request, "runtime_dir"),
                       text_of(request, "id"));
        if (strcmp(name, "crash") == 0)
                return 3;
        (void)snprintf(path, sizeof(path), "%s/died", argv[1]);
        if (strcmp(name, "twice") == 0 && stat(path, &st) < 0) {
                (void)close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
                return 3;
        }

        int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        (void)unlink(at.sun_path);
        if (bind(listener, (const struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 4) < 0)
                return 2;
        (void)fprintf(stderr, "the log of %s\n", name);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        say(fd, json_pack("{s:s, s:s, s:s}", "event", "state", "state", "working", "phase", "memory"));
        say(fd, json_pack("{s:s, s:s, s:i, s:i}", "event", "progress", "phase", "memory", "round", 1, "bytes_done", 7));
        const char *result = "done";
        const bool away = strcmp(name, "away") == 0;
        if (away)
                say_away(fd, "nobody answers");
        while (away || strcmp(name, "slow") == 0 || strcmp(name, "late") == 0) {
                if (wait_for_cancel(fd) < 0) {
                        (void)close(fd); /* phauld went away: it will be back */
                        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                        say(fd, json_pack("{s:s, s:s, s:s}", "event", "state", "state", "working", "phase", "memory"));
                        continue;
                }
                bool late = away || strcmp(name, "late") == 0;
                if (away)
                        say_away(fd, "");
                say(fd, json_pack("{s:s, s:b, s:s}", "event", "cancel", "ok", !late, "text",
                                  late ? "too late, it is on the target" : "cancelling"));
                result = late ? "done" : "cancelled";
                break;
        }
        report(argv[1], fd, request, result);
        (void)unlink(at.sun_path);
        json_decref(request);
        return 0;
}
