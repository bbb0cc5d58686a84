/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/worker.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "pages/service.h"

#define EVENTS_MAX 64
#define TICK_MS 50   /* the session's wish to end it is seen then */
#define LOOK_MS 500  /* tasks that died say nothing */
#define AGAIN_US 20U /* who posted a message must run before we can go on */

int page_worker_watch(struct page_worker *w, int fd, uint32_t what)
{
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = what};

        return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST ? -errno : 0;
}

/* For the session to tell; it goes on. */
void page_worker_trouble(struct page_worker *w, int error, uint64_t at)
{
        struct ledger_head *h = w->ledger->head;

        h->trouble = error;
        h->trouble_at = at;
}

/* -- faults ------------------------------------------------------------------------------------------------------- */

static void let_go(struct page_worker *w, uint32_t space)
{
        (void)pthread_rwlock_wrlock(&w->lock);
        page_events_let_go(w, space);
        (void)pthread_rwlock_unlock(&w->lock);
}

/* False: not now. */
static bool answer(struct page_worker *w, const struct worker_fault *f)
{
        int r = 0;

        (void)pthread_rwlock_rdlock(&w->lock);
        if (w->ledger->spaces[f->space].state == SPACE_LIVE)
                r = page_place_fault(w, f->space, f->vaddr);
        (void)pthread_rwlock_unlock(&w->lock);
        if (r == -EBUSY)
                page_waiting_add(w, f);
        if (r == 0 || r == -EBUSY) {
                page_fill_around(w, f);
                r = 0;
        }
        if (r == -ESRCH) {
                let_go(w, f->space);
                r = 0;
        }
        return r == 0;
}

/*
 * Until none is left, unless nothing is answered any more. What makes the kernel refuse pages is a message, so those
 * are taken in between; there may be more faults then.
 */
static void answer_all(struct page_worker *w)
{
        for (unsigned futile = 0; w->n_faults && futile < 1000;) {
                size_t left = 0;
                for (size_t i = 0; i < w->n_faults; i++)
                        if (!answer(w, &w->faults[i]))
                                w->faults[left++] = w->faults[i];
                futile = left < w->n_faults ? 0 : futile + 1;
                w->n_faults = left;
                for (size_t i = 0; i < left; i++)
                        page_events_take(w, w->faults[i].space);
                if (left) {
                        const struct timespec t = {.tv_nsec = AGAIN_US * 1000};
                        (void)nanosleep(&t, NULL);
                }
        }
}

/* -- the end ------------------------------------------------------------------------------------------------------ */

/* Of the dead, and while filling of those who have all they are owed. */
static void sweep(struct page_worker *w)
{
        const uint64_t now = clock_ms();
        const bool look = now - w->looked_ms >= LOOK_MS, filling = page_worker_is_filling(w);

        for (uint32_t i = 0; i < w->ledger->head->n_spaces; i++) {
                const struct ledger_space *s = &w->ledger->spaces[i];
                bool over = __atomic_load_n(&w->dead[i], __ATOMIC_ACQUIRE);

                if (s->state != SPACE_LIVE)
                        continue;
                if (!over && filling && __atomic_load_n(&w->owed[i], __ATOMIC_ACQUIRE) == 0)
                        over = true;
                if (!over && look)
                        over = !page_place_alive(s->uffd);
                if (over)
                        let_go(w, i);
        }
        if (look)
                w->looked_ms = now;
}

static bool is_over(const struct page_worker *w)
{
        const struct ledger_head *h = w->ledger->head;

        /* Done: by a worker that was killed before it could say so. */
        if (__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE) || h->phase == LEDGER_DONE)
                return true;
        if (h->phase != LEDGER_FILLING && h->phase != LEDGER_ENDING)
                return false;
        /* One that never came was never restored. */
        for (uint32_t i = 0; i < h->n_spaces; i++)
                if (w->ledger->spaces[i].state == SPACE_LIVE)
                        return false;
        return true;
}

/* -- the beginning ------------------------------------------------------------------------------------------------ */

/* Of the table of descriptors, what the ledger does not know was some earlier worker's own. */
static void close_strays(struct page_worker *w, int images_fd)
{
        const struct ledger_head *h = w->ledger->head;
        AUTO_DIR DIR *dir = opendir("/proc/self/fd");

        for (const struct dirent *e; dir && (e = readdir(dir));) {
                const int fd = atoi(e->d_name);
                bool known = fd <= PAGE_SERVICE_IMAGES || fd == dirfd(dir) || fd == w->listener || fd == images_fd ||
                             fd == w->epoll || fd == w->keeper_fd || fd == h->connection || fd == w->wanted_bell ||
                             fd == w->here_bell;
                for (uint32_t i = 0; !known && i < h->n_files; i++)
                        known = w->ledger->files[i].fd == fd;
                for (uint32_t i = 0; !known && i < h->n_spaces; i++)
                        known = w->ledger->spaces[i].state == SPACE_LIVE && w->ledger->spaces[i].uffd == fd;
                if (!known && e->d_name[0] != '.' && !page_intake_adopt(w, fd))
                        (void)close(fd);
        }
}

static int watch_keeper(struct page_worker *w, pid_t keeper)
{
        w->keeper_fd = (int)syscall(SYS_pidfd_open, keeper, 0);
        if (w->keeper_fd < 0 && errno != ESRCH)
                return -errno;
        /* It may have died before we looked, and the number be another's. */
        w->keeper_gone = w->keeper_fd < 0 || getppid() != keeper;
        if (w->keeper_gone)
                return 0;
        return page_worker_watch(w, w->keeper_fd, WATCH_KEEPER);
}

/* What the ledger holds becomes ours; who waits since another took his fault asks again. */
static int go_on(struct page_worker *w)
{
        int r = 0;

        for (uint32_t i = 0; i < w->ledger->head->n_spaces; i++) {
                if (w->ledger->spaces[i].state != SPACE_FREE)
                        page_events_count(w, i);
                if (r == 0 && w->ledger->spaces[i].state == SPACE_LIVE)
                        r = page_events_watch(w, i);
        }
        if (r == 0)
                r = page_events_recover(w);
        if (r == 0)
                r = page_intake_recover(w);
        if (r == 0 && page_worker_is_filling(w))
                page_store_release(w->store);
        for (uint32_t i = 0; i < w->ledger->head->n_spaces; i++)
                if (w->ledger->spaces[i].state == SPACE_LIVE)
                        page_place_wake_all(w->ledger->spaces[i].uffd);
        return r;
}

static int make_locks(struct page_worker *w)
{
        pthread_rwlockattr_t attributes;

        if (pthread_rwlockattr_init(&attributes) != 0)
                return -ENOMEM;
        /* Or those who fill would keep out the one who takes messages. */
        (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        int r = -pthread_rwlock_init(&w->lock, &attributes);
        (void)pthread_rwlockattr_destroy(&attributes);
        if (r == 0)
                r = -pthread_mutex_init(&w->mutex, NULL);
        if (r == 0)
                r = -pthread_cond_init(&w->more, NULL);
        return r;
}

static int begin(struct page_worker *w, int images_fd, pid_t keeper, struct error *err)
{
        w->owed = calloc(LEDGER_SPACES_MAX, sizeof(*w->owed));
        w->dead = calloc(LEDGER_SPACES_MAX, sizeof(*w->dead));
        w->epoll = epoll_create1(EPOLL_CLOEXEC);
        int r = w->owed && w->dead ? w->epoll < 0 ? -errno : 0 : -ENOMEM;
        if (r == 0)
                r = make_locks(w);
        if (r == 0)
                r = watch_keeper(w, keeper);
        if (r == 0)
                r = page_worker_watch(w, w->listener, WATCH_LISTENER);
        if (r == 0)
                r = page_waiting_begin(w, images_fd);
        if (r < 0)
                return error_errno(err, -r, "a worker of the page service cannot begin");
        r = page_store_new(w->ledger, images_fd, &w->store, err);
        if (r < 0)
                return r;
        /* Where system calls write for us there must be a page at all times. Not allowed to: it is in use all the time.
         */
        (void)mlock(w->ledger->head, sizeof(*w->ledger->head));
        r = go_on(w);
        if (r == 0)
                r = page_fill_start(w);
        if (r < 0)
                return error_errno(err, -r, "a worker of the page service cannot go on");
        close_strays(w, images_fd);
        return 0;
}

static void done(struct page_worker *w)
{
        page_fill_stop(w);
        page_waiting_end(w);
        page_store_free(w->store);
        free(w->owed);
        free(w->dead);
        if (w->epoll >= 0)
                (void)close(w->epoll);
        if (w->keeper_fd >= 0)
                (void)close(w->keeper_fd);
}

static void on_event(struct page_worker *w, uint32_t what)
{
        if (what == WATCH_LISTENER)
                page_intake_accept(w);
        else if (what == WATCH_CONNECTION)
                page_intake_read(w);
        else if (what == WATCH_KEEPER)
                w->keeper_gone = true;
        else if (what == WATCH_HERE)
                page_waiting_look(w);
        else
                page_events_take(w, what);
}

static void serve(struct page_worker *w)
{
        struct epoll_event events[EVENTS_MAX];

        while (!w->keeper_gone && !w->stuck && !is_over(w)) {
                int n = epoll_wait(w->epoll, events, EVENTS_MAX, w->n_faults ? 1 : TICK_MS);
                for (int i = 0; i < n; i++)
                        on_event(w, events[i].data.u32);
                answer_all(w);
                sweep(w);
                if (page_worker_is_filling(w))
                        page_fill_nudge(w);
        }
}

int page_worker_run(struct page_ledger *ledger, int listener, int images_fd, pid_t keeper, enum worker_end *ret,
                    struct error *err)
{
        CLEANUP(done)
        struct page_worker w = {.ledger = ledger,
                                .listener = listener,
                                .epoll = -1,
                                .keeper_fd = -1,
                                .wanted_bell = -1,
                                .here_bell = -1};

        int r = begin(&w, images_fd, keeper, err);
        if (r < 0)
                return r;
        serve(&w);
        if (w.stuck)
                return error_set(err, EIO, "a message of a userfaultfd cannot be followed");
        *ret = is_over(&w) ? WORKER_THROUGH : WORKER_BEREAVED;
        if (*ret == WORKER_THROUGH)
                __atomic_store_n(&ledger->head->phase, LEDGER_DONE, __ATOMIC_RELEASE);
        return 0;
}
