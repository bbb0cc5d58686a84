/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "files/complaints.h"
#include "files/counters.h"
#include "files/tree-fds.h"

#define ALSO_MAX (1U << 20)

struct output {
        int fd;
        struct source *source;
};

struct files_job {
        struct loop *loop;
        files_done_fn done;
        void *context;
        bool live; /* the tree is in use: files may vanish */
        pid_t pid; /* leader of a session; -1 once reaped */
        struct source *child;
        struct output statistics, stderr_;
        struct line_reader lines;
        struct complaints complaints;
        struct files_result result;
        struct files_counters *counters; /* sender */
        int control, also;               /* sender; -1 */
        int status;
        bool ended;
};

/* For tests and for running from a build directory; phaul's programs are never setuid. */
static int tool_path(const char *name, char *ret, size_t size)
{
        const char *dir = secure_getenv("PHAUL_LIBEXECDIR");

        int n = snprintf(ret, size, "%s/%s", dir && *dir == '/' ? dir : PHAUL_LIBEXECDIR, name);
        return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static void output_close(struct output *o)
{
        source_free(TAKE_PTR(o->source));
        if (o->fd >= 0)
                (void)close(TAKE_FD(o->fd));
}

/* All of the session: rsync's other processes keep the leader's group. */
static void kill_group(pid_t leader)
{
        (void)kill(-leader, SIGKILL);
        (void)kill(leader, SIGKILL);
}

/* The leader is gone and both pipes have ended. The job may be freed in `done`. */
static void finish_if_over(struct files_job *job)
{
        struct error err = {0};

        if (!job->ended || job->statistics.fd >= 0 || job->stderr_.fd >= 0)
                return;
        line_end(&job->lines, result_line, &job->result);
        complaints_end(&job->complaints);
        job->result.bytes_sent = files_job_bytes(job);
        int r = complaints_judge(&job->complaints, job->status, job->live, &err);
        job->done(job, &job->result, r < 0 ? &err : NULL, job->context);
}

static void on_output(int fd, uint32_t events, void *context)
{
        struct files_job *job = context;
        struct output *o = fd == job->statistics.fd ? &job->statistics : &job->stderr_;
        char data[4096];

        (void)events;
        ssize_t n = read(fd, data, sizeof(data));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        if (n <= 0) {
                output_close(o);
                finish_if_over(job);
        } else if (o == &job->statistics) {
                line_feed(&job->lines, data, (size_t)n, result_line, &job->result);
        } else {
                complaints_feed(&job->complaints, data, (size_t)n);
        }
}

static void on_child(pid_t pid, int status, void *context)
{
        struct files_job *job = context;

        /* Whatever its end left behind must not go on writing, nor hold the pipes open. */
        (void)kill(-pid, SIGKILL);
        job->pid = -1;
        job->status = status;
        job->ended = true;
        finish_if_over(job);
}

static int watch(struct files_job *job, struct error *err)
{
        int r = loop_add_child(job->loop, job->pid, on_child, job, &job->child);

        if (r == 0 && job->statistics.fd >= 0)
                r = loop_add_io(job->loop, job->statistics.fd, EPOLLIN, on_output, job, &job->statistics.source);
        if (r == 0)
                r = loop_add_io(job->loop, job->stderr_.fd, EPOLLIN, on_output, job, &job->stderr_.source);
        return r < 0 ? error_errno(err, -r, "cannot watch the copying of files") : 0;
}

static int job_new(struct loop *loop, enum files_round round, files_done_fn done, void *context, struct files_job **ret,
                   struct error *err)
{
        struct files_job *job = calloc(1, sizeof(*job));

        if (!job)
                return error_set(err, ENOMEM, "cannot copy files: out of memory");
        job->loop = loop;
        job->live = round != FILES_FINAL;
        job->done = done;
        job->context = context;
        job->pid = job->control = job->also = job->statistics.fd = job->stderr_.fd = -1;
        *ret = job;
        return 0;
}

static int output_open(struct output *o, int *ret_write, struct error *err)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        o->fd = fds[0];
        *ret_write = fds[1];
        return fd_nonblock(o->fd) < 0 ? error_errno(err, errno, "cannot make a pipe") : 0;
}

static int open_tree_root(const char *path, struct error *err)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? error_errno(err, errno, "cannot open %s", path) : fd;
}

/* rsync expects a stream that waits. */
static int block(int fd, struct error *err)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
                return error_errno(err, errno, "cannot use the stream for files");
        return 0;
}

static int start(struct files_job *job, const char *const *argv, const struct spawn_fd *fds, size_t n_fds,
                 struct error *err)
{
        const struct spawn_options options = {
                .argv = argv,
                .fds = fds,
                .n_fds = n_fds,
                .new_session = true,
                .die_with_parent = true,
        };

        int r = spawn(&options, &job->pid, NULL, err);
        return r < 0 ? r : watch(job, err);
}

/* Shared memory for counters, and the file of names. */
static int share(struct files_job *job, int *ret_counters, struct error *err)
{
        AUTO_FD int fd = memfd_create("phaul-counters", MFD_CLOEXEC);

        if (fd < 0 || ftruncate(fd, sizeof(*job->counters)) < 0)
                return error_errno(err, errno, "cannot make shared memory");
        void *memory = mmap(NULL, sizeof(*job->counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
                return error_errno(err, errno, "cannot make shared memory");
        job->counters = memory;
        job->also = memfd_create("phaul-also", MFD_CLOEXEC);
        if (job->also < 0)
                return error_errno(err, errno, "cannot make shared memory");
        *ret_counters = TAKE_FD(fd);
        return 0;
}

static int send_start(struct files_job *job, const struct files_send_options *o, int stream, struct error *err)
{
        char tree[PATH_MAX], shell[PATH_MAX], limit[24], sec[24], nsec[24], offset[24];
        int control[2];
        AUTO_FD int root = -1, counters = -1, program = -1, out = -1, complaints = -1;

        if (tool_path("phaul-tree", tree, sizeof(tree)) < 0 || tool_path("phaul-rsh", shell, sizeof(shell)) < 0)
                return error_set(err, ENAMETOOLONG, "cannot copy files: the path of phaul's programs is too long");
        root = open_tree_root(o->path, err);
        if (root < 0)
                return root;
        program = open(shell, O_PATH | O_CLOEXEC);
        if (program < 0)
                return error_errno(err, errno, "cannot open %s", shell);
        int r = share(job, &counters, err);
        if (r == 0)
                r = output_open(&job->statistics, &out, err);
        if (r == 0)
                r = output_open(&job->stderr_, &complaints, err);
        if (r < 0)
                return r;
        if (pipe2(control, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        AUTO_FD int control_read = control[0];
        job->control = control[1];
        if (o->also && (r = files_send_also(job, o->also)) < 0)
                return error_errno(err, -r, "cannot hand over the names of mapped files");

        (void)snprintf(limit, sizeof(limit), "%" PRIu64, o->bytes_per_second);
        (void)snprintf(sec, sizeof(sec), "%" PRId64, (int64_t)o->since.change.tv_sec);
        (void)snprintf(nsec, sizeof(nsec), "%ld", o->since.change.tv_nsec);
        (void)snprintf(offset, sizeof(offset), "%" PRId64, o->since.wall_minus_monotonic_ns);
        const char *const argv[] = {tree,   "send", o->round == FILES_FULL ? "full" : "changed", limit, sec, nsec,
                                    offset, NULL};
        const struct spawn_fd fds[] = {
                {out, 1},
                {complaints, 2},
                {root, TREE_FD_TREE},
                {stream, TREE_FD_STREAM},
                {counters, TREE_FD_COUNTERS},
                {program, TREE_FD_PROGRAM},
                {control_read, TREE_FD_CONTROL},
                {job->also, TREE_FD_ALSO},
        };
        return start(job, argv, fds, sizeof(fds) / sizeof(fds[0]), err);
}

int files_send(struct loop *loop, const struct files_send_options *options, int stream_fd, files_done_fn done,
               void *context, struct files_job **ret, struct error *err)
{
        CLEANUP(files_job_free_ptr) struct files_job *job = NULL;
        AUTO_FD int stream = stream_fd;

        int r = block(stream, err);
        if (r == 0)
                r = job_new(loop, options->round, done, context, &job, err);
        if (r == 0)
                r = send_start(job, options, stream, err);
        if (r < 0)
                return r;
        if (options->round == FILES_CHANGED && (r = files_send_go(job)) < 0)
                return error_errno(err, -r, "cannot start copying files");
        *ret = TAKE_PTR(job);
        return 0;
}

int files_send_go(struct files_job *job)
{
        if (job->control < 0)
                return -EALREADY;
        int r = fd_write_all(job->control, "g", 1);
        (void)close(TAKE_FD(job->control));
        /* A sender that has died already says why through `done`. */
        return r == -EPIPE ? 0 : r;
}

int files_send_also(struct files_job *job, const char *const *also)
{
        size_t total = 0;

        if (job->also < 0 || job->control < 0)
                return -EINVAL;
        for (size_t i = 0; also[i]; i++)
                total += strlen(also[i]) + 1;
        if (total > ALSO_MAX)
                return -E2BIG;
        if (ftruncate(job->also, 0) < 0 || lseek(job->also, 0, SEEK_SET) < 0)
                return -errno;
        for (size_t i = 0; also[i]; i++) {
                int r = fd_write_all(job->also, also[i], strlen(also[i]) + 1);
                if (r < 0)
                        return r;
        }
        return 0;
}

uint64_t files_job_bytes(const struct files_job *job)
{
        return job->counters ? atomic_load(&job->counters->sent) : 0;
}

int files_receive(struct loop *loop, const char *path, enum files_round round, int stream_fd, files_done_fn done,
                  void *context, struct files_job **ret, struct error *err)
{
        CLEANUP(files_job_free_ptr) struct files_job *job = NULL;
        AUTO_FD int stream = stream_fd, root = -1, complaints = -1;
        char tree[PATH_MAX];

        if (tool_path("phaul-tree", tree, sizeof(tree)) < 0)
                return error_set(err, ENAMETOOLONG, "cannot copy files: the path of phaul's programs is too long");
        int r = block(stream, err);
        if (r == 0)
                r = root = open_tree_root(path, err);
        if (r >= 0)
                r = job_new(loop, round, done, context, &job, err);
        if (r == 0)
                r = output_open(&job->stderr_, &complaints, err);
        if (r < 0)
                return r;

        const char *const argv[] = {tree, "receive", round == FILES_FULL ? "full" : "changed", NULL};
        const struct spawn_fd fds[] = {{stream, 0}, {stream, 1}, {complaints, 2}, {root, TREE_FD_TREE}};
        r = start(job, argv, fds, sizeof(fds) / sizeof(fds[0]), err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(job);
        return 0;
}

void files_job_free(struct files_job *job)
{
        if (!job)
                return;
        source_free(job->child);
        output_close(&job->statistics);
        output_close(&job->stderr_);
        if (job->pid > 0) {
                kill_group(job->pid);
                while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR)
                        continue;
        }
        cleanup_fd(&job->control);
        cleanup_fd(&job->also);
        if (job->counters)
                (void)munmap(job->counters, sizeof(*job->counters));
        free(job);
}
