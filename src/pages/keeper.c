/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "criu/criu.h"
#include "pages/service.h"
#include "pages/worker.h"

/*
 * Three processes with one table of descriptors. A userfaultfd that lies in it, also one that the kernel puts there
 * when a message of a fork is read, is open as long as one of them lives.
 *
 * The keeper has one thread and waits. The worker has several, so it cannot start a process that would work by itself;
 * when its keeper dies it ends its other threads, becomes the keeper, and starts a worker. The standby does nothing
 * until both are dead, and opens nothing at that: it is there for who ends all processes of a name, and so has another
 * one.
 *
 * Whoever comes too late, or twice, does no harm: a worker begins when the one before it has ended, whoever started it
 * (role.h).
 */
#define BREATH_MS 5    /* between a worker that cannot begin and the next */
#define LOOK_MS 5      /* of the standby, and of a worker whose turn has not come */
#define STANDBY_MS 200 /* after which time one that died is missed */
#define STANDBY_NAME "phaul-standby"

static char program_name[256]; /* as the first argument has it */

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

static void nap(unsigned ms)
{
        const struct timespec t = {.tv_nsec = (long)ms * 1000000};

        (void)nanosleep(&t, NULL);
}

/* For ps, pkill and pidof: in the place of the first argument, as far as there is room. */
static void be_called(const char *name)
{
        static size_t room;
        const char *slash = strrchr(name, '/');

        if (!room) {
                room = strlen(program_invocation_name);
                (void)snprintf(program_name, sizeof(program_name), "%s", program_invocation_name);
        }
        memset(program_invocation_name, 0, room);
        (void)snprintf(program_invocation_name, room + 1, "%s", name);
        (void)prctl(PR_SET_NAME, slash ? slash + 1 : name);
}

/* Nobody wants it any more, or there is nothing left to do. */
static bool is_over(const struct page_ledger *ledger)
{
        return __atomic_load_n(&ledger->head->stop, __ATOMIC_ACQUIRE) ||
               __atomic_load_n(&ledger->head->phase, __ATOMIC_ACQUIRE) == LEDGER_DONE;
}

static bool fillers_are_gone(const struct ledger_head *h)
{
        for (size_t i = 0; i < LEDGER_FILLERS_MAX; i++)
                if (!role_is_free(&h->filling[i]))
                        return false;
        return true;
}

/* The worker's; comes back when the keeper is dead. What does not work begins with another worker. */
static void work(struct page_ledger *ledger, pid_t keeper)
{
        enum worker_end end = WORKER_BEREAVED;
        struct error err = {0};

        while (!role_take(&ledger->head->working) && !is_over(ledger))
                nap(LOOK_MS);
        /* Also the threads of one that was killed have to be through with what they were at. */
        while (!fillers_are_gone(ledger->head) && !is_over(ledger))
                nap(LOOK_MS);
        if (is_over(ledger))
                _exit(0);
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

/* Comes back as the keeper. */
static void stand_by(struct page_ledger *ledger)
{
        struct ledger_head *h = ledger->head;

        if (!role_take(&h->standing_by))
                _exit(0);
        be_called(STANDBY_NAME);
        while (!role_is_free(&h->keeping) || !role_is_free(&h->working) || !role_take(&h->keeping)) {
                if (is_over(ledger))
                        _exit(0);
                nap(LOOK_MS);
        }
        be_called(program_name);
        role_leave(&h->standing_by);
}

/* What the keeper has started. */
struct children {
        pid_t worker, standby; /* 0: none */
        bool over;
};

/* In a child that has become a keeper itself: true. */
static bool start_missing(struct page_ledger *ledger, struct children *c)
{
        struct ledger_head *h = ledger->head;
        const pid_t keeper = getpid();

        if (!c->worker && (c->worker = fork_sharing()) == 0) {
                work(ledger, keeper);
                if (!role_take(&h->keeping))
                        _exit(0);
                role_leave(&h->working);
                return true;
        }
        if (!c->standby && role_is_free(&h->standing_by) && (c->standby = fork_sharing()) == 0) {
                stand_by(ledger);
                return true;
        }
        c->worker = c->worker < 0 ? 0 : c->worker;
        c->standby = c->standby < 0 ? 0 : c->standby;
        return false;
}

/* Waits for the end of one, for a while. */
static void look_after(struct children *c, const sigset_t *ends)
{
        const struct timespec t = {.tv_nsec = STANDBY_MS * 1000000L};
        int status = 0;

        (void)sigtimedwait(ends, NULL, &t);
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
                if (pid == c->standby)
                        c->standby = 0;
                if (pid != c->worker)
                        continue;
                c->worker = 0;
                c->over = WIFEXITED(status) && WEXITSTATUS(status) == 0;
                if (WIFEXITED(status) && !c->over)
                        nap(BREATH_MS);
        }
}

int page_service_run(struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;
        struct children children = {0};
        sigset_t ends;

        raise_limit();
        ignore_kind_words();
        (void)sigemptyset(&ends);
        (void)sigaddset(&ends, SIGCHLD);
        (void)sigprocmask(SIG_BLOCK, &ends, NULL);
        int r = page_ledger_open(PAGE_SERVICE_LEDGER, &ledger, err);
        if (r < 0)
                return r;
        if (!role_take(&ledger->head->keeping))
                return error_set(err, EBUSY, "there is a keeper of that ledger already");
        while (!children.over) {
                ledger->head->keeper = getpid();
                if (start_missing(ledger, &children))
                        children = (struct children){0};
                else
                        look_after(&children, &ends);
        }
        return 0;
}
