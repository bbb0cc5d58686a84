/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "criu/criu.h"
#include "pages/service.h"
#include "pages/worker.h"

/*
 * Two processes with one table of descriptors. A userfaultfd that lies in it, also one that the kernel puts there when
 * a message of a fork is read, is open as long as one of them lives.
 *
 * The keeper has one thread and waits. The worker has several, so it cannot start a process that would work by itself;
 * when its keeper dies it ends its other threads, becomes the keeper, and starts a worker.
 */
#define BREATH_MS 5 /* between a worker that cannot begin and the next */

/* Enough for each task and each file. A fork that finds no place for its descriptor would wait for ever. */
static void raise_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* Who stops a unit or a host asks kindly first. The workload is to end before we do, or it sees memory that is empty.
 */
static void ignore_kind_words(void)
{
        const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE};

        for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
                (void)signal(signals[i], SIG_IGN);
}

/* fork(), but for the table of descriptors. Only while there is one thread. */
static pid_t fork_sharing(void)
{
        return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
}

/* The worker's; comes back when the keeper is dead. What does not work begins with another worker. */
static void work(struct page_ledger *ledger, pid_t keeper)
{
        enum worker_end end = WORKER_BEREAVED;
        struct error err = {0};

        ledger->head->worker = getpid();
        ledger->head->workers++;
        int r = page_worker_run(ledger, PAGE_SERVICE_LISTENER, PAGE_SERVICE_IMAGES, keeper, &end, &err);
        if (r < 0)
                (void)snprintf(ledger->head->failure, sizeof(ledger->head->failure), "%.200s", err.text);
        /* One that cannot begin because nobody wants it any more, and the images are gone, is through as well. */
        if (end == WORKER_THROUGH || (r < 0 && ledger->head->stop)) {
                (void)unlinkat(PAGE_SERVICE_IMAGES, CRIU_LAZY_SOCKET, 0);
                (void)unlinkat(PAGE_SERVICE_IMAGES, PAGE_SERVICE_WANTED, 0);
                (void)unlinkat(PAGE_SERVICE_IMAGES, PAGE_SERVICE_HERE, 0);
                _exit(0);
        }
        if (r < 0 && getppid() == keeper)
                _exit(1);
}

int page_service_run(struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;

        raise_limit();
        ignore_kind_words();
        int r = page_ledger_open(PAGE_SERVICE_LEDGER, &ledger, err);
        if (r < 0)
                return r;
        for (;;) {
                const pid_t keeper = getpid();
                int status = 0;

                ledger->head->keeper = keeper;
                pid_t worker = fork_sharing();
                if (worker == 0) {
                        work(ledger, keeper);
                        continue; /* as the keeper */
                }
                while (worker > 0 && waitpid(worker, &status, 0) < 0 && errno == EINTR)
                        ;
                if (worker > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
                        return 0;
                if (worker < 0 || WIFEXITED(status)) {
                        const struct timespec t = {.tv_nsec = BREATH_MS * 1000000};
                        (void)nanosleep(&t, NULL);
                }
        }
}
