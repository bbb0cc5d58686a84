/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define ANSWER_MAX (1 << 20)

static json_t *read_answer(int fd, uint64_t deadline)
{
        AUTO_FREE char *text = malloc(ANSWER_MAX);
        size_t used = 0;

        while (text && used < ANSWER_MAX) {
                uint64_t now = clock_ms();
                struct pollfd p = {.fd = fd, .events = POLLIN};

                if (now >= deadline)
                        return NULL;
                int r = poll(&p, 1, (int)(deadline - now));
                if (r < 0 && errno != EINTR)
                        return NULL;
                if (r <= 0)
                        continue;
                ssize_t n = read(fd, text + used, ANSWER_MAX - used);
                if (n < 0 && errno != EINTR)
                        return NULL;
                if (n == 0)
                        return json_loadb(text, used, 0, NULL);
                if (n > 0)
                        used += (size_t)n;
        }
        return NULL;
}

json_t *guarded(int timeout_ms, guarded_fn fn, void *context)
{
        uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return NULL;
        AUTO_FD int in = fds[0];
        AUTO_FD int out = fds[1];

        pid_t pid = fork();
        if (pid < 0)
                return NULL;
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                json_t *answer = fn(context);
                char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
                int r = text ? fd_write_all(out, text, strlen(text)) : -1;
                _exit(r < 0 ? 1 : 0);
        }
        (void)close(TAKE_FD(out));
        json_t *answer = read_answer(in, deadline);
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        return answer;
}

json_t *ask_state(void *name)
{
        struct lxc_container *c = lxc_container_new(name, lxc_path());

        if (!c)
                return NULL;
        const char *state = c->state(c);
        pid_t pid = c->init_pid(c);
        json_t *answer = json_object();
        AUTO_FREE char *text = strdup(state ? state : "unknown");
        for (char *p = text; p && *p; p++)
                if (*p >= 'A' && *p <= 'Z')
                        *p = (char)(*p - 'A' + 'a');
        if (!answer || !text || json_object_set_new(answer, "id", json_string(name)) < 0 ||
            json_object_set_new(answer, "state", json_string(text)) < 0 ||
            json_object_set_new(answer, "init_pid", json_integer(pid > 0 ? pid : 0)) < 0) {
                json_decref(answer);
                answer = NULL;
        }
        (void)lxc_container_put(c);
        return answer;
}
