/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process that handles one tree in one round, on either side: enters its room, agrees with the other end on what
 * changed (not in a full round), and lets rsync do the copying.
 *
 *   phaul-tree send full|changed LIMIT SECONDS NANOSECONDS OFFSET
 *   phaul-tree receive full|changed
 *
 * Descriptors are those of tree-fds.h. Errors go to standard error, one line each; the exit code is rsync's, or
 * TREE_EXIT_OWN for what failed here.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "files/catalogue.h"
#include "files/changes.h"
#include "files/counters.h"
#include "files/mark.h"
#include "files/room.h"
#include "files/rsync-args.h"
#include "files/tree-fds.h"

struct sender {
        struct files_mark since;
        uint64_t limit;
        pid_t rsync;
        int list; /* rsync reads its list from the other end */
        int gate; /* one byte lets phaul-rsh begin */
};

static int complain(const struct error *err)
{
        (void)fprintf(stderr, "%s\n", err->text);
        return TREE_EXIT_OWN;
}

static int enter(bool writable, bool full, struct error *err)
{
        const struct room_options options = {
                .tree_fd = TREE_FD_TREE,
                .program_fd = writable ? -1 : TREE_FD_PROGRAM,
                .writable = writable,
                .hurry = !full,
        };

        int r = room_enter(&options, err);
        (void)close(TREE_FD_TREE);
        if (!writable)
                (void)close(TREE_FD_PROGRAM);
        return r;
}

static int open_tree_dir(struct error *err)
{
        int fd = open(ROOM_TREE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? error_errno(err, errno, "cannot open the tree") : fd;
}

static void no_pipe_signal(bool ignore)
{
        (void)signal(SIGPIPE, ignore ? SIG_IGN : SIG_DFL);
}

static int execute(const char *const *argv)
{
        struct error err = {0};

        no_pipe_signal(false);
        (void)execvp(argv[0], (char *const *)argv);
        (void)error_errno(&err, errno, "cannot execute %s", argv[0]);
        return complain(&err);
}

static int receive(bool full)
{
        struct error err = {0};
        enum rsync_mode mode = RSYNC_FULL;

        if (enter(true, full, &err) < 0)
                return complain(&err);
        if (!full) {
                AUTO_FD int root = open_tree_dir(&err);
                int r = root < 0 ? root : catalogue_receive(0, root, &err);
                if (r < 0)
                        return complain(&err);
                mode = r == 'C' ? RSYNC_CHECKSUM : RSYNC_LIST;
                if (chdir("/") < 0)
                        return TREE_EXIT_OWN;
        }
        return execute(rsync_server_args(mode));
}

/* rsync up to its first wait for the other end; everything expensive about starting it is done then. */
static int start_rsync(struct sender *s, enum rsync_mode mode, struct error *err)
{
        struct rsync_client client;
        int list[2], gate[2];
        char shell[64];

        if (pipe2(list, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        AUTO_FD int list_read = list[0];
        AUTO_FD int list_write = list[1];
        if (pipe2(gate, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot make a pipe");
        AUTO_FD int gate_read = gate[0];
        AUTO_FD int gate_write = gate[1];

        pid_t parent = getpid(), pid = fork();
        if (pid < 0)
                return error_errno(err, errno, "cannot start rsync");
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent || dup2(list_read, 0) < 0 || fd_cloexec(gate_read, false) < 0)
                        _exit(TREE_EXIT_OWN);
                (void)close(TREE_FD_CONTROL);
                (void)close(TREE_FD_ALSO);
                (void)snprintf(shell, sizeof(shell), ROOM_PROGRAM " %d %d %d", TREE_FD_STREAM, TREE_FD_COUNTERS,
                               gate_read);
                rsync_client_args(&client, mode, shell, s->limit);
                _exit(execute(client.argv));
        }
        s->rsync = pid;
        s->list = TAKE_FD(list_write);
        s->gate = TAKE_FD(gate_write);
        return 0;
}

static int wait_rsync(struct sender *s)
{
        int status;

        while (waitpid(s->rsync, &status, 0) < 0)
                if (errno != EINTR)
                        return TREE_EXIT_OWN;
        s->rsync = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 20;
}

static void stop_rsync(struct sender *s)
{
        if (s->rsync > 0) {
                (void)kill(s->rsync, SIGKILL);
                (void)wait_rsync(s);
        }
        cleanup_fd(&s->list);
        cleanup_fd(&s->gate);
        s->list = s->gate = -1;
}

static int agree(struct sender *s, struct changes *ret, struct error *err)
{
        struct stat st;
        const char *also = "";

        AUTO_FD int root = open_tree_dir(err);
        if (root < 0)
                return root;
        if (fstat(TREE_FD_ALSO, &st) < 0)
                return error_errno(err, errno, "cannot read the list of mapped files");
        if (st.st_size > 0) {
                also = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, TREE_FD_ALSO, 0);
                if (also == MAP_FAILED)
                        return error_errno(err, errno, "cannot read the list of mapped files");
        }
        bool everything = mark_is_void(&s->since);
        if (everything) {
                stop_rsync(s);
                int r = start_rsync(s, RSYNC_CHECKSUM, err);
                if (r < 0)
                        return r;
                (void)printf("%s\n", TREE_NOTE_VOID);
        }
        return changes_exchange(TREE_FD_STREAM, root, &s->since, everything, also, (size_t)st.st_size, ret, err);
}

static void count(uint64_t bytes)
{
        struct files_counters *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, TREE_FD_COUNTERS, 0);

        if (c != MAP_FAILED)
                (void)atomic_fetch_add(&c->sent, bytes);
}

static int send_changed(struct sender *s)
{
        struct error err = {0};
        struct changes changes = {0};
        char byte;

        no_pipe_signal(true);
        if (start_rsync(s, RSYNC_LIST, &err) < 0)
                return complain(&err);
        if (fd_read_full(TREE_FD_CONTROL, &byte, 1) != 1) {
                stop_rsync(s); /* nobody waits for us any more */
                return TREE_EXIT_OWN;
        }
        if (agree(s, &changes, &err) < 0) {
                stop_rsync(s);
                return complain(&err);
        }
        count(changes.written);
        (void)printf("%s%" PRIu64 "\n", TREE_NOTE_DELETED, changes.deleted);
        (void)fflush(stdout);

        /* Failures to write are rsync's end, which its exit code explains. */
        (void)fd_write_all(s->gate, "", 1);
        (void)close(TREE_FD_STREAM);
        (void)fd_write_all(s->list, changes.list, changes.size);
        (void)close(TAKE_FD(s->list));
        int code = wait_rsync(s);
        changes_clear(&changes);
        stop_rsync(s);
        return code;
}

static int send_full(struct sender *s)
{
        struct rsync_client client;
        char shell[64];

        (void)snprintf(shell, sizeof(shell), ROOM_PROGRAM " %d %d -", TREE_FD_STREAM, TREE_FD_COUNTERS);
        rsync_client_args(&client, RSYNC_FULL, shell, s->limit);
        return execute(client.argv);
}

static int send_tree(bool full, char **argv)
{
        struct sender s = {.rsync = -1, .list = -1, .gate = -1};
        struct error err = {0};

        s.limit = strtoull(argv[0], NULL, 10);
        s.since.change.tv_sec = (time_t)strtoll(argv[1], NULL, 10);
        s.since.change.tv_nsec = strtol(argv[2], NULL, 10);
        s.since.wall_minus_monotonic_ns = strtoll(argv[3], NULL, 10);
        if (enter(false, full, &err) < 0)
                return complain(&err);
        return full ? send_full(&s) : send_changed(&s);
}

static int run(int argc, char **argv)
{
        bool full = argc > 2 && strcmp(argv[2], "full") == 0;

        if (argc == 7 && strcmp(argv[1], "send") == 0)
                return send_tree(full, argv + 3);
        if (argc == 3 && strcmp(argv[1], "receive") == 0)
                return receive(full);
        (void)fprintf(stderr, "phaul-tree is run by phaul\n");
        return TREE_EXIT_OWN;
}

int main(int argc, char **argv)
{
        int code = run(argc, argv);

        /* Nothing that runs at an ordinary exit is needed, and some of it (leak checkers) wants a /proc. */
        (void)fflush(stdout);
        _exit(code);
}
