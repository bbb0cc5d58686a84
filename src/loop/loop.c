/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "loop/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>
#include <time.h>

struct loop {
        sd_event *event;
};

struct source {
        sd_event_source *source;
        union {
                loop_io_fn io;
                loop_timer_fn timer;
                loop_child_fn child;
                loop_signal_fn signal;
        } fn;
        void *context;
};

int loop_new(struct loop **ret)
{
        struct loop *loop = calloc(1, sizeof(*loop));

        if (!loop)
                return -ENOMEM;
        int r = sd_event_new(&loop->event);
        if (r < 0) {
                free(loop);
                return r;
        }
        *ret = loop;
        return 0;
}

void loop_free(struct loop *loop)
{
        if (!loop)
                return;
        sd_event_unref(loop->event);
        free(loop);
}

void source_free(struct source *source)
{
        if (!source)
                return;
        if (source->source) {
                (void)sd_event_source_set_enabled(source->source, SD_EVENT_OFF);
                sd_event_source_unref(source->source);
        }
        free(source);
}

static struct source *source_new(void *context)
{
        struct source *s = calloc(1, sizeof(*s));

        if (s)
                s->context = context;
        return s;
}

static int source_finish(struct source *s, int r, struct source **ret)
{
        if (r < 0) {
                source_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct source *s = userdata;

        (void)source;
        s->fn.io(fd, events, s->context);
        return 0;
}

int loop_add_io(struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *context, struct source **ret)
{
        struct source *s = source_new(context);

        if (!s)
                return -ENOMEM;
        s->fn.io = fn;
        return source_finish(s, sd_event_add_io(loop->event, &s->source, fd, events, on_io, s), ret);
}

int source_set_events(struct source *source, uint32_t events)
{
        return sd_event_source_set_io_events(source->source, events);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct source *s = userdata;

        (void)source;
        (void)usec;
        s->fn.timer(s->context);
        return 0;
}

int loop_add_timer(struct loop *loop, uint64_t after_ms, loop_timer_fn fn, void *context, struct source **ret)
{
        struct source *s = source_new(context);

        if (!s)
                return -ENOMEM;
        s->fn.timer = fn;
        return source_finish(
                s,
                sd_event_add_time_relative(loop->event, &s->source, CLOCK_MONOTONIC, after_ms * 1000, 1, on_timer, s),
                ret);
}

int source_set_timer(struct source *source, uint64_t after_ms)
{
        int r = sd_event_source_set_time_relative(source->source, after_ms * 1000);

        return r < 0 ? r : sd_event_source_set_enabled(source->source, SD_EVENT_ONESHOT);
}

static int on_child(sd_event_source *source, const siginfo_t *info, void *userdata)
{
        struct source *s = userdata;
        int status = info->si_code == CLD_EXITED ? (info->si_status & 0xff) << 8
                                                 : info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);

        (void)source;
        s->fn.child(info->si_pid, status, s->context);
        return 0;
}

int loop_add_child(struct loop *loop, pid_t pid, loop_child_fn fn, void *context, struct source **ret)
{
        struct source *s = source_new(context);
        sigset_t mask;

        if (!s)
                return -ENOMEM;
        /* sd-event watches children by pidfd, yet insists on SIGCHLD being blocked. */
        (void)sigemptyset(&mask);
        (void)sigaddset(&mask, SIGCHLD);
        (void)sigprocmask(SIG_BLOCK, &mask, NULL);
        s->fn.child = fn;
        return source_finish(s, sd_event_add_child(loop->event, &s->source, pid, WEXITED, on_child, s), ret);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
        struct source *s = userdata;

        (void)source;
        s->fn.signal((int)info->ssi_signo, s->context);
        return 0;
}

int loop_add_signal(struct loop *loop, int signal, loop_signal_fn fn, void *context, struct source **ret)
{
        struct source *s = source_new(context);
        sigset_t mask;

        if (!s)
                return -ENOMEM;
        (void)sigemptyset(&mask);
        (void)sigaddset(&mask, signal);
        (void)sigprocmask(SIG_BLOCK, &mask, NULL);
        s->fn.signal = fn;
        return source_finish(s, sd_event_add_signal(loop->event, &s->source, signal, on_signal, s), ret);
}

int loop_run_once(struct loop *loop, int timeout_ms)
{
        int r = sd_event_run(loop->event, timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000);

        return r < 0 && r != -EINTR ? r : 0;
}
