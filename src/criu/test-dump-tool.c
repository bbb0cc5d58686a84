/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A dump with this folder's means, for the tests in tests/criu: run where CRIU works.
 *
 *   criu-dump-tool usable
 *   criu-dump-tool workload MEBIBYTES FILE    fills memory; at SIGUSR1 checks it and its threads and writes "ok N" to
 *                                             FILE
 *   criu-dump-tool dump PID IMAGES MODE [ARGUMENT]
 *      MODE  pages          memory by page server into page images of our own
 *            slow           the same, with a sink that often has no room
 *            local          CRIU writes all images itself
 *            refuse POINT   say no at that notification
 *            kill POINT     SIGKILL to criu while it waits there
 *            kill-pages N   SIGKILL to criu after N batches
 *            kill-after N   SIGKILL to criu N milliseconds after its start
 *            cancel-after N criu_cancel() and no page server any more, then
 *            fail-pages N   the sink fails after N batches
 *            leave POINT    exit at once at that notification, as a session that dies
 *            leave-pages N  the same after N batches
 * Prints a line per event; exit 0 when the dump succeeded.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "criu/criu.h"
#include "criu/page_server.h"
#include "criu/pagemap_image.h"

struct dump {
        struct loop *loop;
        struct source *timer;
        struct criu *criu;
        struct page_server *server;
        struct pagemap_writer *writer;
        uint8_t *memory;
        const char *mode, *argument;
        uint64_t batches, reserves, start_us;
        bool pages_over, criu_over;
        int result;
};

static void say(const struct dump *d, const char *what, const char *detail)
{
        uint64_t us = clock_us() - d->start_us;

        printf("%" PRIu64 ".%06" PRIu64 " %s %s\n", us / 1000000, us % 1000000, what, detail);
        (void)fflush(stdout);
}

static bool mode_is(const struct dump *d, const char *mode)
{
        return strcmp(d->mode, mode) == 0;
}

static bool at_limit(const struct dump *d, const char *mode)
{
        return mode_is(d, mode) && d->batches == strtoull(d->argument, NULL, 10);
}

static void cancel(struct dump *d)
{
        say(d, "cancel", "");
        criu_cancel(d->criu);
        page_server_free(d->server);
        d->server = NULL;
        d->pages_over = true;
}

static void on_timer(void *context)
{
        struct dump *d = context;

        if (mode_is(d, "kill-after") && d->criu && !d->criu_over)
                (void)kill(criu_pid(d->criu), SIGKILL);
        else if (mode_is(d, "cancel-after") && d->criu && !d->criu_over)
                cancel(d);
        else if (d->server)
                page_server_resume(d->server);
}

static int sink_reserve(const struct page_batch *batch, void **ret, void *context)
{
        (void)batch;
        struct dump *d = context;

        if (mode_is(d, "slow") && d->reserves++ % 3 == 0) {
                (void)source_set_timer(d->timer, 2);
                return -EAGAIN;
        }
        *ret = d->memory;
        return 0;
}

static int sink_commit(const struct page_batch *batch, void *context)
{
        struct dump *d = context;
        struct error err = {};

        d->batches++;
        if (at_limit(d, "kill-pages"))
                (void)kill(criu_pid(d->criu), SIGKILL);
        if (at_limit(d, "leave-pages"))
                _exit(3);
        if (at_limit(d, "fail-pages"))
                return -ENOSPC;
        int r = pagemap_writer_add(d->writer, batch, batch->flags & PE_PRESENT ? d->memory : NULL, &err);
        if (r < 0)
                say(d, "writer", err.text);
        return r;
}

static int sink_open(uint64_t image, void *context)
{
        struct dump *d = context;
        struct error err = {};
        char text[64];

        (void)snprintf(text, sizeof(text), "type %u id %" PRIu64, (unsigned)(image & 0xff), image >> 8);
        say(d, "image", text);
        int r = pagemap_writer_open(d->writer, image, &err);
        if (r < 0)
                say(d, "writer", err.text);
        return r;
}

static void sink_done(const struct error *err, uint64_t pages, void *context)
{
        struct dump *d = context;
        struct error write_error = {};
        uint64_t written = 0;
        char text[ERROR_TEXT_MAX + 128];

        d->pages_over = true;
        if (err->kind == ERROR_NONE && pagemap_writer_finish(d->writer, &written, &write_error) < 0)
                say(d, "writer", write_error.text);
        (void)snprintf(text, sizeof(text), "%" PRIu64 " read, %" PRIu64 " written, %" PRIu64 " batches: %s", pages,
                       written, d->batches, err->kind == ERROR_NONE ? "ok" : err->text);
        say(d, "pages", text);
}

static void on_notify(struct criu *criu, const char *point, void *context)
{
        struct dump *d = context;
        bool here = d->argument && strcmp(d->argument, point) == 0;

        say(d, "notify", point);
        if (here && mode_is(d, "kill"))
                (void)kill(criu_pid(criu), SIGKILL);
        else if (here && mode_is(d, "leave"))
                _exit(3);
        else
                (void)criu_proceed(criu, !(here && mode_is(d, "refuse")));
}

static void on_done(struct criu *criu, const struct error *err, void *context)
{
        struct dump *d = context;

        (void)criu;
        d->criu_over = true;
        d->result = err->kind == ERROR_NONE ? 0 : -err->code;
        say(d, "criu", err->kind == ERROR_NONE ? "ok" : err->text);
}

static int run_dump(struct dump *d, pid_t pid, const char *images)
{
        static const struct page_sink sink = {sink_reserve, sink_commit, sink_open, sink_done};
        static const struct criu_handlers handlers = {on_notify, on_done};
        struct error err = {};
        int pair[2] = {-1, -1};

        AUTO_FD int images_fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (images_fd < 0 || loop_new(&d->loop) < 0 || loop_add_timer(d->loop, 3600000, on_timer, d, &d->timer) < 0 ||
            pagemap_writer_new(images_fd, &d->writer) < 0)
                return -EIO;
        d->pages_over = mode_is(d, "local");
        if (!d->pages_over) {
                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                        return -errno;
                if (page_server_new(d->loop, pair[0], &sink, d, &d->server) < 0)
                        return -EIO;
        }
        const struct criu_dump_options options = {
                .pid = pid,
                .images_fd = images_fd,
                .work_fd = images_fd,
                .log_file = "dump.log",
                .page_server_fd = pair[1],
                .clean_pages_fd = -1,
                .late_pages_fd = -1,
                .shell_job = true,
                .skip_network_lock = true,
        };
        int r = criu_dump(d->loop, &options, &handlers, d, &d->criu, &err);
        if (pair[1] >= 0)
                (void)close(pair[1]);
        if (r < 0) {
                say(d, "start", err.text);
                return r;
        }
        if ((mode_is(d, "kill-after") || mode_is(d, "cancel-after")) &&
            source_set_timer(d->timer, strtoull(d->argument, NULL, 10)) < 0)
                return -EIO;
        while (!d->criu_over || !d->pages_over)
                if (loop_run_once(d->loop, -1) < 0)
                        return -EIO;
        return d->result;
}

static int dump(int argc, char **argv)
{
        struct dump d = {.mode = argv[4], .argument = argc > 5 ? argv[5] : NULL, .start_us = clock_us()};

        d.memory = malloc((size_t)PAGE_BATCH_MAX * PAGE_BYTES);
        int r = d.memory ? run_dump(&d, (pid_t)strtol(argv[2], NULL, 10), argv[3]) : -ENOMEM;
        criu_free(d.criu);
        page_server_free(d.server);
        pagemap_writer_free(d.writer);
        source_free(d.timer);
        loop_free(d.loop);
        free(d.memory);
        return r < 0 ? 1 : 0;
}

static uint64_t value_at(uint64_t i)
{
        return (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Every 64th page of the sparse area is used, so that the dump has many small batches too. */
#define SPARSE_BYTES (16U << 20)
#define SPARSE_STEP (64U * PAGE_BYTES)

static bool memory_is_right(const uint64_t *own, const uint64_t *shared, const uint8_t *sparse, size_t words)
{
        for (size_t i = 0; i < words; i++)
                if (own[i] != value_at(i))
                        return false;
        for (size_t i = 0; i < words / 16; i++)
                if (shared[i] != value_at(~i))
                        return false;
        for (size_t i = 0; i < SPARSE_BYTES; i++)
                if (sparse[i] != (i % SPARSE_STEP == 0 ? (uint8_t)(i / SPARSE_STEP + 1) : 0))
                        return false;
        return true;
}

/* Threads are where CRIU has its most delicate moments: each counts, and must go on counting. */
#define THREADS 3
static _Atomic unsigned long counters[THREADS];

static void *count(void *counter)
{
        const struct timespec pause = {.tv_nsec = 500000};

        for (;;) {
                ++*(_Atomic unsigned long *)counter;
                (void)nanosleep(&pause, NULL);
        }
        return NULL;
}

static bool threads_count(void)
{
        const struct timespec pause = {.tv_nsec = 50000000};
        unsigned long before[THREADS];
        bool all = true;

        for (int i = 0; i < THREADS; i++)
                before[i] = counters[i];
        (void)nanosleep(&pause, NULL);
        for (int i = 0; i < THREADS; i++)
                all = all && counters[i] > before[i];
        return all;
}

static int start_threads(void)
{
        for (int i = 0; i < THREADS; i++) {
                pthread_t thread;
                int r = pthread_create(&thread, NULL, count, &counters[i]);
                if (r != 0)
                        return -r;
        }
        return 0;
}

static int workload(size_t bytes, const char *file)
{
        const int protection = PROT_READ | PROT_WRITE;
        uint64_t *own = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t *shared = mmap(NULL, bytes / 16, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint8_t *sparse = mmap(NULL, SPARSE_BYTES, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        size_t words = bytes / sizeof(*own);
        sigset_t set;

        if (own == MAP_FAILED || shared == MAP_FAILED || sparse == MAP_FAILED)
                return 1;
        for (size_t i = 0; i < words; i++)
                own[i] = value_at(i);
        for (size_t i = 0; i < words / 16; i++)
                shared[i] = value_at(~i);
        for (size_t i = 0; i < SPARSE_BYTES; i += SPARSE_STEP)
                sparse[i] = (uint8_t)(i / SPARSE_STEP + 1);
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGUSR1);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        if (start_threads() < 0)
                return 1;
        for (unsigned n = 0;; n++) {
                char text[64];
                int length = snprintf(text, sizeof(text), "%s %u\n",
                                      !memory_is_right(own, shared, sparse, words) ? "memory is wrong"
                                      : !threads_count()                           ? "threads stand"
                                                                                   : "ok",
                                      n);
                if (fd_write_file(AT_FDCWD, file, text, (size_t)length, 0644) < 0)
                        return 1;
                while (sigwaitinfo(&set, NULL) < 0)
                        ;
        }
}

static int usable(void)
{
        char version[32];
        struct error err = {};

        int r = criu_usable(version, &err);
        printf("%s\n", r < 0 ? err.text : version);
        return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
        if (argc == 2 && strcmp(argv[1], "usable") == 0)
                return usable();
        if (argc == 4 && strcmp(argv[1], "workload") == 0)
                return workload(strtoul(argv[2], NULL, 10) << 20, argv[3]);
        if (argc >= 5 && strcmp(argv[1], "dump") == 0)
                return dump(argc, argv);
        (void)fprintf(stderr,
                      "usage: criu-dump-tool usable | workload MEBIBYTES FILE | dump PID IMAGES MODE [ARGUMENT]\n");
        return 2;
}
