/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/service.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "criu/criu.h"
#include "criu/lazy_areas.h"
#include "criu/page_server.h"
#include "pages/ledger.h"

/* The session's side. Whether the service lives is told by a lock on the ledger, which it inherits. */

#define STOP_MS 5000
#define POLL_MS 5

/*
 * What CRIU asks of a userfaultfd, and one thing more: before Linux 5.18, whose first feature the last is, two changes
 * of an address space at a time could make the kernel take a page that it must refuse.
 */
#define FEATURES_NEEDED                                                                                                \
        (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |   \
         UFFD_FEATURE_EXACT_ADDRESS)

/* By the system's settings, or by the device that criu/lazy-within.c opens for them (Linux 6.1). */
static bool anybody_may(void)
{
        AUTO_FREE char *text = NULL;

        return access("/dev/userfaultfd", R_OK | W_OK) == 0 ||
               (fd_read_file(AT_FDCWD, "/proc/sys/vm/unprivileged_userfaultfd", 16, &text, NULL) == 0 &&
                text[0] == '1');
}

int page_service_possible(int images_fd, struct error *err)
{
        struct uffdio_api api = {.api = UFFD_API};

        AUTO_FD int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return error_set(err, EOPNOTSUPP, "userfaultfd: %s", strerror(errno));
        if (ioctl(fd, UFFDIO_API, &api) < 0)
                return error_set(err, EOPNOTSUPP, "UFFDIO_API: %s", strerror(errno));
        if ((api.features & FEATURES_NEEDED) != FEATURES_NEEDED)
                return error_set(err, EOPNOTSUPP, "the kernel's userfaultfd is too old (Linux 5.18)");
        if (lazy_areas_need_permission(images_fd) && !anybody_may())
                return error_set(err, EOPNOTSUPP,
                                 "tasks in a user namespace may make no userfaultfd here: vm.unprivileged_userfaultfd "
                                 "is 0, and there is no /dev/userfaultfd");
        return 0;
}

/* -- the ledger --------------------------------------------------------------------------------------------------- */

struct filling_in {
        struct page_ledger *ledger;
        uint32_t pid, space; /* 0: none yet */
        struct {
                unsigned round;
                uint32_t number;
        } files[PAGEMAP_ROUNDS_MAX + 2]; /* of this task */
        size_t n_files;
};

static int find_file(struct filling_in *f, const struct page_owed *o, uint32_t *ret)
{
        char name[PAGE_OWED_FILE];

        for (size_t i = 0; i < f->n_files; i++)
                if (f->files[i].round == o->round) {
                        *ret = f->files[i].number;
                        return 0;
                }
        if (f->n_files == sizeof(f->files) / sizeof(f->files[0]))
                return -E2BIG;
        int r = page_ledger_add_file(f->ledger, page_owed_file(o, name), o->file_pages, ret);
        if (r < 0)
                return r;
        f->files[f->n_files].round = o->round;
        f->files[f->n_files++].number = *ret;
        return 0;
}

static int owe(const struct page_owed *o, void *context)
{
        struct filling_in *f = context;
        uint32_t file = 0;
        int r = 0;

        if (f->pid != o->pid) {
                if (f->pid)
                        r = page_ledger_owe(f->ledger, f->space);
                if (r == 0)
                        r = page_ledger_add_space(f->ledger, (int32_t)o->pid, &f->space);
                f->pid = o->pid;
                f->n_files = 0;
        }
        if (r == 0)
                r = find_file(f, o, &file);
        if (r == 0)
                r = page_ledger_add_run(f->ledger, f->space, o->vaddr, o->n_pages, file, o->position);
        if (r == 0 && o->left)
                r = page_ledger_add_away(f->ledger, PAGE_IMAGE(PAGE_IMAGE_TASK, o->pid), o->vaddr, o->n_pages, file,
                                         o->position);
        return r;
}

static int fill_in(struct page_ledger *ledger, const struct page_service_options *o, struct error *err)
{
        struct filling_in f = {.ledger = ledger};

        ledger->head->keep = o->keep;
        int r = pagemap_writer_owed(o->writer, owe, &f);
        if (r == 0 && f.pid)
                r = page_ledger_owe(ledger, f.space);
        return r < 0 ? error_errno(err, -r, "cannot write the ledger of pages") : 0;
}

/* -- start -------------------------------------------------------------------------------------------------------- */

/* By the way of the descriptor, because a socket's path must not be long. */
static int listen_in(int images_fd, struct error *err)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" CRIU_LAZY_SOCKET, images_fd);
        AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
                return error_errno(err, errno, "cannot listen for CRIU");
        return TAKE_FD(fd);
}

static int run_program(const struct page_service_options *o, int ledger_fd, pid_t *ret_pid, struct error *err)
{
        const char *const argv[] = {o->program, NULL};

        AUTO_FD int listener = listen_in(o->images_fd, err);
        if (listener < 0)
                return listener;
        const struct spawn_fd fds[] = {{.fd = STDERR_FILENO, .target = STDERR_FILENO},
                                       {.fd = ledger_fd, .target = PAGE_SERVICE_LEDGER},
                                       {.fd = listener, .target = PAGE_SERVICE_LISTENER},
                                       {.fd = o->images_fd, .target = PAGE_SERVICE_IMAGES}};
        const struct spawn_options options = {.argv = argv,
                                              .fds = fds,
                                              .n_fds = sizeof(fds) / sizeof(fds[0]),
                                              .new_session = true,
                                              .keep_from_oom = true};
        int r = spawn(&options, ret_pid, NULL, err);
        if (r < 0)
                (void)unlinkat(o->images_fd, CRIU_LAZY_SOCKET, 0);
        return r;
}

static int make_bells(int images_fd, struct error *err)
{
        if (mkfifoat(images_fd, PAGE_SERVICE_WANTED, 0600) < 0 || mkfifoat(images_fd, PAGE_SERVICE_HERE, 0600) < 0)
                return error_errno(err, errno, "cannot make a FIFO");
        return 0;
}

/*
 * One of each task, one of each file of pages, and as many again for children that are forked before all is given: one
 * whose descriptor found no place would wait for ever.
 */
static int has_descriptors(const struct ledger_head *h, struct error *err)
{
        struct rlimit limit;
        const uint64_t needed = (uint64_t)h->n_files + 2 * (uint64_t)h->n_spaces + FD_RESERVE;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max == RLIM_INFINITY || needed <= limit.rlim_max)
                return 0;
        return error_set(err, EMFILE, "the hard limit on open files, %llu, is too low for %u processes",
                         (unsigned long long)limit.rlim_max, h->n_spaces);
}

static int start_with(const struct page_service_options *o, int fd, pid_t *ret_pid, struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;

        int r = page_ledger_create(fd, &ledger, err);
        if (r == 0)
                r = fill_in(ledger, o, err);
        if (r == 0 && ledger->head->total == 0)
                return 1;
        if (r == 0 && ledger->head->n_away)
                r = make_bells(o->images_fd, err);
        if (r == 0)
                r = has_descriptors(ledger->head, err);
        if (r == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
                r = error_errno(err, errno, "cannot lock %s", o->path);
        return r < 0 ? r : run_program(o, fd, ret_pid, err);
}

int page_service_start(const struct page_service_options *options, pid_t *ret_pid, struct error *err)
{
        AUTO_FD int fd = open(options->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return error_errno(err, errno, "cannot make %s", options->path);
        int r = start_with(options, fd, ret_pid, err);
        if (r != 0)
                (void)unlink(options->path);
        return r;
}

/* -- afterwards --------------------------------------------------------------------------------------------------- */

static int open_ledger(const char *path, int *ret_fd, struct page_ledger **ret, struct error *err)
{
        AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return errno == ENOENT ? error_set(err, ENOENT, "there is no %s", path)
                                       : error_errno(err, errno, "cannot open %s", path);
        int r = page_ledger_open(fd, ret, err);
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

static bool is_running(int fd)
{
        if (flock(fd, LOCK_SH | LOCK_NB) < 0)
                return errno == EWOULDBLOCK;
        (void)flock(fd, LOCK_UN);
        return false;
}

int page_service_look(const char *path, struct page_service_status *ret, struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;
        AUTO_FD int fd = -1;

        int r = open_ledger(path, &fd, &ledger, err);
        if (r < 0)
                return r;
        const struct ledger_head *h = ledger->head;
        *ret = (struct page_service_status){
                .running = is_running(fd),
                .through = h->phase == LEDGER_DONE,
                .filling = h->phase == LEDGER_FILLING,
                .total_bytes = h->total * PAGE_BYTES,
                .given_bytes = (h->settled < h->total ? h->settled : h->total) * PAGE_BYTES,
                .workers = h->workers,
                .trouble = h->trouble,
                .away_bytes = (h->total_away - h->arrived) * PAGE_BYTES,
        };
        memcpy(ret->failure, h->failure, sizeof(ret->failure) - 1);
        return 0;
}

int page_service_belongs(const char *path, pid_t root, struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;
        AUTO_FD int fd = -1;

        int r = open_ledger(path, &fd, &ledger, err);
        if (r == 0)
                ledger->head->root = root;
        return r;
}

bool page_service_brings(const char *directory, pid_t root)
{
        AUTO_DIR DIR *dir = opendir(directory);
        char path[512];

        for (const struct dirent *e; dir && (e = readdir(dir));) {
                CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;
                const size_t n = strlen(e->d_name);
                AUTO_FD int fd = -1;

                if (n <= sizeof(PAGE_SERVICE_LEDGER_ENDING) - 1 ||
                    strcmp(e->d_name + n - (sizeof(PAGE_SERVICE_LEDGER_ENDING) - 1), PAGE_SERVICE_LEDGER_ENDING) != 0 ||
                    snprintf(path, sizeof(path), "%s/%s", directory, e->d_name) >= (int)sizeof(path))
                        continue;
                if (open_ledger(path, &fd, &ledger, NULL) == 0 && ledger->head->root == root && is_running(fd))
                        return true;
        }
        return false;
}

int page_service_stop(const char *path, struct error *err)
{
        CLEANUP(page_ledger_free_ptr) struct page_ledger *ledger = NULL;
        const uint64_t deadline = clock_ms() + STOP_MS;
        struct error none = {0};
        AUTO_FD int fd = -1;

        int r = open_ledger(path, &fd, &ledger, &none);
        /* What is no ledger was not complete when its maker died: there is no service. */
        if (r == 0) {
                __atomic_store_n(&ledger->head->stop, 1, __ATOMIC_RELEASE);
                while (is_running(fd)) {
                        const struct timespec t = {.tv_nsec = POLL_MS * 1000000};
                        if (clock_ms() >= deadline)
                                return error_set(err, ETIMEDOUT, "the page service does not end");
                        (void)nanosleep(&t, NULL);
                }
        }
        if (unlink(path) < 0 && errno != ENOENT)
                return error_errno(err, errno, "cannot remove %s", path);
        return 0;
}
