/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

#include "cli/cli.h"

/* Handing descriptors to phauld, over the socket beside that of the API (daemon/descriptors.h says what is spoken). */

/* -ENOENT or -ECONNREFUSED when no phauld is there. */
int handoff_connect(const struct cli *cli, int *ret_fd, struct error *err);

/* `direction` is "both", "in" or "out". */
int handoff_lane(int socket, int lane, const char *direction, int fd, struct error *err);

/* Say {"do": what} and read the answer; a refusal becomes an error. -ECONNRESET when phauld has gone. */
int handoff_ask(int socket, const char *what, json_t **ret, struct error *err);
/* Read one more packet. */
int handoff_read(int socket, json_t **ret, struct error *err);

/* A number given to --`flag`: open, and none of the standard ones. */
int handoff_parse_fd(const char *flag, const char *text, int *ret, struct error *err);
/* Both or neither: *ret_control is -1 for neither. */
int handoff_parse_pair(const char *control, const char *data, int *ret_control, int *ret_data, struct error *err);

/* Leave both with phauld; *ret is the ticket (a string) that a request names them by. */
int handoff_keep(const struct cli *cli, int control, int data, json_t **ret, struct error *err);
