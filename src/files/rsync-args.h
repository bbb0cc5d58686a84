/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * The command lines of rsync, client and server, fixed on both ends: a receiver never runs what its peer says.
 *
 * -lHogDtpAXrS is -aHAXS spelled out in the order in which rsync's client would tell its server. The `e.` at the end of
 * the server's bundle announces what the client can do (compat.c, setup_protocol(): the server turns the letters into
 * compatibility flags and sends these to the client, which then does as told). So the letters must not promise more
 * than the oldest client can do, and a newer one loses nothing but newer abilities:
 *   i incremental recursion (only ever with -r)   L times of symlinks       s names of symlinks by iconv
 *   f safe file list when errors occur            x no hard-link shortcut for xattrs
 *   C checksum seed order                         I --inplace with --partial-dir
 *   v variable-length flags, negotiated checksums (3.2.0)                   u names of id 0 (3.2.0)
 * All are in rsync since 3.2.0, and 3.2.7 and 3.5.0, of Debian 12 and its security updates, send exactly these. The
 * greeting itself (the protocol's number) is negotiated to the lower. Quoting of arguments (--secluded-args, -s) does
 * not matter: no argument of ours passes through the peer.
 */
enum rsync_mode {
        RSYNC_FULL,     /* whole tree, by size and mtime, deleting */
        RSYNC_LIST,     /* the paths of a list, each of them whatever size and mtime say */
        RSYNC_CHECKSUM, /* the paths of a list, by checksum */
};

const char *const *rsync_server_args(enum rsync_mode mode);

/* `shell` is the value of -e, `buffer` holds the formatted ones. At most RSYNC_ARGS_MAX with the final NULL. */
#define RSYNC_ARGS_MAX 20
struct rsync_client {
        const char *argv[RSYNC_ARGS_MAX];
        char shell[64], limit[48];
};
void rsync_client_args(struct rsync_client *ret, enum rsync_mode mode, const char *shell, uint64_t bytes_per_second);

/* rsync's exit code in words; NULL when it has none. */
const char *rsync_exit_text(int code);
