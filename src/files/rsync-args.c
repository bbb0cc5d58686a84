/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/rsync-args.h"

#include <inttypes.h>
#include <stdio.h>

#include "files/room.h"

/* By default rsync takes times within the same second for equal, and leaves them as they are. */
#define NANOSECONDS "--modify-window=-1"

static const char tree_root[] = ROOM_TREE;

/* --ignore-errors: deleting goes on after a file that shrank while it was read; real errors fail the round anyway. */
static const char *const server_full[] = {"rsync",         "--server",  "-lHogDtpAXrSe.iLsfxCIvu",
                                          "--delete",      "--stats",   "--ignore-errors",
                                          "--numeric-ids", NANOSECONDS, ".",
                                          tree_root,       NULL};
static const char *const server_list[] = {
        "rsync", "--server", "-lHogDtpAXIRSe.LsfxCIvu", "--stats", "--numeric-ids", NANOSECONDS, ".", "/", NULL};
static const char *const server_checksum[] = {
        "rsync", "--server", "-lHogDtpAXcRSe.LsfxCIvu", "--stats", "--numeric-ids", NANOSECONDS, ".", "/", NULL};

const char *const *rsync_server_args(enum rsync_mode mode)
{
        switch (mode) {
        case RSYNC_LIST:
                return server_list;
        case RSYNC_CHECKSUM:
                return server_checksum;
        default:
                return server_full;
        }
}

void rsync_client_args(struct rsync_client *ret, enum rsync_mode mode, const char *shell, uint64_t bytes_per_second)
{
        size_t n = 0;

        ret->argv[n++] = "rsync";
        if (mode == RSYNC_FULL) {
                ret->argv[n++] = "-lHogDtpAXrS";
                ret->argv[n++] = "--delete";
                ret->argv[n++] = "--ignore-errors";
        } else {
                ret->argv[n++] = mode == RSYNC_LIST ? "-lHogDtpAXIRS" : "-lHogDtpAXcRS";
                ret->argv[n++] = "--files-from=-";
                ret->argv[n++] = "--from0";
        }
        ret->argv[n++] = "--stats";
        ret->argv[n++] = "--no-human-readable";
        ret->argv[n++] = "--numeric-ids";
        ret->argv[n++] = NANOSECONDS;
        ret->argv[n++] = "-e";
        (void)snprintf(ret->shell, sizeof(ret->shell), "%s", shell);
        ret->argv[n++] = ret->shell;
        if (bytes_per_second > 0) {
                uint64_t kib = bytes_per_second / 1024 + (bytes_per_second % 1024 != 0);
                (void)snprintf(ret->limit, sizeof(ret->limit), "--bwlimit=%" PRIu64, kib);
                ret->argv[n++] = ret->limit;
        }
        ret->argv[n++] = "--";
        ret->argv[n++] = mode == RSYNC_FULL ? ROOM_TREE "/" : "/";
        ret->argv[n++] = mode == RSYNC_FULL ? "peer:" ROOM_TREE : "peer:/";
        ret->argv[n] = NULL;
}

const char *rsync_exit_text(int code)
{
        static const struct {
                int code;
                const char *text;
        } texts[] = {
                {1, "syntax or usage error"},
                {2, "the two versions of rsync do not understand each other"},
                {3, "error in selecting files and directories"},
                {4, "an option is not supported by this rsync"},
                {5, "the protocol could not be started"},
                {10, "error in socket input or output"},
                {11, "error in file input or output"},
                {12, "the stream to the other host ended early"},
                {13, "error in program diagnostics"},
                {14, "error in communication between its processes"},
                {20, "killed by a signal"},
                {21, "error in waiting for its processes"},
                {22, "out of memory"},
                {23, "some files could not be transferred"},
                {24, "some files vanished meanwhile"},
                {25, "too many deletions"},
                {30, "time-out in sending or receiving"},
                {35, "time-out in connecting"},
                {126, "rsync could not be executed"},
                {127, "rsync is not installed"},
        };

        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
                if (texts[i].code == code)
                        return texts[i].text;
        return NULL;
}
