/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The hauler by hand, one hook after the other, for trying it on real containers. Never installed.
 *
 *      lxc-hauler-tool list
 *      lxc-hauler-tool source NAME                               the description, on standard output
 *      lxc-hauler-tool dump NAME IMAGES                          by CRIU, which leaves the tasks dead
 *      lxc-hauler-tool release NAME DIRECTORY
 *      lxc-hauler-tool target NAME DESCRIPTION IMAGES SOCKET RECORD
 *                     then lines of standard input: verify prepare restore ports attach publish go no alive wait
 *      lxc-hauler-tool discard WHAT NAME
 *      lxc-hauler-tool record FILE WORD                          append to a record file, made when there is none
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "haulers/hauler.h"
#include "migration/journal.h"
#include "network/network.h"

struct progress {
        bool held, done;
        struct error err;
};

static void print_finding(const char *item, enum grade grade, const char *reason, void *context)
{
        (void)context;
        (void)fprintf(stderr, "%s: %s: %s\n", grade_name(grade), item, reason);
}

static int print_leftover(const char *what, const char *name, void *context, struct error *err)
{
        (void)context;
        (void)err;
        (void)printf("leftover %s %s\n", what, name);
        (void)fflush(stdout);
        return 0;
}

static int complain(const char *what, int r, const struct error *err)
{
        if (r < 0)
                (void)fprintf(stderr, "%s: %d (%s) %s\n", what, r, error_kind_name(err->kind), err->text);
        return r < 0 ? 1 : 0;
}

static void held(struct hauler_restore *r, void *context)
{
        (void)r;
        ((struct progress *)context)->held = true;
}

static void restore_done(struct hauler_restore *r, const struct error *err, void *context)
{
        struct progress *progress = context;

        (void)r;
        progress->done = true;
        progress->err = *err;
}

static void dump_notify(struct criu *criu, const char *point, void *context)
{
        (void)context;
        (void)fprintf(stderr, "criu: %s\n", point);
        (void)criu_proceed(criu, true);
}

static void dump_done(struct criu *criu, const struct error *err, void *context)
{
        restore_done(NULL, err, context);
        (void)criu;
}

static int source(const struct hauler *h, char **argv, struct error *err)
{
        struct workload w = {0};

        int r = complain("examine", h->examine(argv[2], &w, print_finding, NULL, err), err);
        if (r == 0) {
                for (size_t i = 0; i < w.n_trees; i++)
                        (void)fprintf(stderr, "tree %s %s\n", w.trees[i].label, w.trees[i].source);
                (void)fprintf(stderr, "init %d freezer %s v%d memory %llu\n", (int)w.init_pid, w.freezer,
                              w.freezer_v2 ? 2 : 1, (unsigned long long)w.memory_bytes);
                (void)puts(w.description);
        }
        workload_done(&w);
        return r;
}

static int dump(const struct hauler *h, char **argv, struct error *err)
{
        static const struct criu_handlers handlers = {.notify = dump_notify, .done = dump_done};
        struct criu_dump_options options = {.page_server_fd = -1,
                                            .clean_pages_fd = -1,
                                            .late_pages_fd = -1,
                                            .log_file = "dump.log",
                                            .skip_network_lock = true};
        struct progress progress = {0};
        struct workload w = {0};
        struct loop *loop = NULL;
        struct criu *criu = NULL;

        int r = complain("examine", h->examine(argv[2], &w, print_finding, NULL, err), err);
        AUTO_FD int images = r == 0 && fd_mkdir_p(argv[3], 0700) == 0 ? open(argv[3], O_RDONLY | O_DIRECTORY) : -1;
        options.images_fd = options.work_fd = images;
        if (r == 0)
                r = complain("options", h->dump_options(&w, &options, err), err);
        if (r == 0 && loop_new(&loop) == 0)
                r = complain("dump", criu_dump(loop, &options, &handlers, &progress, &criu, err), err);
        while (r == 0 && !progress.done)
                (void)loop_run_once(loop, -1);
        if (r == 0 && progress.err.kind)
                r = complain("criu", -EIO, &progress.err);
        criu_free(criu);
        loop_free(loop);
        workload_done(&w);
        return r;
}

static int release(const struct hauler *h, char **argv, struct error *err)
{
        struct workload w = {0};

        /* examine() refuses a stopped container: what the engine knows from before is read while it still runs */
        int r = complain("examine", h->examine(argv[2], &w, print_finding, NULL, err), err);
        if (r == 0) {
                (void)fprintf(stderr, "examined; kill it and press return\n");
                (void)getchar();
                uint64_t start = clock_ms();
                r = complain("release", h->release(&w, argv[3], err), err);
                r = r ? r : complain("release again", h->release(&w, argv[3], err), err);
                (void)fprintf(stderr, "released in %d ms\n", (int)(clock_ms() - start));
        }
        workload_done(&w);
        return r;
}

static int run_until(struct loop *loop, const bool *flag, const struct progress *progress)
{
        uint64_t deadline = clock_ms() + 20000;

        while (!*flag && !progress->done && clock_ms() < deadline)
                (void)loop_run_once(loop, 100);
        return *flag ? 0 : -ETIMEDOUT;
}

static int step(const struct hauler *h, const char *word, char **argv, struct loop *loop, struct workload *w,
                struct hauler_restore **restore, struct progress *progress, struct error *err)
{
        static const struct hauler_restore_handlers handlers = {.held = held, .done = restore_done};
        static struct hauler_port ports[16];
        static int n_ports;
        int r = 0;

        if (strcmp(word, "verify") == 0) {
                AUTO_FREE char *description = NULL;
                r = fd_read_file(AT_FDCWD, argv[3], 1 << 20, &description, NULL);
                if (r == 0)
                        r = h->verify(argv[2], description, w, print_finding, NULL, err);
                for (size_t i = 0; r == 0 && i < w->n_trees; i++)
                        (void)printf("tree %s %s\n", w->trees[i].label, w->trees[i].target);
        } else if (strcmp(word, "prepare") == 0) {
                r = h->prepare(w, print_leftover, NULL, err);
        } else if (strcmp(word, "restore") == 0) {
                r = h->restore(loop, w, argv[4], argv[5], argv[6], &handlers, progress, restore, err);
                if (r == 0)
                        r = run_until(loop, &progress->held, progress);
                if (progress->done)
                        r = complain("restore", -EIO, &progress->err);
                else
                        (void)printf("held %d\n", (int)w->init_pid);
        } else if (strcmp(word, "ports") == 0) {
                r = n_ports = h->ports(w, ports, 16, err);
                for (int i = 0; i < n_ports; i++)
                        (void)printf("port %s on %s\n", ports[i].outside, ports[i].bridge);
        } else if (strcmp(word, "attach") == 0) {
                for (int i = 0; r >= 0 && i < n_ports; i++)
                        r = network_attach(ports[i].outside, ports[i].bridge, err);
                if (r >= 0)
                        r = network_announce(w->init_pid, err);
        } else if (strcmp(word, "publish") == 0) {
                r = h->publish(w, err);
        } else if (strcmp(word, "go") == 0 || strcmp(word, "no") == 0) {
                r = h->restore_verdict(*restore, strcmp(word, "go") == 0);
        } else if (strcmp(word, "wait") == 0) {
                r = run_until(loop, &progress->done, progress);
                (void)printf("done: %s %s\n", error_kind_name(progress->err.kind), progress->err.text);
        } else if (strcmp(word, "alive") == 0) {
                r = h->alive(w, err);
                (void)printf("alive %d\n", r);
        } else {
                r = -EINVAL;
        }
        (void)fflush(stdout);
        return complain(word, r, err);
}

static int target(const struct hauler *h, char **argv, struct error *err)
{
        struct hauler_restore *restore = NULL;
        struct progress progress = {0};
        struct workload w = {0};
        struct loop *loop = NULL;
        char word[64];
        int r = 0;

        if (loop_new(&loop) < 0)
                return 1;
        while (r == 0 && scanf("%63s", word) == 1) {
                uint64_t start = clock_us();
                r = step(h, word, argv, loop, &w, &restore, &progress, err);
                (void)fprintf(stderr, "%s took %d us\n", word, (int)(clock_us() - start));
        }
        h->restore_free(restore);
        workload_done(&w);
        loop_free(loop);
        return r;
}

static int record(char **argv, struct error *err)
{
        struct journal *journal = NULL;

        int r = journal_create(argv[2], &journal, err);
        if (r == -EEXIST)
                r = journal_open(argv[2], &journal, err);
        if (r == 0)
                r = journal_append(journal, argv[3], NULL, err);
        journal_free(journal);
        return complain("record", r, err);
}

int main(int argc, char **argv)
{
        const struct hauler *h = hauler_find("lxc");
        struct error err = {0};
        const char *verb = argc > 1 ? argv[1] : "";

        if (strcmp(verb, "list") == 0) {
                json_t *list = NULL;
                int r = complain("list", h->list(&list, &err), &err);
                if (r == 0)
                        (void)json_dumpf(list, stdout, JSON_INDENT(2));
                json_decref(list);
                return r;
        }
        if (strcmp(verb, "source") == 0 && argc == 3)
                return source(h, argv, &err);
        if (strcmp(verb, "dump") == 0 && argc == 4)
                return dump(h, argv, &err);
        if (strcmp(verb, "release") == 0 && argc == 4)
                return release(h, argv, &err);
        if (strcmp(verb, "target") == 0 && argc == 7)
                return target(h, argv, &err);
        if (strcmp(verb, "discard") == 0 && argc == 4)
                return complain("discard", h->discard(argv[2], argv[3], &err), &err);
        if (strcmp(verb, "record") == 0 && argc == 4)
                return record(argv, &err);
        (void)fprintf(stderr, "see the top of test-hauler-tool.c\n");
        return 2;
}
