/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-session DIR: one migration on one side. Started by phauld, lives and dies alone; everything it needs is in DIR
 * (session/protocol.h) and everything it decides is in DIR/record before it happens.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "session/protocol.h"
#include "session/session.h"
#include "source/source.h"
#include "target/target.h"

int main(int argc, char *argv[])
{
        CLEANUP(session_free_ptr) struct session *session = NULL;
        struct error err = {0};

        if (argc != 2) {
                (void)fprintf(stderr, "usage: phaul-session DIRECTORY\n");
                return 2;
        }
        log_init("phaul-session", LOG_LEVEL_INFO);
        (void)signal(SIGPIPE, SIG_IGN);
        (void)umask(0077);

        /* Held to the end: two sessions on one record would be two minds. */
        AUTO_FD int lock = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? SESSION_EXIT_BUSY : 2;

        if (session_open(argv[1], &session, &err) < 0) {
                log_error("%s", err.text);
                return error_exit_code(err.kind);
        }
        return session->request.side == SIDE_SOURCE ? source_run(session) : target_run(session);
}
