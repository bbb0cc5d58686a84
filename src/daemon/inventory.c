/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/inventory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/name.h"
#include "daemon/processes.h"

#define KINDS_MAX 16

/* One child that asks one hauler (NULL: /proc). */
struct question {
        struct inventory *inventory;
        const struct hauler *hauler;
        pid_t pid;
        int fd;
        struct source *io;
        char *text;
        size_t size, room;
        bool open;
        json_t *answer;
};

struct inventory {
        struct loop *loop;
        struct source *limit;
        struct question questions[KINDS_MAX];
        size_t n;
        char host[NAME_MAX_LENGTH + 1];
        inventory_done_fn done;
        void *context;
};

/* The children keep nothing of phauld but the pipe: they may hang, and must then hold no socket of ours open. */
static _Noreturn void ask(const struct hauler *hauler, int fd)
{
        struct error err = {0};
        json_t *list = NULL, *answer;
        sigset_t none;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)setsid();
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (dup2(fd, 3) == 3)
                (void)close_range(4, ~0U, 0);
        if (!hauler)
                list = processes_list("/proc");
        else if (hauler->list(&list, &err) < 0)
                list = NULL;
        answer = list ? json_pack("{s:o}", "list", list)
                      : json_pack("{s:s}", "error", err.kind != ERROR_NONE ? err.text : "no answer");
        AUTO_FREE char *text = answer ? json_dumps(answer, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        if (text)
                (void)fd_write_all(3, text, strlen(text));
        _exit(0);
}

static void question_end(struct question *q, bool kill_it)
{
        source_free(TAKE_PTR(q->io));
        if (q->fd >= 0)
                (void)close(TAKE_FD(q->fd));
        if (q->pid > 0) {
                /* Its whole session: a hauler may have started a helper that hangs. */
                if (kill_it) {
                        (void)kill(-q->pid, SIGKILL);
                        (void)kill(q->pid, SIGKILL);
                }
                while (waitpid(q->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
                q->pid = 0;
        }
        q->open = false;
}

void inventory_free(struct inventory *inventory)
{
        if (!inventory)
                return;
        source_free(inventory->limit);
        for (size_t i = 0; i < inventory->n; i++) {
                question_end(&inventory->questions[i], true);
                free(inventory->questions[i].text);
                json_decref(inventory->questions[i].answer);
        }
        free(inventory);
}

static void warn(json_t *warnings, const struct question *q, const char *text)
{
        (void)json_array_append_new(warnings, json_sprintf("%s: %s", q->hauler ? q->hauler->label : "processes", text));
}

static void add_workloads(json_t *workloads, const struct question *q, json_t *list)
{
        json_t *w;
        size_t i;

        json_array_foreach(list, i, w)
        {
                const char *id = json_string_value(json_object_get(w, "id"));
                if (!name_is_valid(id))
                        continue;
                (void)json_object_set_new(w, "kind", json_string(q->hauler->kind));
                (void)json_object_set_new(w, "label", json_string(q->hauler->label));
                (void)json_array_append(workloads, w);
        }
}

static json_t *merge(struct inventory *v)
{
        json_t *workloads = json_array(), *warnings = json_array(), *processes = json_array();

        for (size_t i = 0; i < v->n; i++) {
                struct question *q = &v->questions[i];
                const char *text = json_string_value(json_object_get(q->answer, "error"));
                json_t *list = json_object_get(q->answer, "list");
                if (!q->answer)
                        warn(warnings, q, "did not answer in time");
                else if (text)
                        warn(warnings, q, text);
                else if (q->hauler)
                        add_workloads(workloads, q, list);
                else
                        (void)json_array_extend(processes, list);
        }
        json_t *rest = processes_group(processes, workloads);
        json_decref(processes);
        return json_pack("{s:s, s:o, s:o, s:o}", "host", v->host, "workloads", workloads, "processes", rest, "warnings",
                         warnings);
}

static void finish(struct inventory *v)
{
        inventory_done_fn done = v->done;
        void *context = v->context;
        json_t *result = merge(v);

        inventory_free(v);
        done(result, context);
}

static void finish_if_complete(struct inventory *v)
{
        for (size_t i = 0; i < v->n; i++)
                if (v->questions[i].open)
                        return;
        finish(v);
}

static void on_limit(void *context)
{
        finish(context);
}

static void on_output(int fd, uint32_t events, void *context)
{
        struct question *q = context;

        (void)events;
        if (q->room - q->size < 65536) {
                size_t room = q->room ? q->room * 2 : 131072;
                char *grown = room <= INVENTORY_BYTES_MAX ? realloc(q->text, room) : NULL;
                if (!grown) {
                        question_end(q, true);
                        finish_if_complete(q->inventory);
                        return;
                }
                q->text = grown;
                q->room = room;
        }
        ssize_t n = read(fd, q->text + q->size, q->room - q->size);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        if (n > 0) {
                q->size += (size_t)n;
                return;
        }
        q->answer = json_loadb(q->text ? q->text : "", q->size, JSON_REJECT_DUPLICATES, NULL);
        question_end(q, true);
        finish_if_complete(q->inventory);
}

static int start_question(struct inventory *v, const struct hauler *hauler, struct error *err)
{
        struct question *q = &v->questions[v->n];
        int pipe_fds[2];

        if (v->n == KINDS_MAX)
                return error_set(err, E2BIG, "too many kinds of workload");
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot ask for workloads");
        AUTO_FD int write_end = pipe_fds[1];
        *q = (struct question){.inventory = v, .hauler = hauler, .fd = pipe_fds[0], .open = true};
        v->n++;
        q->pid = fork();
        if (q->pid == 0)
                ask(hauler, write_end);
        if (q->pid < 0)
                return error_errno(err, errno, "cannot ask for workloads");
        (void)fd_nonblock(q->fd);
        int r = loop_add_io(v->loop, q->fd, EPOLLIN, on_output, q, &q->io);
        return r < 0 ? error_errno(err, -r, "cannot ask for workloads") : 0;
}

int inventory_start(struct loop *loop, const struct hauler *const *kinds, const char *host, const char *kind,
                    inventory_done_fn done, void *context, struct inventory **ret, struct error *err)
{
        CLEANUP(inventory_free_ptr) struct inventory *v = calloc(1, sizeof(*v));
        bool known = !kind || strcmp(kind, "pid") == 0;
        int r = 0;

        if (!v)
                return error_set(err, ENOMEM, "out of memory");
        v->loop = loop;
        v->done = done;
        v->context = context;
        (void)snprintf(v->host, sizeof(v->host), "%s", host);
        for (size_t i = 0; r == 0 && kinds[i]; i++)
                if (!kind || strcmp(kind, kinds[i]->kind) == 0) {
                        known = true;
                        if (kinds[i]->list)
                                r = start_question(v, kinds[i], err);
                }
        if (!known) {
                char quoted[64];
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a kind of workload known here",
                                      name_quote(kind, quoted, sizeof(quoted)));
        }
        if (r == 0)
                r = start_question(v, NULL, err);
        if (r == 0) {
                r = loop_add_timer(loop, INVENTORY_LIMIT_MS, on_limit, v, &v->limit);
                if (r < 0)
                        r = error_errno(err, -r, "cannot ask for workloads");
        }
        if (r < 0)
                return r;
        struct inventory *started = TAKE_PTR(v);
        if (ret)
                *ret = started;
        return 0;
}
