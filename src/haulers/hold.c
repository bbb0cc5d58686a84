/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-hold: CRIU's action script on a restore, whoever runs CRIU. It is run without arguments and waited for; what is
 * going on stands in the environment. At "post-restore" the copy is complete and has not executed one instruction: this
 * program tells the session ($PHAUL_HOLD_SOCKET) and stays until the migration's record file ($PHAUL_RECORD) says what
 * to do:
 *
 *      STARTING, RUNNING                  exit 0: CRIU lets the tasks go
 *      DISCARDING, DISCARDED, ABORTED     exit 1: CRIU destroys them
 *
 * The record is the only thing believed when it comes to going on. The session's "go" merely makes us look at once
 * instead of within 200 ms; its "no" is honoured as long as the record does not say that the copy is starting, since
 * refusing is always safe. A session that dies changes nothing: we connect to the next one, or wait for ever.
 *
 * That it said yes, and that CRIU came to "network-unlock" and "pre-resume" after it, is noted beside the images
 * (criu/stage.h), so that a restore that ends there is known to have, or not to have, let a task go.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "criu/stage.h"
#include "migration/journal.h"

#define LOOK_MS 200

enum verdict { WAIT, GO, REFUSE };

static enum verdict look(const char *record)
{
        char state[64];

        if (journal_peek_state(record, state, sizeof(state)) < 0)
                return WAIT;
        if (strcmp(state, "STARTING") == 0 || strcmp(state, "RUNNING") == 0)
                return GO;
        if (strcmp(state, "DISCARDING") == 0 || strcmp(state, "DISCARDED") == 0 || strcmp(state, "ABORTED") == 0)
                return REFUSE;
        return WAIT;
}

/* Connect and say who is held; -1 when nobody listens. */
static int announce(const char *path, const char *pid)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        char text[64];

        if (!path || strlen(path) >= sizeof(address.sun_path))
                return -1;
        memcpy(address.sun_path, path, strlen(path) + 1);
        AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -1;
        int n = snprintf(text, sizeof(text), "{\"held\":%ld}", strtol(pid, NULL, 10));
        if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
                return -1;
        return TAKE_FD(fd);
}

/* Wait up to LOOK_MS for a word. -1: the session is gone, 0: nothing new, 1: it said no. */
static int listen_to(int fd)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char word[16];

        if (poll(&p, 1, LOOK_MS) <= 0)
                return 0;
        ssize_t n = recv(fd, word, sizeof(word), MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
        if (n == 0)
                return -1;
        return n == 2 && memcmp(word, "no", 2) == 0;
}

/* Without CRIU there is nothing left to hold, and the session must see that. */
static bool end_with_criu(void)
{
        pid_t parent = getppid();

        return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

static int note(int images, enum criu_stage stage)
{
        return images < 0 ? -ENOENT : criu_stage_set(images, stage);
}

/* Waits while tests want it to, as session/fault_point.h has it for sessions. */
static void fault_point(const char *action)
{
#ifdef PHAUL_FAULT_POINTS
        char path[100];

        (void)snprintf(path, sizeof(path), "/run/phaul/faults/hold-%.40s", action);
        for (int i = 0; i < 1000 && access(path, F_OK) == 0; i++)
                (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
#else
        (void)action;
#endif
}

/* 0: let it go. */
static int hold(const char *record, const char *path, const char *pid)
{
        AUTO_FD int fd = -1;

        for (;;) {
                enum verdict verdict = look(record);
                if (verdict != WAIT)
                        return verdict == GO ? 0 : 1;
                if (fd < 0)
                        fd = announce(path, pid);
                if (fd < 0) {
                        (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
                        continue;
                }
                int word = listen_to(fd);
                if (word == 1 && look(record) != GO)
                        return 1;
                if (word < 0) {
                        (void)close(TAKE_FD(fd));
                        (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
                }
        }
}

int main(void)
{
        const char *action = getenv("CRTOOLS_SCRIPT_ACTION");
        const char *record = getenv("PHAUL_RECORD");
        const char *directory = getenv("CRTOOLS_IMAGE_DIR");
        const char *pid = getenv("CRTOOLS_INIT_PID");

        if (!action)
                return 0;
        AUTO_FD int images = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (!end_with_criu())
                return 1;
        if (strcmp(action, "pre-restore") == 0)
                return note(images, CRIU_STAGE_NONE) < 0;
        if (strcmp(action, "post-restore") == 0) {
                /* Without a record nobody could ever tell us to go on; what cannot be noted must not happen. */
                if (!record || !pid || hold(record, getenv("PHAUL_HOLD_SOCKET"), pid) != 0)
                        return 1;
                return note(images, CRIU_STAGE_RELEASED) < 0;
        }
        fault_point(action);
        if (strcmp(action, "network-unlock") == 0)
                (void)note(images, CRIU_STAGE_UNLOCKED);
        /* CRIU goes on whatever we answer here, but not before we do. */
        if (strcmp(action, "pre-resume") == 0)
                while (note(images, CRIU_STAGE_RESUMED) < 0)
                        (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        return 0;
}
