/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/criu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "criu/clean_pages.h"
#include "criu/log.h"
#include "criu/request.h"

/*
 * A dump from the outside:
 *
 *   running --NOTIFY--> waiting --criu_proceed()--> running … --DUMP response--> answered --exit--> done()
 *      |                   |                                                        |
 *      +-------------------+------------------- exit or signal ---------------------+-----------> done()
 *
 * The end is always the end of the process, so that after done() nothing of CRIU can touch the tasks any more. Should
 * this process die first, CRIU sees the socket close when it next wants an answer and lets the tasks go: it is
 * therefore not killed together with its parent.
 */
struct criu {
        struct criu_handlers handlers;
        void *context;
        struct source *socket_source, *child_source;
        int socket;             /* ours of the pair; -1 once closed */
        int images_fd, work_fd; /* kept open under the numbers CRIU was told until it is gone */
        int stderr_fd;          /* memory file: what CRIU says before its log is open */
        pid_t pid;
        int pidfd;
        bool running; /* not reaped yet */
        bool waiting; /* CRIU waits for criu_proceed() */
        bool answered;
        bool cancelled;
        bool committed; /* was told yes at post-dump */
        struct criu_response end;
        int protocol_error; /* negative errno: CRIU sent what we do not understand */
        char *log_file;
        char point[sizeof(((struct criu_response *)0)->point)];
};

/* Numbers of descriptors in the criu process. */
enum { CHILD_SOCKET = 3, CHILD_PAGE_SERVER = 4, CHILD_IMAGES = 5, CHILD_CLEAN_PAGES = 6, CHILD_LATE_PAGES = 7 };

/* Leaves out clean pages. */
#define FILTER PHAUL_LIBEXECDIR "/clean-pages-filter.so"

/* Send buffer of the page connection. */
#define PAGE_BUFFER_BYTES (2 << 20)

/* How long criu_free() waits for a criu that was told to give up. */
#define GRACE_MS 30000

static void close_socket(struct criu *criu)
{
        source_free(criu->socket_source);
        criu->socket_source = NULL;
        if (criu->socket >= 0)
                (void)close(TAKE_FD(criu->socket));
}

void criu_cancel(struct criu *criu)
{
        /* With the yes the tasks are CRIU's to kill, and only its answer tells how that went. */
        if (criu->committed || criu->answered || criu->socket < 0)
                return;
        criu->cancelled = true;
        close_socket(criu);
}

/* A criu that hangs for ever would hold the tasks for ever; only then their risk in its death is the smaller one. */
static void wait_or_kill(const struct criu *criu)
{
        uint64_t deadline = clock_ms() + GRACE_MS, now;
        struct pollfd end = {.fd = criu->pidfd, .events = POLLIN};

        while ((now = clock_ms()) < deadline)
                if (poll(&end, 1, (int)(deadline - now)) > 0)
                        break;
        if (now >= deadline)
                (void)kill(criu->pid, SIGKILL);
        while (waitpid(criu->pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

void criu_free(struct criu *criu)
{
        if (!criu)
                return;
        criu_cancel(criu);
        source_free(criu->child_source);
        if (criu->running)
                wait_or_kill(criu);
        close_socket(criu);
        if (criu->pidfd >= 0)
                (void)close(criu->pidfd);
        if (criu->images_fd >= 0)
                (void)close(criu->images_fd);
        if (criu->work_fd >= 0)
                (void)close(criu->work_fd);
        if (criu->stderr_fd >= 0)
                (void)close(criu->stderr_fd);
        free(criu->log_file);
        free(criu);
}

pid_t criu_pid(const struct criu *criu)
{
        return criu->pid;
}

/* The error lines of a stream, else its last lines. */
static bool read_words(FILE *file, char *ret, size_t size)
{
        if (criu_log_pick(file, ret, size) > 0)
                return true;
        rewind(file);
        return criu_log_tail(file, ret, size) > 0;
}

/* CRIU's own words: its log, else what it put into the response, else what it wrote to stderr. */
static void own_words(const struct criu *criu, char *ret, size_t size)
{
        if (criu_log_errors(criu->work_fd, criu->log_file, ret, size) > 0)
                return;
        if (criu->end.text[0]) {
                AUTO_FILE FILE *text = fmemopen((char *)criu->end.text, strlen(criu->end.text), "r");
                if (text && read_words(text, ret, size))
                        return;
        }
        AUTO_FD int fd = fcntl(criu->stderr_fd, F_DUPFD_CLOEXEC, 3);
        AUTO_FILE FILE *file = fd >= 0 && lseek(fd, 0, SEEK_SET) == 0 ? fdopen(fd, "re") : NULL;
        if (file)
                (void)TAKE_FD(fd);
        if (!file || !read_words(file, ret, size))
                ret[0] = '\0';
}

static void describe_end(const struct criu *criu, int status, struct error *err)
{
        char words[1536];

        /* A success is sent after CRIU has done everything; how it exits then changes nothing. */
        if (criu->answered && criu->end.success)
                return;

        own_words(criu, words, sizeof(words));
        const char *colon = words[0] ? ":\n" : "";
        if (WIFSIGNALED(status))
                (void)error_set(err, EIO, "criu was killed by signal %d%s%s%s%s", WTERMSIG(status),
                                criu->waiting ? " while it waited at " : "", criu->waiting ? criu->point : "", colon,
                                words);
        else if (criu->cancelled)
                (void)error_set_kind(err, ERROR_CANCELLED, ECANCELED, "criu was cancelled");
        else if (criu->protocol_error)
                (void)error_set(err, -criu->protocol_error, "criu's RPC was not understood%s%s", colon, words);
        else if (criu->answered)
                (void)error_set(err, criu->end.code > 0 ? criu->end.code : EIO, "criu dump failed%s%s", colon, words);
        else
                (void)error_set(err, EIO, "criu ended with status %d and without an answer%s%s", WEXITSTATUS(status),
                                colon, words);
}

/* One packet: 1 when a notification is to be delivered, 0 for anything else, -EAGAIN, or -ECONNRESET at the end. */
static int read_packet(struct criu *criu)
{
        uint8_t data[CRIU_PACKET_MAX];
        struct criu_response response;

        ssize_t n = recv(criu->socket, data, sizeof(data), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0)
                return errno == EINTR ? -EAGAIN : -errno;
        if (n == 0)
                return -ECONNRESET;
        int r = n <= (ssize_t)sizeof(data) ? criu_response_parse(data, (size_t)n, &response) : -EMSGSIZE;
        if (r < 0) {
                criu->protocol_error = r;
                return -ECONNRESET;
        }
        if (response.type == CRIU_RESPONSE_END) {
                criu->answered = true;
                criu->end = response;
                return 0;
        }
        memcpy(criu->point, response.point, sizeof(criu->point));
        criu->waiting = true;
        return 1;
}

static void on_socket(int fd, uint32_t events, void *context)
{
        struct criu *criu = context;

        (void)fd;
        (void)events;
        int r = read_packet(criu);
        if (r < 0 && r != -EAGAIN)
                close_socket(criu); /* also tells a criu that confuses us to let the tasks go */
        else if (r > 0)
                criu->handlers.notify(criu, criu->point, criu->context); /* may free criu */
}

static void on_exit_of_child(pid_t pid, int status, void *context)
{
        struct criu *criu = context;
        struct error err = {};

        (void)pid;
        criu->running = false;
        /* The answer may still be in the socket; a notification nobody waits for any more only says how far it got. */
        while (criu->socket >= 0 && read_packet(criu) >= 0)
                ;
        close_socket(criu);
        describe_end(criu, status, &err);
        criu->handlers.done(criu, &err, criu->context); /* may free criu */
}

int criu_proceed(struct criu *criu, bool ok)
{
        uint8_t data[16];

        if (criu->socket < 0)
                return -ENOTCONN;
        if (!criu->waiting)
                return -EALREADY;
        size_t size = criu_request_proceed(ok, data);
        criu->waiting = false;
        criu->committed = ok && strcmp(criu->point, "post-dump") == 0;
        ssize_t n = send(criu->socket, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        return n < 0 ? -errno : 0;
}

static int start(struct criu *criu, const struct criu_dump_options *o, int child_socket, struct error *err)
{
        const char *const argv[] = {o->program ? o->program : "criu", "--no-default-config", "swrk", "3", NULL};
        char clean_pages[40], late_pages[40];
        const char *env[4] = {"LD_PRELOAD=" FILTER};
        size_t n_env = 1;
        struct spawn_fd fds[6] = {
                {.fd = child_socket, .target = CHILD_SOCKET},
                {.fd = criu->stderr_fd, .target = 2},
        };
        struct spawn_options options = {
                .argv = argv,
                .fds = fds,
                .n_fds = 2,
                .new_session = true,
                .keep_from_oom = true,
                .within = o->within,
        };

        if (o->page_server_fd >= 0)
                fds[options.n_fds++] = (struct spawn_fd){.fd = o->page_server_fd, .target = CHILD_PAGE_SERVER};
        if (o->clean_pages_fd >= 0) {
                fds[options.n_fds++] = (struct spawn_fd){.fd = o->clean_pages_fd, .target = CHILD_CLEAN_PAGES};
                (void)snprintf(clean_pages, sizeof(clean_pages), CLEAN_PAGES_ENV "=%d", CHILD_CLEAN_PAGES);
                env[n_env++] = clean_pages;
        }
        if (o->late_pages_fd >= 0) {
                fds[options.n_fds++] = (struct spawn_fd){.fd = o->late_pages_fd, .target = CHILD_LATE_PAGES};
                (void)snprintf(late_pages, sizeof(late_pages), LATE_PAGES_ENV "=%d", CHILD_LATE_PAGES);
                env[n_env++] = late_pages;
        }
        if (n_env > 1)
                options.env = env;
        if (o->within)
                fds[options.n_fds++] = (struct spawn_fd){.fd = criu->images_fd, .target = CHILD_IMAGES};
        int r = spawn(&options, &criu->pid, &criu->pidfd, err);
        if (r < 0)
                return r;
        criu->running = true;
        return 0;
}

/* Fewer sleeps between CRIU's splices and our reads. Only root may go beyond the system's limit; all else is as good.
 */
static void widen(int fd)
{
        int size = PAGE_BUFFER_BYTES;

        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static int prepare(struct criu *criu, const struct criu_dump_options *options)
{
        criu->images_fd = fcntl(options->images_fd, F_DUPFD_CLOEXEC, 3);
        if (criu->images_fd < 0)
                return -errno;
        criu->work_fd = fcntl(options->work_fd, F_DUPFD_CLOEXEC, 3);
        if (criu->work_fd < 0)
                return -errno;
        criu->stderr_fd = memfd_create("criu-stderr", MFD_CLOEXEC);
        if (criu->stderr_fd < 0)
                return -errno;
        criu->log_file = strdup(options->log_file);
        return criu->log_file ? 0 : -ENOMEM;
}

int criu_dump(struct loop *loop, const struct criu_dump_options *options, const struct criu_handlers *handlers,
              void *context, struct criu **ret, struct error *err)
{
        AUTO_FREE uint8_t *request = NULL;
        size_t request_size = 0;
        int pair[2];

        CLEANUP(criu_free_ptr) struct criu *criu = calloc(1, sizeof(*criu));
        if (!criu)
                return error_set(err, ENOMEM, "cannot start criu: out of memory");
        *criu = (struct criu){.handlers = *handlers,
                              .context = context,
                              .socket = -1,
                              .images_fd = -1,
                              .work_fd = -1,
                              .stderr_fd = -1,
                              .pidfd = -1};
        int r = prepare(criu, options);
        if (r < 0)
                return error_errno(err, -r, "cannot start criu");
        r = criu_request_dump(options, options->within ? CHILD_IMAGES : criu->images_fd, criu->work_fd,
                              options->page_server_fd >= 0 ? CHILD_PAGE_SERVER : -1, &request, &request_size);
        if (r < 0)
                return error_errno(err, -r, "cannot describe the dump to criu");

        /* Packets: CRIU asks for the size of each message first, and a stream socket has none. */
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_errno(err, errno, "cannot start criu");
        criu->socket = pair[0];
        AUTO_FD int child_socket = pair[1];

        if (options->page_server_fd >= 0)
                widen(options->page_server_fd);
        r = start(criu, options, child_socket, err);
        if (r < 0)
                return r;
        (void)close(TAKE_FD(child_socket));
        if (send(criu->socket, request, request_size, MSG_NOSIGNAL) < 0 && errno != EPIPE)
                return error_errno(err, errno, "cannot talk to criu");
        r = fd_nonblock(criu->socket);
        if (r == 0)
                r = loop_add_io(loop, criu->socket, EPOLLIN, on_socket, criu, &criu->socket_source);
        if (r == 0)
                r = loop_add_child(loop, criu->pid, on_exit_of_child, criu, &criu->child_source);
        if (r < 0)
                return error_errno(err, -r, "cannot watch criu");
        *ret = TAKE_PTR(criu);
        return 0;
}
