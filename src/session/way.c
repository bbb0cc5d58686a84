/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/way.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* What runs on the other host. A constant: nothing of it comes from a user or a peer. */
#define REMOTE_COMMAND "phaul receive --stdio"

#define SSH_FAILED 255 /* ssh's own exit status; all others are the remote command's */
#define SHELL_FOUND_NOTHING 127
#define SHELL_CANNOT_RUN 126

static int parse_ssh(const json_t *o, struct way *w)
{
        const char *host = json_string_value(json_object_get(o, "host"));
        const char *user = json_string_value(json_object_get(o, "user"));
        const char *agent = json_string_value(json_object_get(o, "agent"));
        json_int_t port = json_integer_value(json_object_get(o, "port"));
        const json_t *uid = json_object_get(o, "uid");

        if (!ssh_host_is_valid(host) || (user && !ssh_user_is_valid(user)) || port < 0 || port > 65535 ||
            !json_is_integer(uid) || json_integer_value(uid) < 0 || json_integer_value(uid) > UINT32_MAX - 1)
                return -EINVAL;
        if (agent && (agent[0] != '/' || strlen(agent) > SSH_AGENT_MAX))
                return -EINVAL;
        (void)snprintf(w->ssh.host, sizeof(w->ssh.host), "%s", host);
        (void)snprintf(w->ssh.user, sizeof(w->ssh.user), "%s", user ? user : "");
        (void)snprintf(w->agent, sizeof(w->agent), "%s", agent ? agent : "");
        w->ssh.port = (unsigned)port;
        w->uid = (uid_t)json_integer_value(uid);
        return 0;
}

int way_parse(const json_t *request, bool source, struct way *ret)
{
        const json_t *way = json_object_get(request, "way");
        const char *word = json_string_value(way);
        struct way w = {.kind = WAY_DIAL};
        int r = 0;

        if (!way) {
                *ret = w;
                return 0;
        }
        if (word && source && strcmp(word, "ssh") == 0) {
                w.kind = WAY_SSH;
                r = parse_ssh(json_object_get(request, "ssh"), &w);
        } else if (word && source && strcmp(word, "descriptors") == 0) {
                w.kind = WAY_DESCRIPTORS;
        } else if (word && !source && strcmp(word, "tunnel") == 0) {
                w.kind = WAY_TUNNEL;
        } else {
                r = -EINVAL;
        }
        if (r == 0)
                *ret = w;
        return r;
}

void way_ssh_argv(const struct way *way, const char **argv, char *port)
{
        /*
         * Nobody is there to answer a question. A connection of its own, that ends with us and notices when the other
         * host is gone; nothing of this host is handed on. Which keys of hosts are believed is the user's matter. What
         * the user's configuration does with a session must not be done with ours; the last three only ssh 8.7 and
         * later know. The first IgnoreUnknown counts, so that it has to cover the user's as well.
         */
        static const char *const fixed[] = {
                "ssh", "-T",
                "-x",  "-a",
                "-o",  "BatchMode=yes",
                "-o",  "ConnectTimeout=10",
                "-o",  "ServerAliveInterval=5",
                "-o",  "ServerAliveCountMax=3",
                "-o",  "ControlMaster=no",
                "-o",  "ControlPath=none",
                "-o",  "ClearAllForwardings=yes",
                "-o",  "PermitLocalCommand=no",
                "-o",  "EscapeChar=none",
                "-o",  "LogLevel=ERROR",
                "-o",  "IgnoreUnknown=*",
                "-o",  "RemoteCommand=none",
                "-o",  "ForkAfterAuthentication=no",
                "-o",  "StdinNull=no",
                "-o",  "SessionType=default",
        };
        size_t n = 0;

        for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
                argv[n++] = fixed[i];
        if (way->ssh.port) {
                (void)snprintf(port, WAY_PORT_SIZE, "%u", way->ssh.port);
                argv[n++] = "-p";
                argv[n++] = port;
        }
        if (way->ssh.user[0]) {
                argv[n++] = "-l";
                argv[n++] = way->ssh.user;
        }
        argv[n++] = "--";
        argv[n++] = way->ssh.host;
        argv[n++] = REMOTE_COMMAND;
        argv[n] = NULL;
}

/* What ssh itself has to say. */
static void explain_ssh(const struct way *way, const char *words, struct error *err)
{
        const char *host = way->ssh.host;

        if (strstr(words, "Host key verification failed") || strstr(words, "HOST IDENTIFICATION HAS CHANGED"))
                (void)error_set_kind(err, ERROR_DENIED, EKEYREJECTED,
                                     "ssh does not believe the key of %s (log in once by hand, or see known_hosts): %s",
                                     host, words);
        else if (strstr(words, "Permission denied") || strstr(words, "Too many authentication failures"))
                (void)error_set_kind(err, ERROR_DENIED, EACCES, "%s does not let us in by ssh: %s", host, words);
        else
                (void)error_set(err, ECONNREFUSED, "cannot connect to %s by ssh: %s", host, words);
}

void way_ssh_explain(const struct way *way, int status, struct error *err)
{
        static const enum error_kind kinds[] = {
                [1] = ERROR_FAILED,    [3] = ERROR_REFUSED, [4] = ERROR_NOT_FOUND, [5] = ERROR_DENIED,
                [6] = ERROR_CANCELLED, [8] = ERROR_FAILED,  [9] = ERROR_FAILED};
        char words[ERROR_TEXT_MAX];
        const char *host = way->ssh.host;

        /* Only an end that ssh brought about. */
        if (status < 0 || !WIFEXITED(status) || err->code != ECONNRESET)
                return;
        /* ssh's own words, where there are some: that the connection ended goes without saying then. */
        static const char before[] = "was said: ";
        const char *said = strstr(err->text, before);
        (void)snprintf(words, sizeof(words), "%s", said ? said + sizeof(before) - 1 : err->text);
        const unsigned code = (unsigned)WEXITSTATUS(status);
        switch (code) {
        case 0:
                break;
        case SSH_FAILED:
                explain_ssh(way, words, err);
                break;
        case SHELL_FOUND_NOTHING:
        case SHELL_CANNOT_RUN:
                (void)error_set_kind(err, ERROR_REFUSED, ENOENT, "phaul is not installed on %s: %s", host, words);
                break;
        case 2: /* usage */
                (void)error_set_kind(err, ERROR_REFUSED, EPROTO,
                                     "phaul on %s is of a version that does not know `receive`: %s", host, words);
                break;
        default:
                if (code < sizeof(kinds) / sizeof(kinds[0]) && kinds[code] != ERROR_NONE)
                        (void)error_set_kind(err, kinds[code], EREMOTEIO, "%s: %s", host, words);
        }
}
