/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "pages/worker.h"

/*
 * CRIU's side of it (criu/uffd.c): one connection, on which each task sends its pid, as an int, and its userfaultfd
 * with a byte; a dead one sends -pid alone. When all tasks are through the restorer and about to run, one word ends it.
 *
 * As with messages of userfaultfds, system calls write into the ledger: what was taken is not lost with the worker.
 */
#define RESTORE_FINISHED 0x52535446

static bool is_criu(int fd)
{
        struct ucred peer = {0};
        socklen_t size = sizeof(peer);

        /* In the directory of the images, to which only root gets; asked all the same, as for one that is none. */
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof(peer) && peer.uid == 0;
}

static void connected(struct page_worker *w, int fd)
{
        int r;

        w->ledger->head->connection = fd;
        r = page_worker_watch(w, fd, WATCH_CONNECTION);
        if (r < 0)
                page_worker_trouble(w, -r, 0);
}

static bool is_expected(const struct ledger_head *h)
{
        return h->connection < 0 && h->phase == LEDGER_WAITING;
}

void page_intake_accept(struct page_worker *w)
{
        int fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0 && is_expected(w->ledger->head) && is_criu(fd))
                connected(w, fd);
        else if (fd >= 0)
                (void)close(fd);
}

bool page_intake_adopt(struct page_worker *w, int fd)
{
        if (!is_expected(w->ledger->head) || !is_criu(fd))
                return false;
        connected(w, fd);
        return true;
}

static void hang_up(struct page_worker *w, enum ledger_phase phase)
{
        struct ledger_head *h = w->ledger->head;

        __atomic_store_n(&h->phase, (uint32_t)phase, __ATOMIC_RELEASE);
        h->word = 0;
        const int fd = TAKE_FD(h->connection);
        if (fd >= 0)
                (void)close(fd);
}

/* The descriptor that is in the ledger already; -1: none is. */
static int passed(const struct ledger_head *h)
{
        const struct cmsghdr *c = &h->passed.align;
        int fd = -1;

        if (c->cmsg_len == CMSG_LEN(sizeof(fd)) && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        return fd;
}

static int take_descriptor(struct ledger_head *h)
{
        char byte;
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = h->passed.bytes,
                                 .msg_controllen = sizeof(h->passed.bytes)};

        memset(&h->passed, 0, sizeof(h->passed));
        ssize_t n = recvmsg(h->connection, &message, MSG_CMSG_CLOEXEC);
        if (n <= 0)
                return n < 0 ? -errno : -EPIPE;
        return passed(h) < 0 ? -EBADMSG : 0;
}

/* A pid is there, and the task's descriptor is, or follows. */
static int take_task(struct page_worker *w)
{
        struct ledger_head *h = w->ledger->head;
        uint32_t space;

        int r = passed(h) >= 0 ? 0 : take_descriptor(h);
        if (r < 0)
                return r;
        (void)pthread_rwlock_wrlock(&w->lock);
        r = page_ledger_attach(w->ledger, h->word, passed(h), &space);
        if (r == 0)
                r = page_events_watch(w, space);
        (void)pthread_rwlock_unlock(&w->lock);
        if (r < 0)
                return r;
        h->word = 0;
        memset(&h->passed, 0, sizeof(h->passed));
        return 0;
}

/* As far as it is here. 0: wait for more. */
static int take(struct page_worker *w)
{
        struct ledger_head *h = w->ledger->head;
        int r = 0;

        while (r == 0) {
                if (h->word == 0) {
                        ssize_t n = recv(h->connection, &h->word, sizeof(h->word), 0);
                        if (n != (ssize_t)sizeof(h->word))
                                return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -EPIPE;
                }
                if (h->word == RESTORE_FINISHED) {
                        hang_up(w, LEDGER_FILLING);
                        page_fill_begin(w);
                        return 0;
                }
                if (h->word < 0)
                        h->word = 0;
                else
                        r = take_task(w);
        }
        return r == -EAGAIN || r == -EINTR ? 0 : r;
}

/* A CRIU that goes away without the word has failed, and kills what it made. Until the last one is dead we answer. */
void page_intake_read(struct page_worker *w)
{
        const struct ledger_head *h = w->ledger->head;

        if (h->connection >= 0 && take(w) < 0)
                hang_up(w, h->phase == LEDGER_WAITING ? LEDGER_ENDING : (enum ledger_phase)h->phase);
}

int page_intake_recover(struct page_worker *w)
{
        struct ledger_head *h = w->ledger->head;

        if (h->connection < 0)
                return 0;
        int r = page_worker_watch(w, h->connection, WATCH_CONNECTION);
        if (r == 0)
                page_intake_read(w);
        return r;
}
