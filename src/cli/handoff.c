/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/handoff.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/text.h"

#define PACKET_MAX 4096
#define FD_MAX 1048575

int handoff_connect(const struct cli *cli, int *ret_fd, struct error *err)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        const char *slash = strrchr(cli->socket, '/');
        int folder = slash ? (int)(slash - cli->socket) + 1 : 0;

        if (snprintf(at.sun_path, sizeof(at.sun_path), "%.*sdescriptors.sock", folder, cli->socket) >=
            (int)sizeof(at.sun_path))
                return error_set_kind(err, ERROR_USAGE, ENAMETOOLONG, "the path of phauld's socket is too long");
        AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return error_errno(err, errno, "cannot make a socket");
        if (connect(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
                if (errno == EACCES)
                        return error_set_kind(err, ERROR_DENIED, EACCES,
                                              "you may not use phauld at %s: root and members of group phaul only",
                                              at.sun_path);
                return error_errno(err, errno, "cannot reach phauld at %s: is it running?", at.sun_path);
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int send_packet(int socket, json_t *packet, int fd, struct error *err)
{
        AUTO_FREE char *text = packet ? json_dumps(packet, JSON_COMPACT) : NULL;

        json_decref(packet);
        if (!text)
                return error_set(err, ENOMEM, "out of memory");
        ssize_t n = fd_send_packet(socket, text, strlen(text), fd);
        /* Whoever refused has closed; why, is still to be read. */
        return n < 0 && n != -EPIPE && n != -ECONNRESET ? error_errno(err, (int)-n, "cannot talk to phauld") : 0;
}

int handoff_read(int socket, json_t **ret, struct error *err)
{
        char text[PACKET_MAX];

        ssize_t n = fd_recv_packet(socket, text, sizeof(text), NULL);
        if (n <= 0)
                return error_set(err, ECONNRESET, "phauld closed the connection: was it restarted?");
        json_t *packet = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        int r = json_is_object(packet) ? 0 : error_set(err, EBADMSG, "phauld's answer is not JSON");
        if (r == 0 && strcmp(cli_text(packet, "event"), "refused") == 0)
                r = error_set_kind(err, error_kind_from_name(cli_text(packet, "kind")), EPROTO, "%s",
                                   cli_text(packet, "text"));
        if (r < 0)
                json_decref(packet);
        else
                *ret = packet;
        return r;
}

int handoff_lane(int socket, int lane, const char *direction, int fd, struct error *err)
{
        return send_packet(socket, json_pack("{s:s, s:i, s:s}", "do", "lane", "lane", lane, "direction", direction), fd,
                           err);
}

int handoff_ask(int socket, const char *what, json_t **ret, struct error *err)
{
        int r = send_packet(socket, json_pack("{s:s}", "do", what), -1, err);

        return r < 0 ? r : handoff_read(socket, ret, err);
}

int handoff_parse_fd(const char *flag, const char *text, int *ret, struct error *err)
{
        int64_t n;

        int r = text_parse_number(flag, text, 3, FD_MAX, &n, err);
        if (r < 0)
                return r;
        if (fcntl((int)n, F_GETFD) < 0)
                return error_set_kind(err, ERROR_USAGE, EBADF, "%s: descriptor %d is not open", flag, (int)n);
        *ret = (int)n;
        return 0;
}

int handoff_parse_pair(const char *control, const char *data, int *ret_control, int *ret_data, struct error *err)
{
        *ret_control = *ret_data = -1;
        if (!control && !data)
                return 0;
        if (!control || !data)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "--fd-control and --fd-data belong together");
        int r = handoff_parse_fd("--fd-control", control, ret_control, err);
        if (r == 0)
                r = handoff_parse_fd("--fd-data", data, ret_data, err);
        if (r == 0 && *ret_control == *ret_data)
                r = error_set_kind(err, ERROR_USAGE, EINVAL, "--fd-control and --fd-data are the same descriptor");
        return r;
}

int handoff_keep(const struct cli *cli, int control, int data, json_t **ret, struct error *err)
{
        json_t *answer = NULL;
        int fd = -1;

        int r = handoff_connect(cli, &fd, err);
        if (r < 0)
                return r;
        AUTO_FD int socket = fd;
        r = handoff_lane(socket, 0, "both", control, err);
        if (r == 0)
                r = handoff_lane(socket, 1, "both", data, err);
        if (r == 0)
                r = handoff_ask(socket, "keep", &answer, err);
        if (r < 0)
                return r;
        *ret = json_string(cli_text(answer, "ticket"));
        json_decref(answer);
        return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}
